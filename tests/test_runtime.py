"""What is known of the machine."""

import os

import pytest

from gradient_horizon import runtime


def test_free_memory_is_some_of_what_there_is():
    assert 0 < runtime.free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_budget_of_memory_is_what_is_asked_for_or_a_share_of_what_is_free(monkeypatch):
    monkeypatch.setattr(runtime, "free_memory", lambda: 1000)
    assert runtime.memory_budget(None) == 600
    assert runtime.memory_budget(1.5) == 3 * 2**29


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_blocks_are_too_small_for_threads_to_share_and_hold_whole_groups_of_lanes(precision):
    for n in range(1, 300):
        block = runtime.block_size(n, 100, precision=precision)
        assert block == 1 or block * n * n <= 2**15  # above that XLA splits a product over the threads of all cores
        assert block & (block - 1) == 0
        assert block % runtime.lane_width(n, block, precision=precision) == 0
