"""Float64 that is asked for is float64, or refused: JAX makes float32 of it in silence, unless it is turned on."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import experiments, names
from gradient_horizon.cells import make_cell
from gradient_horizon.cells.weights import unit_weights
from gradient_horizon.numerics.arrays import available
from gradient_horizon.numerics.keys import normal
from gradient_horizon.settings.validation import checked
from gradient_horizon.tasks import make_task
from gradient_horizon.tasks.drives import digit_sequence, noise_sequence
from gradient_horizon.training import Member, TrainSpec, make_train

KEY = 0
PIXELS = np.ones((3, 4), np.float32)


def train(dtype):
    task = make_task("adding", 10)
    spec = TrainSpec(
        make_cell("tanh", 3, task.input_size),
        task,
        updates=1,
        record_every=1,
        test_size=2,
        precision=jnp.dtype(dtype).name,
    )
    scale, rate, threshold = jnp.asarray([1.0, 0.1, 1.0], dtype)
    return make_train(spec)(Member(jax.random.key(KEY), scale, rate, threshold), None).params


def task_sample(dtype):
    return make_task("adding", 10).sample(jax.random.key(KEY), None, test=False, dtype=dtype).xs


def measured(dtype):
    config = checked(
        {"hidden_size": 3, "steps": 4, "seeds": 1, "weight_scales": [1.0], "precision": jnp.dtype(dtype).name}
    )
    return experiments.measure(config, lambda _: None).largest_singular_value.values


MADE = {
    "normal": lambda dtype: normal(jax.random.key(KEY), (2,), dtype),
    "noise": lambda dtype: noise_sequence(jax.random.key(KEY), 2, 3, 1.0, dtype),
    "digits": lambda dtype: digit_sequence(jax.random.key(KEY), jnp.asarray(PIXELS), 5, dtype),
    "task": task_sample,
    "experiment": measured,
    **{
        f"weights {name}": lambda dtype, name=name: unit_weights(name, jax.random.key(KEY), 3, dtype)
        for name in names.WEIGHTS
    },
    **{
        f"{name} init": lambda dtype, name=name: make_cell(name, 3).init(jax.random.key(KEY), dtype=dtype)
        for name in names.CELLS
    },
    **{f"{name} state": lambda dtype, name=name: make_cell(name, 3).initial_state(dtype=dtype) for name in names.CELLS},
    **{
        f"{name} drawn state": lambda dtype, name=name: make_cell(name, 3).initial_state(
            jax.random.key(KEY), dtype=dtype
        )
        for name in names.CELLS
    },
}


@pytest.mark.parametrize("name", MADE)
def test_float64_is_float64_or_refused(name):
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"^dtype: float64 is not allowed; allowed: float32, or .*jax_enable_x64"):
            MADE[name](jnp.float64)
        MADE[name](jnp.float32)
    with jax.enable_x64(True):
        assert {leaf.dtype.name for leaf in jax.tree.leaves(MADE[name](jnp.float64))} == {"float64"}


def test_a_type_that_jax_has_is_given_back():
    assert available("float32") == available(jnp.float32) == np.float32
    with jax.enable_x64(True):
        assert available(np.float64) == np.float64


def test_training_in_float64_is_refused_before_anything_is_compiled():
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="dtype: float64 is not allowed"):
            train(jnp.float64)
