"""Slabs of networks: planned before anything is compiled, and as many networks in each as fit."""

import pytest
from jax import monitoring

from gradient_horizon import experiments
from gradient_horizon.experiments import grid
from gradient_horizon.settings.identity import networks_of
from gradient_horizon.settings.validation import checked

PLENTY = 2**40  # bytes


@pytest.fixture
def slabs_of_one_chunk(monkeypatch):
    monkeypatch.setattr(grid, "SLAB", 1)
    monkeypatch.setattr(grid, "SLAB_CHUNKS", 1)


def test_slabs_are_planned_without_compiling(slabs_of_one_chunk):
    config = checked({"hidden_size": 64, "steps": 10, "seeds": 5, "weight_scales": [1.5, 0.8, 30.0, 1.0, 0.2]})
    compiled = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        slabs = experiments.slabs(config, PLENTY)
    finally:
        monitoring.unregister_event_duration_listener(listen)
    assert [networks_of(slab) for slab in slabs] == [15, 10]  # a chunk is 8 networks on each of two devices
    assert not compiled


def test_what_fits_stays_whole():
    for experiment in ("jacobian", "notes"):
        config = checked({"experiment": experiment, "hidden_size": 8, "steps": 12, "seeds": 3})
        assert experiments.slabs(config, PLENTY) == [config]


@pytest.mark.usefixtures("slabs_of_one_chunk")
@pytest.mark.parametrize(("clip", "sizes"), [("none", [16]), ("book", [8, 8])])
def test_thresholds_that_no_rule_reads_take_no_room(clip, sizes):
    """Without a clip rule one threshold is trained for all: a chunk of 4 networks on each of two devices."""
    training = {"experiment": "training", "hidden_size": 8, "steps": 12, "batch_size": 4, "updates": 2, "test_size": 8}
    config = checked({**training, "clip": clip, "clip_thresholds": [0.5, 1.0], "seeds": 8, "weight_scales": [1.0]})
    assert [networks_of(slab) for slab in experiments.slabs(config, PLENTY)] == sizes
