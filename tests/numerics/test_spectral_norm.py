"""The searched spectral norm is LAPACK's: at every lag, from every cell and ensemble, wherever the search starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_programs import compiled

from gradient_horizon import names
from gradient_horizon.cells import make_cell
from gradient_horizon.ensembles import blocks
from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.numerics import lapack, spectral_norm
from gradient_horizon.numerics.spectral_norm import fresh_directions, largest_singular_value

EPS = {"float32": 2.0**-23, "float64": 2.0**-52}


def search(matrix, start=None):
    fresh = fresh_directions(len(matrix), matrix.dtype)
    return largest_singular_value(matrix, fresh[1] if start is None else start, fresh[0])


def tolerance(n, dtype="float32"):
    """Of a log: half the search's own on σ², and LAPACK's and the product's rounding, some √n eps each."""
    return (0.5 * max(16, n**0.5) + 4 * n**0.5) * EPS[dtype]


def spectral_norms(step, params, h0, xs, anchor="end"):
    """By the search, and by LAPACK at every lag, along the same states."""
    trajectory = rollout(step, params, h0, xs)
    return [
        log_jacobian_norms(
            step, params, h0, xs, norms=("spectral",), method=method, anchor=anchor, trajectory=trajectory
        )["spectral"]
        for method in ("auto", "jacrev")
    ]


def rounding(n, steps, dtype="float32"):
    """Between two products of `steps` factors, and two ways to their norm."""
    return tolerance(n, dtype) + 4 * steps * EPS[dtype] * n**0.5


@pytest.mark.parametrize(
    ("cell", "anchor", "dtype"),
    [
        ("tanh", "end", "float32"),
        ("relu", "start", "float32"),
        ("lstm", "end", "float32"),
        ("gru", "start", "float32"),
        ("tanh", "end", "float64"),
        ("hard_tanh", "start", "float64"),
    ],
)
def test_every_lag_agrees_with_lapack(cell, anchor, dtype):
    made = make_cell(cell, 24, 3)
    params = made.init(jax.random.key(1), 1.2, dtype=jnp.dtype(dtype))
    h0 = made.initial_state(jax.random.key(2), dtype=jnp.dtype(dtype))
    xs = jax.random.normal(jax.random.key(3), (40, 3), jnp.float32).astype(dtype)
    found, reference = compiled(lambda params, h0, xs: spectral_norms(made.step, params, h0, xs, anchor))(
        params, h0, xs
    )
    np.testing.assert_allclose(found, reference, rtol=0, atol=rounding(made.state_size, 40, dtype))


def test_every_ensemble_agrees_with_lapack():
    made = make_cell("tanh", 33, 2)
    drawn = [
        made.init(jax.random.key(4), scale, weights) for weights in names.WEIGHTS for scale in (0.3, 1.0, 1.5, 3.0)
    ]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    xs = jax.random.normal(jax.random.key(5), (50, 2), jnp.float32)
    h0 = made.initial_state(jax.random.key(6))
    found, reference = jax.jit(jax.vmap(lambda p: spectral_norms(made.step, p, h0, xs)))(params)
    np.testing.assert_allclose(found, reference, rtol=0, atol=rounding(33, 50))


def test_leading_directions_that_swap_are_followed():
    # Diagonal factors: nothing turns one direction into another, so each lag's leader may be new to the search.
    n, steps, seeds = 40, 120, 12
    logs = 0.5 * np.random.default_rng(0).standard_normal((seeds, steps, n))
    exact = logs[:, ::-1].cumsum(axis=1)
    leaders = exact.argmax(axis=2)
    assert np.sum(leaders[:, 1:] != leaders[:, :-1]) >= 3 * seeds
    h0 = jnp.ones(n, jnp.float32)

    @jax.jit
    @jax.vmap
    def measure(factors):
        return log_jacobian_norms(lambda _, h, x: x * h, None, h0, factors, norms=("spectral",))["spectral"]

    found = measure(jnp.asarray(np.exp(logs), jnp.float32))
    np.testing.assert_allclose(found, exact.max(axis=2), rtol=0, atol=tolerance(n) + steps * EPS["float32"])


