"""The history of a watched network: its measurements as numbers, as a labelled Dataset, and as a file."""

import logging
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from gradient_horizon import __version__
from gradient_horizon.diagnosis.reading import Reading
from gradient_horizon.measures.horizon import Reach, horizon_of, horizon_quantile
from gradient_horizon.store import datasets
from gradient_horizon.store.netcdf import first_line

WRITING = 0.02  # the share of the time since the watch began that writing may take
_log = logging.getLogger("gradient_horizon.diagnosis.watch")


class Row(NamedTuple):
    """A measurement after an update, in medians over the sequences. Natural logs."""

    update: int
    horizon: Reach
    log_growth: float  # of ∂h_T/∂h_0, per step
    log_norm: np.ndarray  # (T,)
    lyapunov_exponent: float
    saturation: float
    first_bad_time: int
    log_state_gradient_norm: np.ndarray  # (T,)
    loss: float
    log_gradient_norm: float
    is_finite: bool  # of the parameters
    seconds: float

    @property
    def log_size(self) -> float:
        """log(‖∂h_T/∂h_0‖_F / √n)."""
        return self.log_growth * len(self.log_norm)


class Bad(NamedTuple):
    """The first update after which a parameter was not finite."""

    update: int
    last_finite: int | None  # the update of the call before
    parameters: dict[str, int]  # by path: `INFINITE` or `NAN`
    others: int  # the number of parameters that were finite
    is_measured: bool  # at the last finite parameters


def row_of(update: int, reading: Reading, threshold: float, seconds: float) -> Row:
    """The row of a reading whose arrays are on the host."""
    log_norm = np.asarray(reading.log_norm, np.float64)
    n, length = int(reading.state_size), log_norm.shape[1]
    lag, kind = horizon_of(log_norm, n, threshold)
    times = np.asarray(reading.first_bad_time)
    growth = (log_norm[:, -1] - 0.5 * math.log(n)) / length
    return Row(
        update,
        horizon_quantile(lag, kind)[0],
        _median(growth),
        _median(log_norm),
        _median(np.asarray(reading.lyapunov_exponent, np.float64)),
        float(reading.saturation),
        int(min(times[times >= 0], default=-1)),
        np.asarray(reading.log_state_gradient_norm, np.float64),
        float(reading.loss),
        float(reading.log_gradient_norm),
        True,
        seconds,
    )


