"""What is known of the machine."""

import os

from gradient_horizon.ensembles import devices


def test_free_memory_is_some_of_what_there_is():
    assert 0 < devices.free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_budget_of_memory_is_what_is_asked_for_or_a_share_of_what_is_free(monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda: 1000)
    assert devices.memory_budget(None) == 600
    assert devices.memory_budget(1.5) == 3 * 2**29
