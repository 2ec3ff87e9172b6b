"""How time and memory grow with N, T, and the numbers of networks and devices: log-log fits, and one figure.

The timed work is drawing and measuring networks (log Frobenius norms from the end, float32) chunk by chunk, as in a
sweep. Memory is the peak of a separate process during a run (on Linux, where it can be queried).
"""

import sys
from dataclasses import dataclass

import numpy as np
from bench import Bench
from contestants import OWN, Case, Process
from rows import LESS, MORE, Row, row

BASE: Case = {"n": 32, "networks": 128, "steps": 100, "scale": 1.0}
AXES: dict[str, tuple[int, ...]] = {
    "n": (16, 32, 64, 128, 256),
    "steps": (100, 200, 400, 800, 1600),
    "networks": (128, 256, 512, 1024, 2048),
}
TITLES = {"n": "N", "steps": "T", "networks": "networks", "devices": "devices"}


@dataclass(frozen=True)
class Curve:
    """Seconds (repeats, places) and bytes (places) of a run at each place of an axis.

    With `per_network`, the seconds are of one network.
    """

    axis: str
    places: np.ndarray
    seconds: np.ndarray
    peak: np.ndarray
    per_network: bool

    @property
    def median(self) -> np.ndarray:
        return np.median(self.seconds, axis=0)

    def exponents(self) -> np.ndarray:
        """Return the slope of log time against the log of the place, for each repeat."""
        return np.array([np.polyfit(np.log(self.places), np.log(each), 1)[0] for each in self.seconds])

    def memory_exponent(self) -> float:
        """Return the same slope for memory."""
        return float(np.polyfit(np.log(self.places), np.log(self.peak), 1)[0])


def _curve(bench: Bench, axis: str, places: tuple[int, ...]) -> Curve:
    own, cases = bench.process(OWN), []
    for place in places:
        case = {**BASE, axis: place}
        if axis == "n":  # two chunks at each size
            case["networks"] = 2 * bench.whole_chunks(place, case["steps"], 1)
        cases.append(case)
    calls = {place: own.prepare("own.sweep", case) for place, case in zip(places, cases, strict=True)}
    peaks = [_peak(bench, case) for case in cases]
    taken = bench.alternate(calls)
    each = np.array([case["networks"] for case in cases]) if axis == "n" else np.ones(len(cases))
    seconds = np.stack([taken[place] for place in places], axis=1) / each
    bench.forget()
    return Curve(axis, np.array(places, float), seconds, np.array(peaks, float), axis == "n")


def _peak(bench: Bench, case: Case) -> float:
    """Return the peak bytes of a process that runs this case alone: a shared one keeps what larger cases took."""
    if sys.platform != "linux":
        return float("nan")
    with Process(OWN, bench.folder) as process:
        return process.prepare("own.sweep", case).peak()


def _devices(bench: Bench) -> Curve:
    case = {**BASE, "networks": 1024}
    single = Process(OWN, bench.folder, JAX_NUM_CPU_DEVICES="1")
    double = Process(OWN, bench.folder, JAX_NUM_CPU_DEVICES="2")
    with single, double:
        calls = {1: single.prepare("own.sweep", case), 2: double.prepare("own.sweep", case)}
        peaks = [call.peak() if sys.platform == "linux" else np.nan for call in calls.values()]
        taken = bench.alternate(calls)
    return Curve("devices", np.array([1.0, 2.0]), np.stack([taken[1], taken[2]], axis=1), np.array(peaks), False)


def rows(bench: Bench) -> list[Row]:
    """Return the fitted exponents of time and, where it can be queried, memory; and the gain of a second device."""
    table = []
    for axis, places in AXES.items():
        curve = _curve(bench, axis, places[:4] if bench.quick else places)
        bench.scaling.append(curve)
        over = f"{TITLES[axis]} from {curve.places[0]:.0f} to {curve.places[-1]:.0f}"
        what = "exponent of the time" + (" a network" if curve.per_network else "")
        table.append(row("scaling", what, over, curve.exponents(), LESS, None if axis == "n" else 1.1, unit=""))
        if np.all(curve.peak > 0):
            target = {"networks": 0.1}.get(axis)
            exponent = [curve.memory_exponent()]
            table.append(row("scaling", "exponent of the memory", over, exponent, LESS, target, unit=""))
    curve = _devices(bench)
    bench.scaling.append(curve)
    gain = curve.seconds[:, 0] / curve.seconds[:, 1]
    table.append(row("scaling", "two devices: times as fast as one", "N = 32, 1024 networks", gain, MORE))
    return table