def _median(values: np.ndarray) -> Any:
    """The median over sequences; the lower of two, as -inf has no mean; NaN if one is NaN."""
    middle = np.sort(values, axis=0)[(len(values) - 1) // 2]
    middle = np.where(np.isnan(values).any(axis=0), np.nan, middle)
    return middle if middle.ndim else float(middle)


def blank_row(update: int, length: int, *, is_finite: bool) -> Row:
    """A row without measurements."""
    nothing, none = math.nan, np.full(length, np.nan)
    kind = "" if is_finite else "nonfinite"
    return Row(
        update, Reach(nothing, kind), nothing, none, nothing, nothing, -1, none, nothing, nothing, is_finite, 0.0
    )


_LABELS: dict[str, tuple[str, str]] = {
    "horizon": ("gradient horizon, median over the probe", "step"),
    "horizon_kind": ("how the gradient ends at the horizon", "1"),
    "log_growth": ("log growth of the Jacobian product over the whole sequence, median over the probe", "1/step"),
    "lyapunov_exponent": ("largest Lyapunov exponent along the probe, median", "1/step"),
    "saturation": ("share of state entries that pass on less than a tenth", "1"),
    "first_bad_time": ("first step of the probe with a non-finite state, or -1", "step"),
    "loss": ("loss on the probe", "1"),
    "log_gradient_norm": ("log norm of the gradient with respect to the parameters, on the probe", "1"),
    "finite": ("whether every parameter is finite", "1"),
    "seconds": ("time of the measurement", "s"),
}


@dataclass(eq=False)
class History:
    """What a watch has found: `rows` in the order of the updates, the first `bad` update, and its `warnings`."""

    sequences: int
    length: int
    threshold: float
    task_length: int
    path: Path | None = None
    rows: list[Row] = field(default_factory=list)
    bad: Bad | None = None
    warnings: list[tuple[int, str]] = field(default_factory=list)
    explanation: str = ""
    began: float = field(default_factory=time.monotonic)
    spent: float = 0.0
    written: tuple[int, Any] = (0, None)
    has_failed: bool = False

    def extrapolated(self, updates: int) -> float:
        """log(‖∂h_T/∂h_0‖_F / √n) after so many more, if it goes on as between the last two rows; NaN if unknown."""
        rows = [row for row in self.rows if math.isfinite(row.log_size)][-2:]
        if len(rows) < 2 or rows[1] is not self.rows[-1] or rows[1].update <= rows[0].update:
            return math.nan
        return rows[1].log_size + updates * (rows[1].log_size - rows[0].log_size) / (rows[1].update - rows[0].update)

    def dataset(self) -> xr.Dataset:
        """The rows as a Dataset with dimensions `update`, `lag` and `time`."""
        rows, along = self.rows, np.arange(1, self.length + 1)
        columns = {
            "horizon": [row.horizon.lag for row in rows],
            "horizon_kind": np.array([row.horizon.kind for row in rows], dtype="U9"),
            **{
                name: [getattr(row, name) for row in rows]
                for name in _LABELS
                if name in Row._fields and name != "horizon"
            },
            "finite": np.array([row.is_finite for row in rows], dtype=bool),
        }
        variables: dict[str, Any] = {
            name: ("update", np.asarray(columns[name]), {"long_name": title, "units": units})
            for name, (title, units) in _LABELS.items()
        }
        shape = (len(rows), self.length)
        for name, dim, title in (
            ("log_norm", "lag", "log Frobenius norm of the Jacobian product, median over the probe"),
            ("log_state_gradient_norm", "time", "log norm of the gradient of the loss with respect to the states"),
        ):
            values = np.array([getattr(row, name) for row in rows]).reshape(shape)
            variables[name] = (("update", dim), values, {"long_name": title, "units": "1"})
        coordinates = {
            "update": (
                "update",
                np.array([row.update for row in rows], np.int64),
                {"long_name": "update", "units": "1"},
            ),
            "lag": ("lag", along, {"long_name": "lag", "units": "step"}),
            "time": ("time", along, {"long_name": "time", "units": "step"}),
        }
        return xr.Dataset(variables, coordinates, self._attributes())

    def _attributes(self) -> dict[str, Any]:
        bad = self.bad
        return {
            "title": "Gradient Horizon: a network on its way",
            "sequences": self.sequences,
            "steps": self.length,
            "task_length": self.task_length,
            "horizon_threshold": self.threshold,
            "first_bad_update": -1 if bad is None else bad.update,
            "first_bad_parameters": "" if bad is None else ", ".join(bad.parameters),
            "last_finite_update": -1 if bad is None or bad.last_finite is None else bad.last_finite,
            "warnings": "\n".join(text for _, text in self.warnings),
            "explanation": self.explanation,
            "package_version": __version__,
            "jax_version": jax.__version__,
        }

    def write(self, *, at_once: bool = True) -> None:
        """Write the file unless it is up to date; not `at_once`: only if writing has not taken too long so far.

        The file is replaced as a whole, by renaming: whatever ends the process leaves the old one or the new one. A
        failure is logged, once until it recovers.
        """
        state = len(self.rows), self.bad
        if self.path is None or self.written == state:
            return
        start = time.monotonic()
        if not at_once and self.written[0] and self.spent > WRITING * (start - self.began):
            return
        try:
            datasets.save(self.dataset(), self.path)
            self.written, self.has_failed = state, False
        except Exception as error:
            if not self.has_failed:
                text = first_line(error)
                _log.warning(
                    "the table was not written to %s (%s); it is kept in memory, and training goes on", self.path, text
                )
            self.has_failed = True
        self.spent += time.monotonic() - start


def check_path(path: str | os.PathLike[str]) -> Path:
    """`path` as an absolute path; `ValueError` unless a new file can be created there."""
    place = Path(path).absolute()
    allowed = "the name of a new file in a folder that exists and can be written"
    if place.exists() or place.is_symlink():
        kind = "a folder" if place.is_dir() else "there already, and would be lost"
        raise ValueError(f"path: {str(path)!r} is {kind}; allowed: {allowed}")
    if not place.parent.is_dir():
        raise ValueError(f"path: {str(path)!r} has no folder {str(place.parent)!r}; allowed: {allowed}")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise ValueError(f"path: {str(path)!r} is in a folder that cannot be written; allowed: {allowed}")
    return place
