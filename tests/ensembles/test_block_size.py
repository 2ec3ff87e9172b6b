"""Blocks that fit the cache, and loops over them that run as one function."""

import jax
import numpy as np
import pytest

from gradient_horizon.ensembles.block_size import batch_last_width, block_size
from gradient_horizon.numerics import lu, spectral_norm


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_blocks_are_too_small_for_threads_to_share_and_hold_whole_groups_of_lanes(precision):
    for n in range(1, 300):
        block = block_size(n, 100, precision=precision)
        assert block == 1 or block * n * n <= 2**15  # above that XLA splits a product over the threads of all cores
        assert block & (block - 1) == 0
        assert block % batch_last_width(n, block, precision=precision) == 0


@pytest.mark.parametrize("n", [16, 64, 128])
@pytest.mark.parametrize(
    ("program", "others"),  # the search's other loop is LAPACK's, one matrix at a time
    [(lu.lu, 0), (lambda matrix: spectral_norm.largest_singular_value(matrix, matrix[0], matrix[1]), 1)],
)
def test_a_loop_of_small_operations_is_one_function(program, others, n):
    """As `prepare` has XLA do it: otherwise to start the operations takes longer than the operations."""
    block = np.zeros((block_size(n, 100), n, n), np.float32)
    compiled = jax.jit(jax.vmap(program)).lower(block).compile().as_text()
    assert compiled is not None
    assert compiled.count(" while(") - others == compiled.count('xla_cpu_small_call="true"') > 0