def test_a_start_that_misses_the_leading_direction_finds_it():
    n = 64
    matrix = jnp.diag(jnp.linspace(1, 2, n, dtype=jnp.float32))
    start = jnp.zeros(n, jnp.float32).at[0].set(1)
    assert abs(float(search(matrix, start).value) - 2) < 2 * tolerance(n)


jitted_search = jax.jit(search)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([(1, 1), (2, 2), (3, 5), (9, 4)]), st.integers(0, 2**31), st.floats(0, 20))
def test_any_shape_and_condition(shape, seed, decades):
    n, m = shape
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.standard_normal((n, n)))
    v, _ = np.linalg.qr(rng.standard_normal((m, m)))
    k = min(n, m)
    values = 10.0 ** -(decades * rng.random(k))
    matrix = jnp.asarray((u[:, :k] * values) @ v[:k])
    found = jitted_search(matrix)
    assert abs(np.log(float(found.value) / values.max())) < tolerance(max(n, m), "float64")


def test_equal_singular_values_are_found_at_once():
    matrix = jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((50, 50)))[0], jnp.float32)
    assert abs(float(search(3 * matrix).value) - 3) < 3 * tolerance(50)


def test_the_vector_is_the_left_singular_vector():
    matrix = np.random.default_rng(1).standard_normal((20, 20))
    u = np.linalg.svd(matrix)[0][:, 0]
    assert abs(abs(u @ np.asarray(search(jnp.asarray(matrix)).vector)) - 1) < 1e-12


def test_zero_and_what_is_not_finite():
    zero = jnp.zeros((5, 5), jnp.float32)
    assert float(search(zero).value) == 0
    assert np.isnan(float(search(zero.at[2, 3].set(jnp.nan)).value))


def test_lapack_decides_where_the_search_is_cut_short(monkeypatch):
    monkeypatch.setattr(spectral_norm, "MOST_STEPS", 1)
    matrices = jnp.asarray(np.random.default_rng(2).standard_normal((7, 30, 30)), jnp.float32)
    found = jax.vmap(lambda matrix: search(matrix).value)(matrices)
    exact = np.linalg.svd(np.asarray(matrices, np.float64), compute_uv=False)[:, 0]
    np.testing.assert_allclose(found, exact, rtol=tolerance(30))


def test_only_the_matrices_that_need_it_are_given_to_lapack():
    matrices = jnp.stack([jnp.eye(3), 2 * jnp.eye(3), 3 * jnp.eye(3)])
    needed = jnp.array([True, False, True])
    found = jax.vmap(lapack.largest_singular_value_where)(needed, matrices, jnp.full(3, 7.0))
    np.testing.assert_allclose(found, [1, 7, 3], rtol=1e-15)
    found = jax.vmap(lapack.largest_singular_value_where, in_axes=(0, None, None))(
        needed, matrices[1], jnp.asarray(7.0)
    )
    np.testing.assert_allclose(found, [2, 7, 2], rtol=1e-15)


def test_lapack_inside_the_search_does_not_stop_two_devices(monkeypatch):
    monkeypatch.setattr(spectral_norm, "MOST_STEPS", 2)
    program = blocks.Program(lambda matrix, _: search(matrix).value)
    matrices = np.random.default_rng(3).standard_normal((64, 24, 24)).astype(np.float32)
    exact = np.linalg.svd(matrices.astype(np.float64), compute_uv=False)[:, 0]
    for _ in range(50):
        chunks = blocks.map_blocks([program], 16, matrices)
        np.testing.assert_allclose(blocks.gather(chunks, 64), exact, rtol=tolerance(24))


def test_a_network_is_the_same_whatever_shares_its_block():
    rng = np.random.default_rng(4)
    matrices = jnp.asarray(rng.standard_normal((8, 20, 20)), jnp.float32)
    others = jnp.concatenate([matrices[:1], 1e3 * matrices[1:]])
    many = jax.jit(jax.vmap(lambda matrix: search(matrix).value))
    assert float(many(matrices)[0]) == float(many(others)[0])
