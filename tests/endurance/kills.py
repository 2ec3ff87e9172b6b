"""Whole processes killed, at any moment and before any file operation; then the sweep is finished and compared."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from digests import differences, digest_in_child, left_behind
from forks import LONGEST, Child, command, fork

SWEEPS = {
    "jacobian": "experiment=jacobian bias_scale=0,0.5 hidden_size=8 steps=30 seeds=24 weight_scales=[0.8,1.5]",
    "slabs": "experiment=jacobian cell=tanh,relu hidden_size=64 steps=10 seeds=20 weight_scales=[0.8,1.5]",
    "singular_values": "experiment=singular_values cell=tanh,relu hidden_size=8 steps=20 seeds=6 weight_scales=[0.8]",
    "lyapunov": "experiment=lyapunov bias_scale=0,0.5 hidden_size=6 steps=60 seeds=6 weight_scales=[1.5]",
    "pairs": "experiment=pairs cell=tanh,relu hidden_size=6 steps=12 seeds=6 weight_scales=[1.5]",
    "nodes": "experiment=nodes cell=tanh,relu hidden_size=6 steps=12 seeds=6 weight_scales=[1.5]",
    "fixed_points": "experiment=fixed_points cell=tanh,relu hidden_size=6 steps=12 seeds=6 weight_scales=[2] starts=6",
    "notes": "experiment=notes hidden_size=6,7 steps=12 seeds=3",
    "training": "experiment=training cell=tanh,relu seeds=6 hidden_size=6 steps=12 batch_size=4 updates=30 test_size=9",
}
LAUNCHED = "experiment=jacobian cell=tanh,relu,linear hidden_size=8 steps=200 seeds=400 weight_scales=[0.8,1.5]"


@dataclass
class Known:
    """An uninterrupted sweep: what it holds, how long it takes, and how many file operations."""

    expected: dict[str, str]
    seconds: float
    events: int


class Kills:
    """Sweeps whose processes are killed again and again, until a last run ends; then they are compared."""

    def __init__(self, scratch: Path, rng: random.Random, names: Sequence[str] = tuple(SWEEPS)):
        self.scratch, self.rng, self.names = scratch, rng, names
        self.known: dict[str, Known] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def words(self, name: str) -> list[str]:
        return ["run", "-m", *SWEEPS[name].split(), "name=kept"]

    def start(
        self, name: str, words: list[str], folder: Path, *, at_event: int = 0, count: Path | None = None
    ) -> Child:
        run = partial(command, words, small_slabs=name == "slabs", at_event=at_event, count=count)
        return fork(run, self.scratch / "said.txt", folder)

    def reference(self, name: str) -> Known:
        if name not in self.known:
            for attempt in ("compiles", "measured"):
                folder = self.scratch / f"{name}-{attempt}"
                folder.mkdir()
                begun, count = time.monotonic(), self.scratch / "count"
                child = self.start(name, self.words(name), folder, count=count)
                if child.wait():
                    raise RuntimeError(f"{name}: {child.said.read_text()}")
                seconds = time.monotonic() - begun
            found = digest_in_child(folder / "results/kept", self.scratch)
            if isinstance(found, str) or left_behind(folder / "results/kept"):
                raise RuntimeError(f"{name}: {found} {left_behind(folder / 'results/kept')}")
            self.known[name] = Known(found, seconds, int(count.read_text()))
        return self.known[name]

    def kill_once(self, name: str, words: list[str], folder: Path, known: Known) -> bool:
        """Start the command and kill it at a random moment, or before a random file operation; whether that was."""
        by_event = self.rng.random() < 0.6
        child = self.start(name, words, folder, at_event=self.rng.randint(1, known.events) if by_event else 0)
        if not by_event:
            end = time.monotonic() + self.rng.uniform(0.0, known.seconds)
            while time.monotonic() < end:
                time.sleep(0.002)
            child.kill()
        status = child.wait()
        if status not in (-signal.SIGKILL, 0):
            self.wrong.append(f"{name}: status {status} for a kill: {child.said.read_text()[-500:]}")
        return status == -signal.SIGKILL

    def signal_once(self, name: str, folder: Path, known: Known) -> None:
        """Ask the command to stop, at a random moment: it does so soon, in one line, and says what stays."""
        number = self.rng.choice([signal.SIGINT, signal.SIGTERM])
        child = self.start(name, self.words(name), folder)
        time.sleep(self.rng.uniform(0.2, max(0.3, known.seconds)))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)
        status, said = child.wait(), child.said.read_text()
        if status == -signal.SIGTERM and not said:  # before it listened
            self.counts["SIGTERM before the start"] += 1
            return
        self.counts[f"{signal.Signals(number).name} {'honoured' if status == 130 else 'after the end'}"] += 1
        if status != 130 and "gradient_horizon.load(" not in said:  # it had not come to its last line
            self.wrong.append(f"{name}: {signal.Signals(number).name}: status {status}: {said[-500:]}")
        if "Traceback" in said:
            self.wrong.append(f"{name}: {signal.Signals(number).name}: {said[-800:]}")

    def check_status(self, name: str, folder: Path) -> None:
        if not (folder / "results/kept").is_dir():
            return
        child = fork(partial(command, ["status", "results/kept", "--json"]), self.scratch / "status.txt", folder)
        status = child.wait()
        said = child.said.read_text()
        if status == 2 and "holds no sweep" in said:
            return
        try:
            assert status == 0
            if "damaged" in (counts := json.loads(said)["counts"]):
                self.wrong.append(f"{name}: a kill damaged a result: {counts}")
        except (AssertionError, ValueError):
            self.wrong.append(f"{name}: status after a kill: {status} {said[-500:]}")

    def one_sweep(self, most: int) -> int:
        """Kill one sweep up to `most` times, finish it, and compare; how many kills there were."""
        name = self.rng.choice(self.names)
        known = self.reference(name)
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        kills = 0
        for _ in range(self.rng.randint(1, min(4, most))):
            if self.rng.random() < 0.25:
                self.signal_once(name, folder, known)
            elif self.kill_once(name, self.words(name), folder, known):
                kills += 1
                self.counts[name] += 1
                self.check_status(name, folder)
        self.finish(name, self.words(name), folder, known.expected)
        if kills < most and self.rng.random() < 0.3:
            kills += self.collect(name, folder)
        shutil.rmtree(folder)
        return kills

    def finish(self, name: str, words: list[str], folder: Path, expected: dict[str, str]) -> None:
        child = self.start(name, words, folder)
        if status := child.wait():
            self.wrong.append(f"{name}: status {status} after kills: {child.said.read_text()[-500:]}")
        if found := differences(expected, digest_in_child(folder / "results/kept", self.scratch)):
            self.wrong.append(f"{name}: differs after kills: {found}")
        if left := left_behind(folder / "results/kept"):
            self.wrong.append(f"{name}: left behind after kills: {left}")

    def collect(self, name: str, folder: Path) -> int:
        """Kill `collect` before one of its file operations: the file is the old one or the new one."""
        words = ["collect", "results/kept"]
        path = folder / "results/kept/collected.nc"
        if self.rng.random() < 0.5:
            self.start(name, words, folder).wait()
        before = path.read_bytes() if path.exists() else None
        killed = self.start(name, words, folder, at_event=self.rng.randint(1, 4)).wait() == -signal.SIGKILL
        if (path.read_bytes() if path.exists() else None) != before and killed and before is not None:
            self.wrong.append(f"{name}: a killed collect altered the file that stood there")
        if self.start(name, words, folder).wait() or (before is not None and path.read_bytes() != before):
            self.wrong.append(f"{name}: collect after a kill")
        if left := left_behind(folder / "results/kept"):
            self.wrong.append(f"{name}: left behind after a killed collect: {left}")
        self.counts["collect"] += killed
        return int(killed)

    def paper(self) -> int:
        """Kill the building of a paper figure; then it is as it would have been."""
        words = ["figures", "notes", "--quick"]
        if "paper" not in self.known:
            folder = Path(tempfile.mkdtemp(dir=self.scratch))
            count, begun = self.scratch / "count", time.monotonic()
            assert self.start("paper", words, folder, count=count).wait() == 0
            expected = {path.name: path.read_bytes().hex() for path in (folder / "results/quick/figures").iterdir()}
            self.known["paper"] = Known(expected, time.monotonic() - begun, int(count.read_text()))
        known = self.known["paper"]
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        killed = self.kill_once("paper", words, folder, known)
        if status := self.start("paper", words, folder).wait():
            self.wrong.append(f"paper figure: status {status}")
        found = {path.name: path.read_bytes().hex() for path in (folder / "results/quick/figures").iterdir()}
        if found != known.expected:
            names = [name for name in {*found, *known.expected} if found.get(name) != known.expected.get(name)]
            self.wrong.append(f"paper figure: differs after a kill: {names}")
        self.counts["paper figure"] += killed
        shutil.rmtree(folder)
        return int(killed)

    # ---------------------------------------------------------------------------------------- under launchers

    def launched(self, launcher: str, environment: dict[str, str], expected: dict[str, str]) -> int:
        """Kill the command, one of its tasks, or all of them, under a launcher; then finish and compare."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        own = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
        if launcher == "slurm":
            own = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1"]
        words = [sys.executable, "-c", _IMPATIENT, "run", "-m", *LAUNCHED.split(), "name=kept", *own]
        kills = 0
        with (self.scratch / "launched.txt").open("w+") as said:

            def start() -> subprocess.Popen[bytes]:
                return subprocess.Popen(
                    words, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True
                )

            for _ in range(self.rng.randint(1, 2)):
                main = start()
                wait_for(lambda main=main: bool(running(folder)) or main.poll() is not None, LONGEST)
                time.sleep(self.rng.uniform(0.0, 2.0))
                whom = self.rng.choice(["main", "task", "all"])
                if main.poll() is None:
                    kills += 1
                    self.counts[f"{launcher}, {whom}"] += 1
                    if whom == "main":
                        main.kill()
                    for pid in running(folder)[: 1 if whom == "task" else None] if whom != "main" else []:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    if whom == "all":
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(main.pid, signal.SIGKILL)
                try:
                    main.wait(LONGEST)
                except subprocess.TimeoutExpired:
                    self.wrong.append(f"{launcher}: hangs after a kill of {whom}")
                    os.killpg(main.pid, signal.SIGKILL)
            status = start().wait(LONGEST)
            if status:
                said.seek(0)
                self.wrong.append(f"{launcher}: status {status} after kills: {said.read()[-800:]}")
        if found := differences(expected, digest_in_child(folder / "results/kept", self.scratch)):
            self.wrong.append(f"{launcher}: differs after kills: {found}")
        if left := left_behind(folder / "results/kept"):
            self.wrong.append(f"{launcher}: left behind after kills: {left}")
        shutil.rmtree(folder)
        return kills

    def under_launchers(self, count: int) -> int:
        import slurm

        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        environment = {key: value for key, value in os.environ.items() if key != "JAX_NUM_CPU_DEVICES"}
        child = fork(partial(command, ["run", "-m", *LAUNCHED.split(), "name=kept"]), self.scratch / "said.txt", folder)
        assert child.wait() == 0, child.said.read_text()
        expected = digest_in_child(folder / "results/kept", self.scratch)
        assert not isinstance(expected, str), expected
        kills = 0
        with slurm.one_node(Path(tempfile.mkdtemp(dir=self.scratch)), environment) as within:
            while kills < count:
                launcher = "slurm" if self.counts_of("slurm") <= self.counts_of("joblib") else "joblib"
                kills += self.launched(launcher, within if launcher == "slurm" else environment, expected)
                print(f"{kills} kills under launchers", file=sys.stderr, flush=True)
        return kills

    def counts_of(self, launcher: str) -> int:
        return sum(count for key, count in self.counts.items() if key.startswith(launcher))


