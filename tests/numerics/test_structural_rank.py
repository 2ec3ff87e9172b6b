"""Ranks that zeros decide against the largest number of paths that share no node, by a maximum flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from gradient_horizon.numerics import structural_rank


def disjoint_paths(patterns):
    steps, n, _ = patterns.shape
    node = lambda layer, unit, side: 1 + 2 * (layer * n + unit) + side  # noqa: E731
    last = 2 * n * (steps + 1) + 1
    capacity = np.zeros((last + 1, last + 1), np.int32)
    for unit in range(n):
        capacity[0, node(0, unit, 0)] = capacity[node(steps, unit, 1), last] = 1
        for layer in range(steps + 1):
            capacity[node(layer, unit, 0), node(layer, unit, 1)] = 1
    for layer, pattern in enumerate(patterns):
        for row, column in np.argwhere(pattern):
            capacity[node(layer, column, 1), node(layer + 1, row, 0)] = 1
    return maximum_flow(csr_matrix(capacity), 0, last).flow_value


@jax.jit
def ranks(patterns):
    def advance(reach, inputs):
        reach = structural_rank.through(reach, *inputs)
        return reach, reach.rank

    start = structural_rank.everything(patterns.shape[1])
    return jax.lax.scan(advance, start, (patterns, jnp.arange(len(patterns), dtype=jnp.int32)))[1]


def check(patterns):
    found = np.asarray(ranks(jnp.asarray(patterns)))
    assert found.tolist() == [disjoint_paths(patterns[: t + 1]) for t in range(len(patterns))]


@pytest.mark.parametrize("density", [0.2, 0.35, 0.5, 0.8])
def test_random_patterns(density):
    rng = np.random.default_rng(int(100 * density))
    for _ in range(8):
        check(rng.random((6, 6, 6)) < density)


def test_units_that_are_shut_in_turn():
    rng = np.random.default_rng(1)
    alive = rng.random((6, 6)) < 0.7
    check(np.broadcast_to(alive[:, :, None], (6, 6, 6)))  # dense weights
    check(alive[:, :, None] & np.eye(6, dtype=bool))  # none but each unit's own
    check(alive[:, :, None] & np.roll(np.eye(6, dtype=bool), 1, axis=0))
    check(alive[:, :, None] & alive[::-1, None, :])
    blocks = np.kron(np.eye(2, dtype=bool), np.ones((3, 3), bool))
    check(alive[:, :, None] & blocks)


def test_nilpotent_patterns():
    check(np.broadcast_to(np.eye(6, k=1, dtype=bool), (6, 6, 6)))
    check(np.broadcast_to(np.kron(np.eye(2, k=1, dtype=bool), np.ones((3, 3), bool)), (6, 6, 6)))


def test_under_vmap_each_has_its_own():
    patterns = np.random.default_rng(3).random((5, 6, 6, 6)) < 0.3
    patterns[0] = True
    together = np.asarray(jax.vmap(ranks)(jnp.asarray(patterns)))
    for one, pattern in zip(together, patterns, strict=True):
        assert one.tolist() == np.asarray(ranks(jnp.asarray(pattern))).tolist()
    assert together[0].tolist() == [6] * 6
