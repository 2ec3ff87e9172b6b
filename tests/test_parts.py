"""A job goes on from what it had measured, whatever ended it, and its result is the same to the last bit."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gradient_horizon as gh
from gradient_horizon import experiments, runtime
from gradient_horizon.config import checked
from gradient_horizon.parts import Parts

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
        {**SETTINGS, "experiment": "jacobian", "norms": ["frobenius", "spectral"]},
        {**SETTINGS, "experiment": "lyapunov", "exponents": 3, "transient": 5},
        {**SETTINGS, "experiment": "nodes"},
    ],
    ids=lambda settings: settings["experiment"],
)
def test_an_interrupted_measurement_goes_on_bit_for_bit(settings, tmp_path):
    config = checked(settings)
    whole = experiments.measure(config, lambda _: None)
    parts = Parts(tmp_path / "parts", "these settings", seconds=0)
    for chunks in (1, 2):
        with pytest.raises(StoppedError):
            experiments.measure(config, stop_after(chunks), parts)
    stored = list(parts.stored())
    chunk = 2 * runtime.block_size(12, 20)
    assert [rows.stop - rows.start for rows, _ in stored] == [chunk] * 2
    heard = []
    resumed = experiments.measure(config, heard.append, parts)
    assert sum(heard) == 1800
    assert digests(resumed) == digests(whole)
    computed = []
    experiments.measure(config, computed.append, parts)  # every part stands: nothing is left to compute
    assert sum(computed) == 1800


def written(folder, rows=4, count=3):
    parts = Parts(folder, "made", seconds=0)
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
    assert not list(Parts(tmp_path / "parts", "otherwise").stored())


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


def test_writes_wait_for_their_time(tmp_path):
    parts = Parts(tmp_path / "parts", "made", seconds=1000)
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
from gradient_horizon import jobs, parts
jobs.Parts = partial(parts.Parts, seconds=0)
from gradient_horizon.cli import main
sys.exit(main(sys.argv[1:]))
"""
OVERRIDES = (
    *("run", "-m", "cell=tanh,relu", "hidden_size=16", "steps=100", "seeds=1000", "weight_scales=[0.8,1.5]"),
    *("quick_look=false",),
)


def start(folder, environment):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *OVERRIDES, f"output={folder}", "name=kept"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The sweep's digests, how long it took with compiled programs at hand, and the environment of its processes."""
    folder = tmp_path_factory.mktemp("whole")
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    for name in ("first", "second"):
        begun = time.monotonic()
        assert start(folder / name, environment).wait(timeout=300) == 0
        seconds = time.monotonic() - begun
    return digests(gh.load(folder / "second" / "kept")), seconds, environment


def kill_and_resume(moment, folder, uninterrupted):
    """Kill the sweep `moment` (0 to 1) through, twice; then let it finish."""
    expected, seconds, environment = uninterrupted
    for share in (moment, moment / 2):
        process = start(folder, environment)
        try:
            process.wait(timeout=share * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert start(folder, environment).wait(timeout=300) == 0
    assert digests(gh.load(folder / "kept")) == expected
    assert not list(folder.glob("kept/*/parts/*"))
    assert not list(folder.glob("kept/*/.*"))


@pytest.mark.parametrize("moment", [0.5, 0.7, 0.9])
def test_a_killed_sweep_goes_on_bit_for_bit(moment, tmp_path, uninterrupted):
    kill_and_resume(moment, tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_sweep_killed_at_any_moment_goes_on_bit_for_bit(seed, tmp_path, uninterrupted):
    kill_and_resume(random.Random(seed).uniform(0.1, 1.0), tmp_path, uninterrupted)