_IMPATIENT = """
import sys
from gradient_horizon.commands import parser as cli, launch
launch.PATIENCE = 20
sys.exit(cli.main(sys.argv[1:]))
"""


def running(folder: Path) -> list[int]:
    """The processes that compute jobs of the sweep there."""
    found = []
    for path in folder.glob("results/kept/*/status.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(path.read_bytes())
            if record["state"] == "running":
                found.append(record["process"])
    return found


def wait_for(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)


def run(
    scratch: Path,
    count: int,
    seed: int,
    *,
    launchers: int = 0,
    names: Sequence[str] = tuple(SWEEPS),
    until: float = float("inf"),
) -> list[str]:
    """Kill `count` times, `launchers` of them under launchers, or until the time `until`; what was wrong."""
    trial = Kills(scratch, random.Random(seed), names)
    done = 0
    while done < count - launchers and time.monotonic() < until:
        done += trial.paper() if trial.rng.random() < 0.05 else trial.one_sweep(count - launchers - done)
        print(f"{done} kills", file=sys.stderr, flush=True)
    if launchers:
        done += trial.under_launchers(launchers)
    told = ", ".join(f"{name} {times}" for name, times in sorted(trial.counts.items()))
    print(f"{done} kills ({told}): {len(trial.wrong)} of them lost, altered or left something")
    return trial.wrong
