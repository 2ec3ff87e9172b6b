"""Arguments of the wrong kind are named in one line, before anything is computed."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import config

import gradient_horizon as gh

KEY, EYE, H, XS = jax.random.key(0), jnp.eye(2), jnp.zeros(2), jnp.ones((3, 2))
HALF: Any = 0.5
NO_FUNCTION: Any = EYE


def step(w, h, x):
    return jnp.tanh(w @ h)


def sampled(**settings):
    return gh.sample_states(step, EYE, H, steps=8, **{"count": 1, "key": KEY, **settings})


def windowed(**settings):
    return gh.finite_time_exponents(step, EYE, H, steps=8, **{"window": 2, **settings})


CALLS = {
    "transient: 2.5; allowed: a whole number": lambda: gh.transient_growth(step, EYE, H, steps=8, transient=2 + HALF),
    "samples: 1.5; allowed: a whole number of at least 0": lambda: gh.transient_growth(
        step, EYE, H, steps=8, samples=1 + HALF
    ),
    "window: 2.5; allowed: a whole number": lambda: windowed(window=2.5),
    "transient: 0.5; allowed: a whole number": lambda: windowed(transient=0.5),
    "count: 1.5; allowed: a whole number": lambda: windowed(count=1.5),
    "count: 1.25; allowed: a whole number": lambda: gh.covariant_lyapunov_vectors(
        step, EYE, H, steps=8, count=1 + HALF / 2
    ),
    "count: 2.5; allowed: a whole number of at least 1": lambda: sampled(count=2.5),
    "key: 3.0; allowed: a random key": lambda: sampled(key=3.0),
    "noise: -1.0; allowed: a number of at least 0": lambda: sampled(noise=-1.0),
    "noise: nan; allowed: a number of at least 0": lambda: sampled(noise=float("nan")),
    "starts: no floats; allowed": lambda: gh.fixed_points(step, EYE, None, jnp.ones((3, 2), int)),
    "probes: 1.5; allowed: a whole number of at least 1": lambda: gh.check_causality(lambda x: x, XS, probes=1 + HALF),
    "axis: 1.0; allowed: a whole number": lambda: gh.check_causality(lambda x: x, XS, axis=2 * HALF),
    "seed: -1; allowed: a whole number of at least 0": lambda: gh.check_causality(lambda x: x, XS, seed=-1),
    "output: .*; allowed: a function of the state": lambda: gh.log_input_gradients(
        step, EYE, H, XS, output=NO_FUNCTION
    ),
    "norms: 'frobenius'; allowed: a sequence": lambda: gh.log_input_gradients(step, EYE, H, XS, norms="frobenius"),
    "starts: one state; allowed: states with a leading axis": lambda: gh.fixed_points(step, EYE, None, jnp.ones(2)),
}


@pytest.mark.parametrize("said", CALLS)
def test_is_named_in_one_line(said, monkeypatch):
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # signatures are checked in the tests alone
    with pytest.raises(ValueError, match=f"^{said}[^\\n]*$"):
        CALLS[said]()
