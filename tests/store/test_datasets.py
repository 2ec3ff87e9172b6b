"""Labelled results: written whole or not at all, read back as they were, joined by label."""

import dataclasses
import hashlib
import io
import json
import logging
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from stored_results import made, of_version, write

from gradient_horizon import names
from gradient_horizon.settings import schema
from gradient_horizon.store import datasets, joined_arrays, records, seal, sweep_folders
from gradient_horizon.store.datasets import ResultError, join, load, open_job, save


def test_what_is_read_is_what_was_written(tmp_path):
    dataset = made({"cell": "tanh"}, scales=(0.5, 1.0, 2.0))
    assert set(dataset.horizon_kind.values.flat) == set(names.HORIZON_KINDS)
    dataset.log_norm[0, 0, 0] = np.nan
    dataset.log_norm[0, 0, 1] = -np.inf
    found = open_job(write(tmp_path / "job", dataset))
    xr.testing.assert_identical(found, dataset)
    for name in dataset.variables:
        assert found[name].dtype.kind == dataset[name].dtype.kind, name
        if dataset[name].dtype.kind in "if":
            assert found[name].dtype == dataset[name].dtype, name
    assert [path.name for path in sorted((tmp_path / "job").iterdir())] == [records.RESULT, records.RECORD]


def test_on_disk_the_words_are_a_flag_variable_of_the_climate_and_forecast_conventions(tmp_path):
    save(made({}), tmp_path / "file.nc")
    with xr.open_dataset(tmp_path / "file.nc", engine="h5netcdf") as plain:
        flags = plain.horizon_kind
        assert flags.dtype == np.int8
        meanings = dict(zip(flags.attrs["flag_values"], flags.attrs["flag_meanings"].split(), strict=True))
        assert [meanings[flag] for flag in flags.values.flat] == list(made({}).horizon_kind.values.flat)


def test_a_file_is_byte_for_byte_what_xarray_writes_then_its_contents_and_checksum(tmp_path):
    job = made({"cell": "tanh"}, scales=(0.5, 1.0, 2.0), lags=40).drop_vars("horizon_kind")
    job = job.assign(moduli=(("seed", "place"), np.ones((2, 5)), {"units": "1"}), steps=("place", np.arange(5)))
    job = job.assign_coords(place_name=("place", list("abcde")), precise=1.5)
    joined = join([made({"cell": "tanh"}), made({"cell": "relu"}, seeds=(1, 2), lags=7)]).drop_vars("horizon_kind")
    for dataset in (job, joined, xr.Dataset()):
        save(dataset, tmp_path / "file.nc")
        content, expected = (tmp_path / "file.nc").read_bytes(), bytes(dataset.to_netcdf(engine="h5netcdf"))
        assert content[: len(expected)] == expected
        rest = content[len(expected) : -seal.LENGTH]
        assert rest == b"" or rest.startswith(b"\nContents: ")
        assert seal.examine(io.BytesIO(content)) == (hashlib.sha256(content).hexdigest(), True)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[len(content) // 2 :]
    elif how == "altered":
        content[-20] ^= 1
    else:
        content.clear()
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "altered", "emptied"])
def test_a_damaged_file_is_refused_by_name(tmp_path, how):
    folder = write(tmp_path / "job", made({}))
    damage(folder / records.RESULT, how)
    for read in (open_job, load):
        with pytest.raises(ResultError, match=rf"^{folder / records.RESULT}: cut short or altered.* run it again$"):
            read(folder)
    with pytest.raises(ResultError, match=str(folder / records.RESULT)):
        load(tmp_path)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("how", ["cut", "altered", "emptied"])
