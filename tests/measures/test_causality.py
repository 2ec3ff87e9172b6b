"""Functions that look ahead are caught, each at its pairs of times; those that do not are let pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradient_horizon import CausalityError, check_causality

T = 9
KEY = jax.random.key(5)
XS = jax.random.normal(KEY, (T, 3), jnp.float32)


def attention(xs, allowed):
    scores = jnp.where(allowed, xs @ xs.T, -jnp.inf)
    return jax.nn.softmax(scores) @ xs


def recurrent(xs):
    def step(h, x):
        h = jnp.tanh(0.9 * h + x)
        return h, h

    return lax.scan(step, jnp.zeros(3, jnp.float32), xs)[1]


def upper(rows=T):
    return {(t, later) for t in range(rows) for later in range(t + 1, rows)}


CAUSAL = {
    "attention": lambda xs: attention(xs, jnp.tril(jnp.ones((T, T), bool))),
    "recurrent": recurrent,
    "associative scan": lambda xs: lax.associative_scan(jnp.add, xs),
    "convolution": lambda xs: jnp.stack([jnp.convolve(x, jnp.ones(4, jnp.float32))[:T] for x in xs.T], axis=1),
    "the last input alone": lambda xs: {"a": xs, "b": jnp.sum(xs, axis=1)},
}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_inputs_that_are_not_finite_are_named(bad):
    with pytest.raises(ValueError, match="xs: holds NaN or inf; allowed: finite numbers"):
        check_causality(lambda xs: xs, XS.at[2, 1].set(bad))


@pytest.mark.parametrize("name", CAUSAL)
def test_what_only_looks_back_passes(name):
    check_causality(CAUSAL[name], XS)


def ahead_by(steps):
    return {(t, t + steps) for t in range(T - steps)}


def off_by_one(xs):
    return attention(xs, jnp.tril(jnp.ones((T, T), bool), 1))


def tiny(xs):
    """Far below the rounding of y: no bit of it changes."""
    return 1.0 + 1e-12 * jnp.roll(xs, -2, 0).at[-2:].set(0)


def hidden(xs):
    """No derivative shows it."""
    return xs + (jnp.roll(xs, -1, 0).at[-1].set(0) > jnp.roll(xs, -1, 0).at[-1].set(0).mean()).astype(xs.dtype)


AHEAD = {
    "no mask": (lambda xs: attention(xs, jnp.ones((T, T), bool)), upper()),
    "a mask off by one": (off_by_one, ahead_by(1)),
    "a mean over time": (lambda xs: xs - xs.mean(axis=0, keepdims=True), upper()),
    "a shift the wrong way": (lambda xs: jnp.roll(xs, -2, 0).at[-2:].set(0), ahead_by(2)),
    "reversed": (lambda xs: xs[::-1], {(t, T - 1 - t) for t in range(T // 2)}),
    "below the rounding": (tiny, ahead_by(2)),
    "one pair": (lambda xs: xs.at[2, 1].add(xs[7, 0] * xs[7, 1]), {(2, 7)}),
    "without a gradient": (lambda xs: xs + lax.stop_gradient(jnp.roll(xs, -1, 0).at[-1].set(0)), ahead_by(1)),
    "an order": (lambda xs: jnp.argsort(xs, axis=0), None),
}


@pytest.mark.parametrize("name", AHEAD)
def test_what_looks_ahead_is_named(name):
    f, pairs = AHEAD[name]
    with pytest.raises(CausalityError, match=r"f: y_t depends on a later x_t' for \(t, t'\) = \(") as caught:
        check_causality(f, XS)
    found = {tuple(pair) for pair in caught.value.pairs.tolist()}
    assert found == pairs if pairs else found <= upper()
    assert caught.value.size.shape == (len(found),)
    assert np.all((caught.value.size > 0) & (caught.value.size <= 1))


def by_fft(xs):
    kernel = jnp.exp(-jnp.arange(T, dtype=jnp.float32))[:, None]
    return jnp.fft.irfft(jnp.fft.rfft(xs, 2 * T, axis=0) * jnp.fft.rfft(kernel, 2 * T, axis=0), 2 * T, axis=0)[:T]


def test_a_convolution_by_fft_mixes_all_times_by_rounding():
    with pytest.raises(CausalityError) as caught:
        check_causality(by_fft, XS)
    assert caught.value.size.max() < 1e-5  # some eps of float32, and log2(2 T) stages
    check_causality(by_fft, XS, tolerance=1e-5)
    with pytest.raises(CausalityError):
        check_causality(lambda xs: by_fft(xs) + 1e-4 * jnp.roll(xs, -1, 0), XS, tolerance=1e-5)


def test_tokens_batches_and_pytrees():
    tokens = jax.random.randint(KEY, (2, T), 0, 5, jnp.int32)
    embedding = jax.random.normal(KEY, (5, 3), jnp.float32)
    check_causality(lambda tokens: jnp.cumsum(embedding[tokens], axis=1), tokens, axis=1)
    check_causality(lambda tokens: jnp.cumsum(embedding[tokens], axis=-2), tokens, axis=1)
    with pytest.raises(CausalityError) as caught:
        check_causality(lambda tokens: embedding[jnp.roll(tokens, -3, 1).at[:, -3:].set(0)], tokens, axis=1)
    assert {tuple(pair) for pair in caught.value.pairs.tolist()} == ahead_by(3)
    mixed = {"flag": tokens[0] > 2, "key": jax.random.split(KEY, T), "x": XS}
    check_causality(lambda xs: jnp.cumsum(jnp.where(xs["flag"][:, None], xs["x"], 0), axis=0), mixed)
    with pytest.raises(CausalityError):
        check_causality(lambda xs: xs["flag"][::-1], mixed)


def test_a_function_with_a_rule_of_its_own_for_derivatives():
    @jax.custom_vjp
    def own(x):
        return jnp.cumsum(x, axis=0)

    own.defvjp(lambda x: (own(x), None), lambda _, g: (g,))
    check_causality(own, XS)
    own.defvjp(lambda x: (own(x), None), lambda _, g: (g[::-1],))  # looks ahead in its gradient alone
    with pytest.raises(CausalityError):
        check_causality(own, XS)


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ValueError, match=r"f: returns 8 entries along axis 0; allowed: T = 9, as xs"):
        check_causality(lambda xs: xs[1:], XS)
    with pytest.raises(ValueError, match=r"f\(xs\): shapes \[\(\)\]; allowed: arrays with one length T along axis 0"):
        check_causality(jnp.sum, XS)
    with pytest.raises(ValueError, match=r"xs: shapes .*; allowed: arrays with one length T"):
        check_causality(lambda xs: xs[0], [XS, XS[:4]])
    with pytest.raises(ValueError, match=r"f: returns values that are not finite"):
        check_causality(lambda xs: jnp.log(xs), XS)
    with pytest.raises(ValueError, match=r"f: the derivative of y_t in x_t' is not finite for \(t, t'\) = \(0, 0\)"):
        check_causality(lambda xs: jnp.where(xs > 10, jnp.sqrt(xs - 10), jnp.sqrt(xs * 0)), XS)
    with pytest.raises(ValueError, match=r"xs: every entry of an array of int32 is 1; allowed: at least two"):
        check_causality(lambda xs: xs, jnp.ones(T, jnp.int32))
    with pytest.raises(ValueError, match=r"probes: 0; allowed: a whole number of at least 1"):
        check_causality(lambda xs: xs, XS, probes=0)
    with pytest.raises(ValueError, match=r"tolerance: 2.0; allowed: from 0 to below 1"):
        check_causality(lambda xs: xs, XS, tolerance=2.0)
    with pytest.raises(TypeError, match=r"xs: is traced; allowed: arrays"):
        jax.jit(lambda xs: check_causality(lambda xs: xs, xs))(XS)
    counts = iter(range(1000))
    with pytest.raises(ValueError, match=r"f: returns different values for the same inputs"):
        check_causality(
            lambda xs: (
                xs + jax.pure_callback(lambda _: np.float32(next(counts)), jax.ShapeDtypeStruct((), "float32"), xs[0])
            ),
            XS,
        )
