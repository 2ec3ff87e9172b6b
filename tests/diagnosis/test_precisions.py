"""A watch on float64 and bfloat16 networks, and the causes that lie between two others."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradient_horizon as gh

S, T, N = 2, 12, 3
SIGNS = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # a permutation with a sign: orthogonal
V = np.array([1.0, -2.0, 0.5])


def step(params, h, x):
    return params["W"] @ h + x


def loss(params, probe):
    """The mean over sequences of v · h_T."""
    h0 = jnp.zeros(N, params["W"].dtype)
    last = jax.vmap(lambda xs: jax.lax.scan(lambda h, x: (step(params, h, x), None), h0, xs)[0])(probe)
    return jnp.mean(last @ params["v"])


def linear(scale, dtype):
    return {"W": jnp.asarray(scale * SIGNS, dtype), "v": jnp.asarray(V, dtype)}


def watched(dtype, probe=None, every=1):
    probe = np.random.default_rng(0).standard_normal((S, T, N)) if probe is None else probe
    return gh.Watch(step, jnp.asarray(probe, dtype), every, jnp.zeros(N, dtype), loss)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_networks_of_other_precisions_have_their_closed_forms_and_their_first_bad_update(dtype):
    """W = g Q: every singular value of ∂h_T/∂h_t is g^(T-t), and ∂L/∂h_t = g^(T-t) Qᵀ... v / S of each sequence.

    In bfloat16 g = 1/2 and Q, v and S are such that every product is exact, so that only the logs round, in float32.
    """
    with jax.enable_x64(dtype == "float64"):
        scale = 0.5 if dtype == "bfloat16" else 0.7
        watch = watched(dtype)
        table = watch(linear(scale, dtype), 0)
        assert table is not None
        eps = float(np.finfo(np.float64 if dtype == "float64" else np.float32).eps)
        tolerance = T * (N + 8) * eps  # each step rounds by (n + 8) eps
        assert abs(float(table.log_growth[0]) - math.log(scale)) < tolerance
        assert abs(float(table.lyapunov_exponent[0]) - math.log(scale)) < tolerance
        left = np.arange(T - 1, -1, -1)
        profile = left * math.log(scale) + math.log(np.linalg.norm(V) / math.sqrt(S))
        np.testing.assert_allclose(table.log_state_gradient_norm[0], profile, atol=tolerance)
        np.testing.assert_allclose(
            table.log_norm[0], (left[::-1] + 1) * math.log(scale) + 0.5 * math.log(N), atol=tolerance
        )
        assert math.isfinite(float(table.loss[0]))
        for update in range(1, 4):
            params = linear(scale, dtype)
            if update == 3:
                params["v"] = params["v"].at[2].set(jnp.inf)
            watch(params, update)
        assert watch.first_bad_update == 3
        assert watch.table().attrs["first_bad_parameters"] == "params['v']"
        assert watch.cause == "elsewhere"


def broken_after(probe, before, at_last):
    watch = watched(jnp.float32, probe, every=10**6)
    watch(linear(before, jnp.float32), 0)
    watch(linear(at_last, jnp.float32), 1)
    watch(jax.tree.map(lambda leaf: leaf * jnp.nan, linear(1.0, jnp.float32)), 2)
    assert watch.first_bad_update == 2
    return watch


def test_a_gradient_through_time_that_the_dtype_does_not_hold_is_an_overflow():
    """Without inputs every state is 0, and ∂L/∂h_1 = 10^(4 · 11) v: ∂L/∂W = inf · 0."""
    watch = broken_after(np.zeros((S, T, N)), 0.9, 1e4)
    row = watch.table().sel(update=1)
    assert row.loss == 0
    assert not np.isfinite(row.log_gradient_norm)
    assert abs(float(row.log_norm[-1]) - (12 * math.log(1e4) + 0.5 * math.log(3))) < 112 * (N + 8) * 2.0**-23
    assert watch.cause == "overflow"
    assert "overflows float32: it entered through the recurrence, on the way back" in watch.explain()


def test_an_explosion_that_the_loss_on_the_probe_did_not_notice_is_unclear():
    """The growth is that of the start: the gradient of the loss has not jumped."""
    watch = broken_after(None, 27.0, 27.0)
    assert watch.table().sel(update=1).horizon_kind == "exploded"
    assert watch.cause == "unclear"
    assert "the gradient of the loss was not larger than before: either the batch of that update" in watch.explain()
    assert broken_after(None, 0.9, 27.0).cause == "exploded"
