"""What is read is what xarray reads, and only what the file holds; anything else is refused by name."""

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from gradient_horizon import experiments
from gradient_horizon.settings.validation import checked
from gradient_horizon.store import datasets, netcdf, netcdf_limits, seal
from gradient_horizon.store.records import ResultError

SMALL = {"hidden_size": 4, "steps": 6, "seeds": 2, "weight_scales": [0.5, 1.0]}
MEASURED = {
    "jacobian": {"norms": ["frobenius", "spectral"], "anchors": ["end", "start"], "recheck": True},
    "singular_values": {},
    "lyapunov": {"steps": 40, "transient": 10},
    "covariant": {},
    "pairs": {},
    "nodes": {},
    "input_gradients": {"inputs": "noise"},
    "transient": {"steps": 40, "aligning": 10, "jacobians": 2},
    "fixed_points": {"starts": 4},
    "notes": {},
    "training": {
        "steps": 12,
        "updates": 3,
        "record_every": 1,
        "test_size": 4,
        "batch_size": 2,
        "clip_thresholds": [1.0, 2.0],
    },
}


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Equal in every value, label, type, attribute and order."""
    xr.testing.assert_identical(found, expected)
    assert list(found.variables) == list(expected.variables)
    assert list(found.attrs) == list(expected.attrs)
    for key, value in expected.attrs.items():
        assert type(found.attrs[key]) is type(value), key
    for name in expected.variables:
        assert found[name].dtype == expected[name].dtype, name
        assert list(found[name].attrs) == list(expected[name].attrs)
        for key, value in expected[name].attrs.items():
            assert type(found[name].attrs[key]) is type(value), (name, key)
        if expected[name].dtype.kind in "iuf":
            assert found[name].values.tobytes() == expected[name].values.tobytes(), name
    for name, index in expected.indexes.items():
        assert type(found.indexes[name]) is type(index), name
        assert found.indexes[name].dtype == index.dtype, name


def assert_read_alike(path: Path, *, is_plain: bool = True) -> None:
    """By the contents that the file states, by xarray, and piece by piece."""
    content = path.read_bytes()[: -seal.LENGTH]
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        expected = opened.load()
    assert (netcdf._stated_contents(io.BytesIO(content), len(content)) is not None) == is_plain
    for found in (
        netcdf.read(content, {}, trusted=True),
        netcdf.read(content, {}),
        opened_lazily(path, 0).load(),
        opened_lazily(path, 10**6).load(),
        opened_lazily(path, 0, end=None).load(),
    ):
        assert_same(found, expected)


def opened_lazily(path: Path, small: int, *, end: int | None = -seal.LENGTH) -> xr.Dataset:
    found = path.stat()
    with path.open("rb") as stream:
        place = None if end is None else found.st_size + end
        return netcdf.open_lazily(str(path), stream, netcdf.Identity.of(found), {}, small, end=place)


@pytest.mark.parametrize("experiment", MEASURED)
def test_the_results_of_every_experiment_are_read_as_xarray_reads_them(tmp_path, experiment):
    config = checked({"experiment": experiment, **({} if experiment == "notes" else SMALL), **MEASURED[experiment]})
    dataset = experiments.measure(config, lambda _: None)
    dataset.attrs.update(
        title="§ 1", swept="{}", config="{}", wall_time_seconds=0.1, peak_memory_bytes=3, numbers=[1, 2]
    )
    datasets.save(dataset, tmp_path / "result.nc")
    assert_read_alike(tmp_path / "result.nc")


ODD = xr.Dataset(
    {
        "number": ("place", [1.0, np.nan, -np.inf]),
        "single": ("place", np.array([0.1, -0.0, 3e-45], np.float32)),
        "count": ((), np.int64(2**62 + 1)),
        "truth": ("place", [True, False, True]),
        "whole": ("other", np.arange(4, dtype=np.uint16)),
    },
    coords={"place": ["ä", "", "long " * 9]},
    attrs={"float": 0.1, "nan": np.nan, "text": "ünï", "whole": np.int8(3), "three": np.arange(3.0), "empty": ""},
)


@pytest.mark.parametrize(
    ("dataset", "is_plain"),
    [
        (ODD, True),
        (xr.Dataset(), True),
        (ODD.assign_coords(label=("place", list("abc"))), False),
        (ODD.assign(none=(("nothing", "place"), np.zeros((0, 3)))), False),
        (ODD.assign(words=("place", list("abc"))), False),
        (ODD.assign_attrs(words=["a", "b"]), False),
        (ODD.assign(when=("place", np.array([0, 1, 2], "timedelta64[s]").astype("timedelta64[ns]"))), False),
        (ODD.assign(short=("place", [1, 2, 3], {"scale_factor": 0.5})), False),
    ],
)
def test_what_is_not_plain_is_read_too(tmp_path, dataset, is_plain):
    datasets.save(dataset, tmp_path / "file.nc")
    assert_read_alike(tmp_path / "file.nc", is_plain=is_plain)


def test_a_file_that_changes_after_it_was_opened_is_not_read(tmp_path):
    path = tmp_path / "file.nc"
    datasets.save(ODD, path)
    opened = opened_lazily(path, 0)
    datasets.save(ODD.assign(number=ODD.number + 1), path)
    with pytest.raises(ResultError, match=rf"^{path}: altered since it was opened; open it again$"):
        opened.number.load()


def external_link(file: h5py.Group, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.arange(3.0)
    file["x"] = h5py.ExternalLink(str(folder / "other.h5"), "secret")


def dangling_link(file: h5py.File, folder: Path) -> None:
    file["x"] = h5py.SoftLink("/nowhere")


def link_through_a_group(file: h5py.File, folder: Path) -> None:
    external_link(file.create_group("group"), folder)
    file["x"] = h5py.SoftLink("/group/x")


def external_data(file: h5py.File, folder: Path) -> None:
    (folder / "raw").write_bytes(bytes(80))
    file.create_dataset("x", (10,), "f8", external=[(str(folder / "raw"), 0, 80)])


def virtual(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.arange(3.0)
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "secret", (3,))
    file.create_virtual_dataset("x", layout)


def through_a_plugin(file: h5py.File, folder: Path) -> None:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((10,))
    settings.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((10,)), settings)


def never_written(file: h5py.File, folder: Path) -> None:
    file.create_dataset("x", (10**12,), "f8")


def never_written_in_chunks(file: h5py.File, folder: Path) -> None:
    file.create_dataset("x", (10**12,), "f8", chunks=(1000,))


def all_zero(file: h5py.File, folder: Path) -> None:
    file.create_dataset("x", (3 * 10**7,), "i1", chunks=(10**7,), compression="gzip", data=np.zeros(3 * 10**7, "i1"))


def one_large_chunk(file: h5py.File, folder: Path) -> None:
    file.create_dataset("x", (1,), "f8", maxshape=(None,), chunks=(5 * 10**7,), compression="gzip")


def many_names_of_one(file: h5py.File, folder: Path) -> None:
    file["a"] = np.zeros(10**5)
    for number in range(1000):
        file[f"x{number}"] = file["a"]


def too_many_names(file: h5py.File, folder: Path) -> None:
    for number in range(netcdf_limits.MOST_NAMES + 1):
        file[f"x{number}"] = file["x0"] if number else 1.0


def lists(file: h5py.File, folder: Path) -> None:
    file.create_dataset("x", (1,), h5py.vlen_dtype(np.int32))


def list_attribute(file: h5py.File, folder: Path) -> None:
    file["x"] = 1.0
    values = np.empty(2, object)
    values[:] = [np.arange(2, dtype=np.int32), np.arange(3, dtype=np.int32)]
    file["x"].attrs.create("y", values, dtype=h5py.vlen_dtype(np.int32))


REFUSED = {
    external_link: "x: a link out of the file",
    dangling_link: "x: a link to 'nowhere', which is not a variable of the file",
    link_through_a_group: "x: a link to 'group/x', which is not a variable",
    external_data: "x: its data lie in another file",
    virtual: "x: its data lie in another file",
    through_a_plugin: "x: stored through filter 32015",
    never_written: "x: declares more than a file of ",
    never_written_in_chunks: "x: declares more than a file of ",
    all_zero: "x: declares more than a file of ",
    one_large_chunk: "x: declares more than a file of ",
    many_names_of_one: "x[0-9]+: declares more than a file of ",
    too_many_names: "holds more than 4096 variables",
    lists: "x: lists of variable length",
    list_attribute: "x: attribute y: lists of variable length",
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("make", "said"), REFUSED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_leads_out_of_a_file_or_is_more_than_it_holds_is_refused(tmp_path, monkeypatch, make, said, large):
    path = tmp_path / "file.nc"
    with h5py.File(path, "w") as file:
        make(file, tmp_path)
    if large:
        monkeypatch.setattr(datasets, "LARGEST_IN_MEMORY", 0)
    with pytest.raises(ResultError, match=rf"^{path}: {said}") as refused:
        datasets.load(path)
    assert "\n" not in str(refused.value)


def test_texts_that_are_one_text_many_times_are_counted_each(tmp_path):
    """Variable-length texts are references, of which many may name the same: here made by altering them."""
    path, long, count = tmp_path / "file.nc", 10**6, 3000
    with h5py.File(path, "w") as file:
        texts = file.create_dataset("x", (count,), h5py.string_dtype())
        texts[0] = "a" * long
        offset = texts.id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset : offset + 16 * count] = content[offset : offset + 16] * count
    path.write_bytes(content)
    with h5py.File(path) as file:
        dataset = file["x"]
        assert isinstance(dataset, h5py.Dataset)
        assert dataset[count - 1] == b"a" * long
    with pytest.raises(ResultError, match=rf"^{path}: x: declares more than a file of"):
        datasets.load(path)


def test_another_programs_file_is_read_with_a_warning(tmp_path, caplog):
    path = tmp_path / "file.nc"
    foreign = xr.Dataset({"a": (("x", "t"), np.ones((30, 4))), "s": ("t", list("abcd"))}, {"x": np.arange(30)})
    foreign.to_netcdf(path, engine="h5netcdf", encoding={"a": {"zlib": True, "shuffle": True, "fletcher32": True}})
    with h5py.File(path, "a") as file:
        file["alias"] = h5py.SoftLink("/a")
        file.create_group("group")
    found = datasets.load(path)
    assert found.drop_vars("alias").identical(foreign)
    np.testing.assert_array_equal(found.alias, foreign.a)
    assert caplog.messages == [f"{path}: unchecked, as it carries no checksum of its own"]


def test_contents_that_lie_are_refused():
    """A file that states other contents than it has, under a checksum that holds."""
    rows = [["x", ["t"], [3], "<f8", 0, [], {}, False, False]]
    for change in ({4: 10**9}, {4: -8}, {2: [-3]}, {2: [10**12]}, {3: "|O"}):
        row = [change.get(index, value) for index, value in enumerate(rows[0])]
        text = json.dumps([[row], {}]).encode()
        content = bytes(100) + netcdf._BEFORE + text + netcdf._AFTER % len(text)
        with pytest.raises((ResultError, ValueError, KeyError)):
            netcdf.read(content, {}, trusted=True)


def test_memory_is_bounded_by_the_size_of_a_file():
    assert netcdf_limits.bound(0) == 2**26
    assert netcdf_limits.bound(10**6) - netcdf_limits.bound(0) == 64 * 10**6


def test_other_readers_read_what_is_written(tmp_path):
    datasets.save(ODD, tmp_path / "file.nc")
    with xr.open_dataset(tmp_path / "file.nc") as found:  # by the first bytes of the file, without an engine's name
        assert found.load().identical(netcdf.read((tmp_path / "file.nc").read_bytes()[: -seal.LENGTH], {}))
    with h5py.File(io.BytesIO((tmp_path / "file.nc").read_bytes())) as file:
        np.testing.assert_array_equal(file["count"], 2**62 + 1)
