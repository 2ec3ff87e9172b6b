"""A job goes on from what it had measured, whatever ended it, and its result is the same to the last bit."""

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gradient_horizon as gh
from gradient_horizon import experiments
from gradient_horizon.ensembles.block_size import block_size
from gradient_horizon.settings.validation import checked
from gradient_horizon.store import files
from gradient_horizon.store.checkpoints import Checkpoints

SETTINGS = {"cell": "tanh", "hidden_size": 12, "steps": 20, "seeds": 600, "weight_scales": [0.8, 1.2, 1.5]}


class StoppedError(Exception):
    pass


def stop_after(chunks):
    heard = []

    def report(networks):
        heard.append(networks)
        if len(heard) == chunks:
            raise StoppedError

    return report


def digests(dataset):
    return {name: hashlib.sha256(dataset[name].values.tobytes()).hexdigest() for name in sorted(dataset.data_vars)}


@pytest.mark.parametrize(
    "settings",
    [
        {**SETTINGS, "experiment": "jacobian"},
        {**SETTINGS, "experiment": "lyapunov", "exponents": 3, "transient": 5},
        {**SETTINGS, "experiment": "nodes"},
    ],
    ids=lambda settings: settings["experiment"],
)
def test_an_interrupted_measurement_goes_on_bit_for_bit(settings, tmp_path):
    config = checked(settings)
    whole = experiments.measure(config, lambda _: None)
    parts = Checkpoints(tmp_path / "parts", "these settings", seconds=0)
    for chunks in (1, 2):
        with pytest.raises(StoppedError):
            experiments.measure(config, stop_after(chunks), parts)
    stored = list(parts.stored())
    chunk = 2 * block_size(12, 20)
    assert [rows.stop - rows.start for rows, _ in stored] == [chunk] * 2
    heard = []
    resumed = experiments.measure(config, heard.append, parts)
    assert sum(heard) == 1800
    assert digests(resumed) == digests(whole)
    computed = []
    experiments.measure(config, computed.append, parts)  # every part stands: nothing is left to compute
    assert sum(computed) == 1800


def written(folder, rows=4, count=3):
    parts = Checkpoints(folder, "made", seconds=0)
    for start in range(0, rows * count, rows):
        parts.add(slice(start, start + rows), [np.arange(start, start + rows), np.full((rows, 2), start / 7)])
    return parts


def test_parts_come_back_as_they_were(tmp_path):
    for (rows, (first, second)), start in zip(written(tmp_path / "parts").stored(), (0, 4, 8), strict=True):
        assert rows == slice(start, start + 4)
        np.testing.assert_array_equal(first, np.arange(start, start + 4))
        np.testing.assert_array_equal(second, np.full((4, 2), start / 7))


def test_what_others_made_is_not_read(tmp_path):
    written(tmp_path / "parts")
    assert not list(Checkpoints(tmp_path / "parts", "otherwise").stored())


def test_a_gap_ends_what_is_read(tmp_path):
    parts = written(tmp_path / "parts")
    (tmp_path / "parts" / "0000000004.part").unlink()
    assert len(list(parts.stored())) == 1


def test_every_damage_is_found(tmp_path):
    """Bytes altered at random places, and files cut short: the part is not read, nor what follows it."""
    rng = random.Random(0)
    for attempt in range(50):
        parts = written(tmp_path / str(attempt))
        path = sorted(parts.folder.iterdir())[attempt % 3]
        content = bytearray(path.read_bytes())
        place = rng.randrange(len(content))
        if attempt % 2:
            content[place] ^= 1 << rng.randrange(8)
        else:
            content = content[:place]
        path.write_bytes(content)
        assert len(list(parts.stored())) == attempt % 3


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"no archive", "without leaves", "objects"])
def test_bytes_with_their_digest_that_are_no_part_are_not_read(content, tmp_path):
    parts = written(tmp_path / "parts")
    if isinstance(content, str):
        stream = io.BytesIO()
        rows = np.array([0, 4]) if content == "without leaves" else np.array([None, {}])
        np.savez(stream, rows=rows)
        content = stream.getvalue()
    (tmp_path / "parts" / "0000000000.part").write_bytes(hashlib.sha256(content).digest() + content)
    assert not list(parts.stored())


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_no_part(kind, tmp_path):
    parts = written(tmp_path / "parts")
    path = tmp_path / "parts" / "0000000004.part"
    path.unlink()
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    assert len(list(parts.stored())) == 1


