"""What is known of the machine."""

import os

import jax
import numpy as np
import pytest

from gradient_horizon.ensembles import devices
from gradient_horizon.numerics import lu, spectral_norm


def test_free_memory_is_some_of_what_there_is():
    assert 0 < devices.free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_budget_of_memory_is_what_is_asked_for_or_a_share_of_what_is_free(monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda: 1000)
    assert devices.memory_budget(None) == 600
    assert devices.memory_budget(1.5) == 3 * 2**29


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_blocks_are_too_small_for_threads_to_share_and_hold_whole_groups_of_lanes(precision):
    for n in range(1, 300):
        block = devices.block_size(n, 100, precision=precision)
        assert block == 1 or block * n * n <= 2**15  # above that XLA splits a product over the threads of all cores
        assert block & (block - 1) == 0
        assert block % devices.batch_last_width(n, block, precision=precision) == 0


@pytest.mark.parametrize("n", [16, 64, 128])
@pytest.mark.parametrize(
    ("program", "others"),  # the search's other loop is LAPACK's, one matrix at a time
    [(lu.lu, 0), (lambda matrix: spectral_norm.largest_singular_value(matrix, matrix[0], matrix[1]), 1)],
)
def test_a_loop_of_small_operations_is_one_function(program, others, n):
    """As `prepare` has XLA do it: otherwise to start the operations takes longer than the operations."""
    block = np.zeros((devices.block_size(n, 100), n, n), np.float32)
    compiled = jax.jit(jax.vmap(program)).lower(block).compile().as_text()
    assert compiled is not None
    assert compiled.count(" while(") - others == compiled.count('xla_cpu_small_call="true"') > 0
