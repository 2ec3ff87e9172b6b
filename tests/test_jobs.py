"""One job: measured at once or in slabs, with the same result; refused where memory is too small."""

import subprocess

import numpy as np
import pytest
import xarray as xr
from jax import monitoring

from gradient_horizon import experiments, figures, records, results, status
from gradient_horizon.config import SettingError, checked, cut, networks_of
from gradient_horizon.experiments import population
from gradient_horizon.jobs import PARTS, Job, execute

# 16 networks fill a chunk, 8 on each of two devices.
SETTINGS = {"hidden_size": 64, "steps": 10, "seeds": [4, 0, 3, 7, 1], "weight_scales": [1.5, 0.8, 30.0, 1.0, 0.2]}


def run(folder, report=lambda _: None, **settings):
    job = Job(folder, checked({**SETTINGS, "quick_look": False, **settings}), {})
    execute(job, report)
    return results.open_job(folder)


@pytest.fixture
def small_slabs(monkeypatch):
    monkeypatch.setattr(population, "SLAB", 1)
    monkeypatch.setattr(population, "SLAB_CHUNKS", 1)


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    changing = ("wall_time_seconds", "peak_memory_bytes", "recheck_networks", "recheck_difference")
    for dataset in (found, expected):
        for name in changing:
            dataset.attrs.pop(name, None)
    xr.testing.assert_identical(found, expected)
    for name in expected.variables:
        assert found[name].values.tobytes() == expected[name].values.tobytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), recheck=True)


def test_a_job_measured_in_slabs_has_the_same_result(tmp_path, whole, small_slabs, monkeypatch):
    for left in (".status.json.11033", ".result.nc.7"):  # by processes that were killed while they wrote
        (tmp_path / left).touch()
    monkeypatch.setattr(results, "LARGE", 2**10)
    heard = []
    found = run(tmp_path, heard.append, recheck=True)
    assert sum(heard) == 25
    assert found.attrs["recheck_networks"] == 8 + 8  # a block of each slab
    assert 0 <= found.attrs["recheck_difference"] < 1e-3
    assert_same(found, whole)
    assert {path.name for path in tmp_path.iterdir()} == {"result.nc", "status.json", "config.yaml", "run.log"}


def test_finished_slabs_are_not_measured_again(tmp_path, whole, small_slabs, monkeypatch):
    measured = []
    measure = experiments.measure

    def counted(config, report, parts):
        dataset = measure(config, report, parts)
        if len(measured) == 1 and fails:
            raise FloatingPointError
        measured.append(networks_of(config))
        return dataset

    monkeypatch.setattr(experiments, "measure", counted)
    settings = {"recheck": True}
    fails = True
    with pytest.raises(FloatingPointError):
        run(tmp_path, **settings)
    assert (measured, records.state_of(tmp_path)) == ([15], records.FAILED)
    assert len(list((tmp_path / PARTS).glob("slab-*/result.nc"))) == 1
    fails = False
    heard = []
    assert_same(run(tmp_path, heard.append, **settings), whole)
    assert (measured, sum(heard)) == ([15, 10], 25)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few pages, which takes no result."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tests", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_fails_the_job_in_one_line_and_it_goes_on_when_there_is_room(small_disk, whole):
    settings = {"recheck": True}
    with pytest.raises(OSError, match="No space left on device"):
        run(small_disk / "job", **settings)
    record = records.read_record(small_disk / "job")
    assert record is None or record.state == records.RUNNING or record.error.startswith("OSError: [Errno 28] No space")
    assert not list((small_disk / "job").glob("*result*"))
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert_same(run(small_disk / "job", **settings), whole)


def test_a_quick_look_that_cannot_be_drawn_is_reported_and_the_job_is_finished(tmp_path, monkeypatch):
    def broken(dataset):
        raise ValueError("no such colour\nand more")

    monkeypatch.setattr(figures, "quick_look", broken)
    folder = tmp_path / "single"
    folder.mkdir()
    (folder / "quick_look.png").write_bytes(b"of an earlier result")
    run(folder, quick_look=True, seeds=1, weight_scales=[1.0])
    record = records.read_record(folder)
    assert record is not None
    assert (record.state, record.error, record.picture) == (records.FINISHED, "", "ValueError: no such colour")
    assert status.standing_of(folder, 1).why == "no quick look: ValueError: no such colour"
    assert "Traceback" in (folder / "run.log").read_text()
    assert not (folder / "quick_look.png").exists()
    monkeypatch.undo()
    run(folder, quick_look=True, seeds=1, weight_scales=[1.0])
    record = records.read_record(folder)
    assert record is not None
    assert record.picture == ""
    assert (folder / "quick_look.png").exists()


def test_jobs_of_equal_shapes_share_their_compiled_programs(tmp_path, whole, small_slabs):
    compiled = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(duration_secs)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        same = {"recheck": True}
        run(tmp_path / "other seeds", **same, seeds=[9, 8], weight_scales=[0.4])
        run(tmp_path / "other names", **same, seeds=40, weight_scales=[0.7], memory_budget=1.0)
        assert not compiled
        run(tmp_path / "other shapes", **same, steps=11)
        assert compiled
    finally:
        monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(("most", "sizes"), [(25, [25]), (15, [15, 10]), (14, [10, 10, 5]), (4, [4, 1] * 5), (1, 25)])
def test_settings_are_cut_into_pieces_that_hold_every_network_once(most, sizes):
    config = checked(SETTINGS)
    pieces = cut(config, most)
    assert [networks_of(piece) for piece in pieces] == ([1] * sizes if isinstance(sizes, int) else sizes)
    networks = [(seed, scale) for piece in pieces for seed in piece.seeds for scale in piece.weight_scales]
    assert networks == [(seed, scale) for seed in config.seeds for scale in config.weight_scales]
    assert {piece.hidden_size for piece in pieces} == {64}


def test_what_memory_cannot_hold_is_refused_with_what_it_takes(tmp_path):
    with pytest.raises(
        SettingError, match=r"^memory_budget: '1e-05 GiB' .*; allowed: at least 0.* GiB, which "
    ) as refused:
        run(tmp_path, memory_budget=1e-5)
    assert "hidden_size" in str(refused.value)
    assert records.state_of(tmp_path) == records.FAILED
    record = records.read_record(tmp_path)
    assert record is not None
    assert str(refused.value) in record.error


def test_less_memory_makes_smaller_slabs_and_changes_no_number(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(population, "HELD", 2**16)  # as if a result took this much more than the programs do
    sizes = []
    measure = experiments.measure

    def heard(config, report, parts):
        sizes.append(networks_of(config))
        return measure(config, report, parts)

    monkeypatch.setattr(experiments, "measure", heard)
    found = run(tmp_path, recheck=True, memory_budget=0.1)
    assert sizes == [25, 15, 10]
    np.testing.assert_array_equal(found.log_norm, whole.log_norm)
