"""The look at parameters against NumPy, at the ends of every dtype."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from gradient_horizon.diagnosis import parameters
from gradient_horizon.diagnosis.parameters import FINITE, INFINITE, NAN


def state(values, dtype):
    arrays = [np.zeros(2, np.float32), np.asarray(values).astype(dtype), np.arange(3)]
    looks = parameters.seen(parameters.look(parameters.no_looks(3), arrays))
    assert looks.states[0] == looks.states[2] == FINITE
    assert looks.finite == (looks.states[1] == FINITE)
    return looks.states[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])
def test_a_leaf_is_finite_infinite_or_nan_as_its_entries_are(dtype):
    dtype = jnp.dtype(dtype)
    real = np.real(np.zeros((), dtype)).dtype
    largest = float(ml_dtypes.finfo(real).max)
    full = np.full((37, 41), largest)  # their sum, and in complex numbers their absolute value, would overflow
    assert state(full, dtype) == state(-full, dtype) == FINITE
    assert state(np.full(5, float(ml_dtypes.finfo(real).smallest_subnormal)), dtype) == FINITE
    parts = (1, 1j) if dtype.kind == "c" else (1,)
    for part in parts:
        for value, expected in ((np.inf, INFINITE), (-np.inf, INFINITE), (np.nan, NAN)):
            for place in (0, 700, full.size - 1):
                one = full.ravel().astype(dtype)
                view = one if dtype.kind != "c" else np.real(one) if part == 1 else np.imag(one)
                view[place] = value
                assert state(one, dtype) == expected
    mixed = full.ravel().copy()
    mixed[3], mixed[4], mixed[1000] = np.inf, -np.inf, np.nan
    assert state(mixed, dtype) == NAN
    mixed[1000] = 1.0
    assert state(mixed, dtype) == INFINITE  # inf - inf would be NaN


def test_looks_keep_the_first_bad_call():
    looks = parameters.no_looks(2)
    for value in (1.0, 2.0, np.inf, np.nan, 3.0):
        looks = parameters.look(looks, [jnp.zeros(4, jnp.float32), jnp.full(3, value, jnp.float32)])
    assert parameters.seen(looks) == (2, [FINITE, INFINITE])


def test_a_pytree_is_taken_apart_alike_the_quick_and_the_long_way():
    jaxed, numpied = {"a": jnp.ones(2), "b": np.ones(3)}, {"a": np.ones(2), "b": jnp.ones(3)}
    first = parameters.taken_apart(jaxed)
    for params in (jaxed, numpied):
        quick, slow = parameters.taken_apart(params, first), parameters.taken_apart(params)
        assert [id(leaf) for leaf in quick.arrays] == [id(leaf) for leaf in slow.arrays]
        assert (quick.structure, quick.is_array, quick.rest) == (slow.structure, slow.is_array, slow.rest)
        assert quick.names() == slow.names() == ["params['a']", "params['b']"]
    with pytest.raises(ValueError, match="params: traced"):
        jax.jit(lambda params: parameters.taken_apart(params, first))(jaxed)
