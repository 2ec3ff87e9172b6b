"""Sums of a million terms against exact ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon.numerics import sums

T = 1_000_000


@jax.jit
def sum_of_logs(values):
    return jax.lax.scan(lambda so_far, value: (sums.add_log(so_far, value), None), sums.zero(values[0]), values)[0]


@pytest.mark.parametrize("rate", [1.3, 0.7, 1.001, 1e-30, 3e37])
def test_a_million_equal_logs_are_a_million_times_one(rate):
    rate = np.float32(rate)
    found = sum_of_logs(jnp.full(T, rate))
    exact = T * math.log(float(rate))
    assert found.total.dtype == jnp.float32
    # XLA's log is right to one unit in the last place: of a number below ½, eps / 4
    error = float(found.total.astype(jnp.float64)) + float(found.rest.astype(jnp.float64)) - exact
    assert abs(error) < T * 3.0e-8
    assert float(sums.value(found)) == pytest.approx(exact, rel=2e-7, abs=T * 3.0e-8)


def test_logs_that_cancel_leave_what_is_left():
    # 2^100 and 2^-100 in turn, each exact, and one 1.5 among them
    values = jnp.where(jnp.arange(T) % 2 == 0, 2.0**100, 2.0**-100).astype(jnp.float32)
    found = sum_of_logs(values.at[7].multiply(1.5))
    assert float(sums.value(found)) == pytest.approx(math.log(1.5), rel=1e-6)


def test_varying_terms_and_many_at_once():
    terms = np.random.default_rng(0).standard_normal((T, 3)).astype(np.float32) + np.float32(100)
    found = np.asarray(jax.jit(sums.mean)(jnp.asarray(terms)))
    np.testing.assert_allclose(found, terms.mean(axis=0, dtype=np.float64), rtol=1.2e-7)
    under_vmap = jax.jit(jax.vmap(sums.mean, 1))(jnp.asarray(terms))
    np.testing.assert_array_equal(under_vmap, found)


def test_infinities_stay():
    found = sum_of_logs(jnp.array([2.0, 0.0, 3.0, 0.0], jnp.float32))
    assert float(sums.value(found)) == -math.inf
    assert math.isnan(float(sums.value(sum_of_logs(jnp.array([2.0, jnp.nan, 3.0], jnp.float32)))))


def test_every_float_is_split_exactly():
    for dtype in ("float32", "float64"):
        info = np.finfo(dtype)
        values = np.array([1, -1, 1.5, 1.4, 1.42, info.max, info.tiny, 0, 3e-30, -7e30], dtype)
        mantissa, exponent = (np.asarray(part) for part in sums.split(jnp.asarray(values)))
        np.testing.assert_array_equal(np.ldexp(mantissa.astype("longdouble"), exponent), values.astype("longdouble"))
        assert np.all((np.abs(mantissa) >= 0.7071) & (np.abs(mantissa) <= 1.4143) | (values == 0))


def test_the_derivative_of_a_sum_of_logs():
    values = jnp.array([0.3, 2.0, 5.0])
    slope = jax.grad(lambda values: sums.value(sum_of_logs(values)))(values)
    np.testing.assert_allclose(slope, 1 / np.asarray(values), rtol=1e-14)