def test_a_damaged_file_among_others_is_left_out_and_named(tmp_path, monkeypatch, caplog, how, large):
    if large:
        monkeypatch.setattr(datasets, "LARGEST_IN_MEMORY", 0)
    intact = {cell: made({"cell": cell}) for cell in ("tanh", "relu", "erf")}
    for cell, dataset in intact.items():
        write(tmp_path / f"cell={cell}", dataset)
    damaged = tmp_path / "cell=relu" / records.RESULT
    damage(damaged, how)
    with caplog.at_level(logging.WARNING):
        joined = load(tmp_path)
    assert json.loads(joined.attrs["missing_jobs"]) == ["cell=relu"]
    assert joined.identical(join([intact["erf"], intact["tanh"]]).assign_attrs(missing_jobs='["cell=relu"]'))
    first, second = caplog.messages
    assert first.startswith(f"{damaged}: cut short or altered")
    assert second == f"{tmp_path}: 1 of 3 jobs missing: cell=relu"


def test_every_damage_to_a_stored_file_is_found(tmp_path):
    """Bytes altered at random places, and files cut short, of results and of records."""
    rng = random.Random(1)
    job = write(tmp_path / "job", made({}))
    assert records.is_finished(job, "0" * 64)
    intact = {name: (job / name).read_bytes() for name in (records.RESULT, records.RECORD)}
    for attempt in range(50):
        for name, content in intact.items():
            place = rng.randrange(len(content))
            altered = bytearray(content)
            altered[place] ^= 1 << rng.randrange(8)
            (job / name).write_bytes(altered if attempt % 2 else content[:place])
            assert not records.is_finished(job, "0" * 64), (name, attempt, place)
            with pytest.raises(ResultError, match=str(tmp_path)):
                load(tmp_path)
            (job / name).write_bytes(content)
    assert records.is_finished(job, "0" * 64)