def test_parts_are_written_nowhere_else(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "parts").symlink_to(tmp_path / "outside")
    with pytest.raises(files.PlaceError, match="parts is a link; allowed: a real folder, or nothing"):
        written(tmp_path / "parts")
    assert not list((tmp_path / "outside").iterdir())


def test_writes_wait_for_their_time(tmp_path):
    parts = Checkpoints(tmp_path / "parts", "made", seconds=1000)
    parts.add(slice(0, 2), [np.zeros(2)])
    parts.add(slice(2, 3), [np.ones(1)])
    assert not list(parts.stored())
    parts.flush()
    ((rows, (leaf,)),) = parts.stored()
    assert rows == slice(0, 3)
    np.testing.assert_array_equal(leaf, [0, 0, 1])


COMMAND = """
import sys
from functools import partial
from gradient_horizon.commands import jobs
from gradient_horizon.store import checkpoints
jobs.Checkpoints = partial(checkpoints.Checkpoints, seconds=0)
from gradient_horizon.commands.parser import main
sys.exit(main(sys.argv[1:]))
"""
EXPERIMENTS = {
    "jacobian": "bias_scale=0,0.5 hidden_size=12 steps=100 seeds=1200 weight_scales=[0.8,1.5]",
    "training": "experiment=training seeds=60,70 hidden_size=8 steps=12 batch_size=4 updates=40 test_size=16",
}


def start(experiment, folder, environment):
    overrides = [*EXPERIMENTS[experiment].split(), f"output={folder}", "name=kept", "quick_look=false"]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "run", "-m", *overrides],
        env=environment,
        stdout=subprocess.DEVNULL,  # what goes wrong is told on stderr, and shown by pytest
    )


@pytest.fixture(scope="module")
def uninterrupted(request, tmp_path_factory):
    """The experiment, its sweep's digests, and the environment of processes that find its programs compiled."""
    folder = tmp_path_factory.mktemp("whole")
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    assert start(request.param, folder, environment).wait() == 0
    return request.param, digests(gh.load(folder / "kept")), environment


def resume(folder, uninterrupted):
    experiment, expected, environment = uninterrupted
    assert start(experiment, folder, environment).wait() == 0
    assert digests(gh.load(folder / "kept")) == expected
    assert not list(folder.glob("kept/*/parts/*"))
    assert not list(folder.glob("kept/*/.*"))


@pytest.mark.parametrize(("uninterrupted", "parts"), [("jacobian", 4), ("training", 2)], indirect=["uninterrupted"])
def test_a_killed_sweep_goes_on_bit_for_bit(parts, tmp_path, uninterrupted):
    """Killed as soon as so many parts are written."""
    experiment, _, environment = uninterrupted
    with start(experiment, tmp_path, environment) as process:
        while len(list(tmp_path.glob("kept/*/parts/*.part"))) < parts:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    resume(tmp_path, uninterrupted)


@pytest.fixture(scope="module")
def seconds(tmp_path_factory, uninterrupted):
    """How long the sweep takes where its programs are compiled already."""
    experiment, _, environment = uninterrupted
    begun = time.monotonic()
    assert start(experiment, tmp_path_factory.mktemp("again"), environment).wait() == 0
    return time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("uninterrupted", EXPERIMENTS, indirect=True)
def test_a_sweep_killed_at_any_two_moments_goes_on_bit_for_bit(seed, tmp_path, uninterrupted, seconds):
    experiment, _, environment = uninterrupted
    rng = random.Random(seed)
    for _ in range(2):
        process = start(experiment, tmp_path, environment)
        try:
            process.wait(timeout=rng.uniform(0.1, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    resume(tmp_path, uninterrupted)