@pytest.mark.parametrize("large", [False, True])
def test_every_damage_to_a_collected_file_is_found_from_the_file_alone(tmp_path, monkeypatch, caplog, large):
    """One bit flipped, at 300 random places; cut short; with bytes behind."""
    if large:
        monkeypatch.setattr(joined_arrays, "LARGE", 200)
        monkeypatch.setattr(datasets, "LARGEST_IN_MEMORY", 0)
    path, rng = tmp_path / "collected.nc", random.Random(2)
    joined = join([made({"cell": "tanh"}), made({"cell": "relu"}, seeds=(1, 2), lags=7)])
    save(joined, path)
    content = path.read_bytes()
    damaged = []
    for place in rng.sample(range(8 * len(content)), 300):
        altered = bytearray(content)
        altered[place // 8] ^= 1 << place % 8
        damaged.append(bytes(altered))
    damaged += [content[:-cut] for cut in (1, 50, 90)] + [content + b"\n", content[: len(content) // 4]]
    for altered in damaged:
        path.write_bytes(altered)
        with pytest.raises(ResultError, match=f"^{path}: ") as refused:
            load(path)
        assert "\n" not in str(refused.value)
    for cut in range(seal.LENGTH, len(content), 97):  # what is cut off may be the checksum and what else is not HDF5's
        path.write_bytes(content[:-cut])
        caplog.clear()
        found, said = None, ""
        try:
            found = load(path).load()
        except ResultError as error:
            said = str(error)
        if found is None:
            assert said.startswith(f"{path}: ")
            assert "\n" not in said
        else:
            xr.testing.assert_identical(found, joined)
            assert caplog.messages == [f"{path}: unchecked, as it carries no checksum of its own"]
    path.write_bytes(content)
    xr.testing.assert_identical(load(path).load(), joined)


def test_the_file_of_a_job_is_checked_by_its_record_and_by_itself(tmp_path, caplog):
    path = write(tmp_path / "job", made({})) / records.RESULT
    content, moved = path.read_bytes(), tmp_path / "moved.nc"
    other = made({})
    other.horizon[:] = 7.0
    save(other, path)  # whole, but not what the record says
    with pytest.raises(ResultError, match=f"^{path}: cut short or altered.*; run it again$"):
        load(path)
    moved.write_bytes(content)
    path.write_bytes(content)
    for place in (path, moved):
        xr.testing.assert_identical(load(place), made({}))
    moved.write_bytes(content.replace(b"log norm", b"log worm"))
    with pytest.raises(ResultError, match=f"^{moved}: cut short or altered"):
        load(moved)
    assert not caplog.messages


def test_a_result_without_a_checksum_of_its_own_is_checked_by_its_record_alone(tmp_path, caplog):
    """As version 0.1.0 wrote it."""
    job = write(tmp_path / "job", made({}))
    path, file = job / records.RESULT, tmp_path / "old.nc"
    path.write_bytes(bytes(datasets._encoded(made({})).to_netcdf(engine="h5netcdf")))
    record = records.read_record(job)
    assert record is not None
    records.write_record(job, dataclasses.replace(record, checksum=records.file_checksum(path)))
    for place in (job, path):
        xr.testing.assert_identical(load(place), made({}))
    assert not caplog.messages
    file.write_bytes(path.read_bytes())
    xr.testing.assert_identical(load(file), made({}))
    assert caplog.messages == [f"{file}: unchecked, as it carries no checksum of its own"]
    damage(path, "altered")
    with pytest.raises(ResultError, match=f"^{path}: cut short or altered"):
        load(path)


@pytest.mark.parametrize("flag", [-2, 4, 127, -128])
def test_flags_that_stand_for_no_word_are_refused(tmp_path, flag):
    encoded = datasets._encoded(made({}))
    encoded.horizon_kind[0, 0] = flag
    path = tmp_path / "file.nc"
    encoded.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ResultError, match=rf"^{path}: horizon_kind: flags from .*{flag}.*; allowed: -1 to 3$"):
        load(path)


def test_flags_of_other_meanings_are_refused_and_words_are_words(tmp_path):
    path = tmp_path / "file.nc"
    encoded = datasets._encoded(made({}))
    encoded.horizon_kind.attrs["flag_meanings"] = "exploded vanished beyond nonfinite"
    encoded.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ResultError, match=rf"^{path}: horizon_kind: its flags mean 'exploded vanished"):
        load(path)
    made({}).to_netcdf(path, engine="h5netcdf")
    np.testing.assert_array_equal(load(path).horizon_kind, made({}).horizon_kind)
    made({}).assign(horizon_kind=("seed", ["up", "down"])).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ResultError, match=rf"^{path}: horizon_kind: words other than vanished, exploded"):
        load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("swept", "config") for value in ("", "{", "[]", "3", "[" * 10**5, 3, [1.0, 2.0])),
        *(("jobs", value) for value in ("{}", "[3]", '[{"swept": {}}]', '[{"swept": [], "config": {}}]', "nonsense")),
        *(("missing_jobs", value) for value in ("{}", "[3]", "null", 7)),
        *(("recheck", value) for value in ("{}", "[{}]", '[{"job": "a", "difference": "b", "networks": 1}]')),
        *(("draws", value) for value in ("two", 1.5, [1, 2])),
        *(("experiment", value) for value in (3, [1, 2])),
    ],
)
def test_attributes_that_do_not_hold_what_is_written_there_are_refused(tmp_path, key, value):
    path = tmp_path / "file.nc"
    save(made({}).assign_attrs({"experiment": "jacobian", key: value}), path)
    with pytest.raises(ResultError, match=f"^{path}: attribute {key}: .*; allowed: a") as refused:
        load(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < len(str(path)) + 200


@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("a\nb"), MemoryError(), RecursionError("deep"), OSError(5, "")]
)
def test_whatever_a_library_raises_is_one_line(tmp_path, monkeypatch, error):
    def failing(*_, **__):
        raise error

    path = tmp_path / "file.nc"
    save(made({}), path)
    monkeypatch.setattr(datasets.netcdf, "read", failing)
    with pytest.raises(ResultError, match=rf"^{path}: not a readable netCDF file \(.+\)$") as refused:
        load(path)
    assert "\n" not in str(refused.value)


def test_a_result_that_is_a_pipe_keeps_nobody_waiting(tmp_path):
    job = write(tmp_path / "job", made({}))
    (job / records.RESULT).unlink()
    os.mkfifo(job / records.RESULT)
    with pytest.raises(ResultError, match=f"^{job / records.RESULT}: no file; allowed: a netCDF-4 file$"):
        load(job)


def test_time_and_memory_grow_with_the_jobs_and_no_faster():
    """Of a long swept axis each job fills one place; NumPy's own work is counted by the elements that it makes."""

    def seconds(count: int) -> float:
        jobs = [made({"bias_scale": 0.5 * number}, seeds=(0,), scales=(1.0,), lags=1) for number in range(count)]
        begun = time.process_time()
        join(jobs)
        return time.process_time() - begun

    seconds(10)
    assert min(seconds(1600) for _ in range(2)) < 16 * min(seconds(200) for _ in range(3))  # in proportion: 8


@pytest.mark.parametrize("content", [b"", b"no netCDF file", b"\x89HDF\r\n\x1a\n and then nothing"])
def test_a_file_that_is_no_result_is_refused_by_name(tmp_path, content):
    path = tmp_path / "collected.nc"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=f"^{path}: "):
        load(path)


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(ResultError, match="holds no sweep; allowed: a sweep's folder, a job's folder or a collected"):
        load(tmp_path / "nowhere")
    with pytest.raises(ResultError, match="holds no sweep"):
        load(tmp_path)
    sweep_folders.write_plan(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(ResultError, match="none of its 2 jobs has finished"):
        load(tmp_path)
    (tmp_path / "a").mkdir()
    records.write_record(tmp_path / "a", records.JobRecord(records.FAILED, "", {}, {}))
    with pytest.raises(ResultError, match="holds no finished job"):
        load(tmp_path / "a")
    assert issubclass(ResultError, ValueError)


@pytest.mark.parametrize("large", [False, True])
def test_a_full_disk_leaves_the_old_result_and_nothing_else(tmp_path, monkeypatch, large):
    path = tmp_path / "result.nc"
    save(made({}), path)
    old = path.read_bytes()
    if large:
        monkeypatch.setattr(joined_arrays, "LARGE", 20)
        monkeypatch.setattr(datasets.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    else:

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(made({"cell": "relu"}), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_the_checksum_is_that_of_the_file(tmp_path):
    assert save(made({}), tmp_path / "a.nc") == records.file_checksum(tmp_path / "a.nc")


def test_a_copy_under_another_name_takes_no_place_and_is_named(tmp_path, caplog):
    own = write(tmp_path / "cell=tanh", made({"cell": "tanh"}))
    shutil.copytree(own, tmp_path / "cell=tanh-old")
    other = made({"cell": "tanh"})
    other.log_norm[:] = 7.0
    shutil.rmtree(own)
    write(own, other)
    shutil.copytree(own, tmp_path / "cell=relu")  # in the place of another job
    sweep_folders.write_plan(tmp_path, {"cell=tanh": 4, "cell=relu": 4})
    with caplog.at_level(logging.WARNING):
        joined = load(tmp_path)
    assert (joined.log_norm.sel(cell="tanh") == 7.0).all()
    assert joined.cell.values.tolist() == ["tanh"]
    assert json.loads(joined.attrs["missing_jobs"]) == ["cell=relu"]
    for name in ("cell=tanh-old", "cell=relu"):
        assert f"ignored: {name}: holds the job cell=tanh" in caplog.text
    xr.testing.assert_identical(load(tmp_path / "cell=relu"), load(own))  # alone it is what it is


def test_shared_attributes_stay_and_every_job_is_described(tmp_path, caplog):
    for cell in ("tanh", "relu"):
        dataset = made({"cell": cell})
        dataset.attrs.update(wall_time_seconds=len(cell) + (cell == "relu"))
        write(tmp_path / f"cell={cell}", dataset)
    sweep_folders.write_plan(tmp_path, {"cell=tanh": 4, "cell=relu": 4, "cell=erf": 4})
    with caplog.at_level(logging.WARNING):
        joined = load(tmp_path)
    assert "1 of 3 jobs missing: cell=erf" in caplog.text
    assert json.loads(joined.attrs["missing_jobs"]) == ["cell=erf"]
    assert joined.attrs["precision"] == "float32"
    assert "config" not in joined.attrs
    assert [job["swept"] for job in json.loads(joined.attrs["jobs"])] == [{"cell": "tanh"}, {"cell": "relu"}]
    assert json.loads(joined.attrs["swept"]) == {"cell": ["tanh", "relu"]}
    assert joined.log_norm.attrs == {"long_name": "log norm", "units": "1"}
    assert joined.weight_scale.attrs == {"long_name": "weight scale", "units": "1"}


@pytest.mark.parametrize("large", [False, True])
def test_results_that_name_no_version_of_the_draws_are_of_the_first_and_a_warning_says_so(
    tmp_path, caplog, monkeypatch, large
):
    if large:
        monkeypatch.setattr(datasets, "LARGEST_IN_MEMORY", 0)
    for cell in ("tanh", "relu"):
        write(tmp_path / cell, of_version(None, {"cell": cell}))
    save(load(tmp_path), tmp_path / "collected.nc")
    for place in (tmp_path, tmp_path / "tanh", tmp_path / "collected.nc"):
        caplog.clear()
        found = load(place)
        assert found.attrs["draws"] == 1
        one = found if place.name == "tanh" else found.sel(cell="tanh")
        np.testing.assert_array_equal(one.log_norm, made({}).log_norm)
        (message,) = caplog.messages
        assert message.startswith(f"{place}: these networks were drawn by version 1 of the draws (package 0.1.0)")


def test_results_of_this_version_and_of_the_notes_say_nothing(tmp_path, caplog):
    write(tmp_path / "tanh", of_version(schema.DRAWS, {"cell": "tanh"}))
    assert load(tmp_path / "tanh").attrs["draws"] == schema.DRAWS
    write(tmp_path / "notes", of_version(None, {}).assign_attrs(experiment="notes"))
    assert "draws" not in load(tmp_path / "notes").attrs
    assert not caplog.messages


def test_a_collected_file_is_the_joined_result(tmp_path):
    write(tmp_path / "a", made({"cell": "tanh"}))
    write(tmp_path / "b", made({"cell": "relu"}, seeds=(3,), lags=7))
    joined = load(tmp_path)
    datasets.save(joined, tmp_path / "collected.nc")
    xr.testing.assert_identical(load(tmp_path / "collected.nc"), joined)


def test_a_large_result_is_written_and_read_piece_by_piece_and_is_the_same(tmp_path, monkeypatch):
    write(tmp_path / "a", made({"cell": "tanh"}, seeds=(4, 1)))
    write(tmp_path / "b", made({"cell": "relu"}, seeds=(3,), lags=7))
    whole = load(tmp_path)
    datasets.save(whole, tmp_path / "whole.nc")
    monkeypatch.setattr(joined_arrays, "LARGE", 20)  # two numbers
    monkeypatch.setattr(datasets, "LARGEST_IN_MEMORY", 0)
    lazy = load(tmp_path)
    for dataset in (lazy, load(tmp_path / "whole.nc"), load(tmp_path / "a")):
        assert not dataset.log_norm.variable._in_memory
    xr.testing.assert_identical(lazy.isel(lag=[0, 2], seed=-1), whole.isel(lag=[0, 2], seed=-1))
    datasets.save(lazy, tmp_path / "pieces.nc")
    xr.testing.assert_identical(load(tmp_path / "pieces.nc").load(), whole)
    with xr.open_dataset(tmp_path / "pieces.nc") as pieces, xr.open_dataset(tmp_path / "whole.nc") as expected:
        for name in expected.variables:
            for key in ("dtype", "_FillValue"):
                np.testing.assert_equal(pieces[name].encoding.get(key), expected[name].encoding.get(key))
    xr.testing.assert_identical(load(tmp_path / "a").load(), made({"cell": "tanh"}, seeds=(4, 1)))
