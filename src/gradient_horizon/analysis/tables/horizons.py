"""Table of gradient horizons, and lines reporting how accurately the norms were measured."""

import json

import numpy as np
import xarray as xr
from jaxtyping import Float
from rich.table import Table

from gradient_horizon.analysis.tables.layout import points_of, swept_keys, table_of
from gradient_horizon.measures.horizon import Reach, horizon_quantile, neutral_scale
from gradient_horizon.measures.truncation import LEAST_LAGS, truncation_length

SHOWN_SCALES = (0.5, 1.0, 2.0)
BIAS = 0.01  # of the truncation lengths that are tabulated


def _shown(scales: list[float]) -> list[float]:
    wanted = [scale for scale in SHOWN_SCALES if scale in scales]
    return wanted or list(dict.fromkeys([scales[0], scales[len(scales) // 2], scales[-1]]))


def _reach(reach: Reach) -> str:
    if not reach.kind:
        return ""  # no such network
    if reach.kind == "beyond":
        return f"> {reach.lag - 1:g}"
    return "? exploded" if reach.kind == "nonfinite" else f"{reach.lag:g} {reach.kind}"


def _horizon(chosen: xr.Dataset, scale: float) -> str:
    """Return the median over seeds: the lower of the middle two if they have the same kind, otherwise both.

    If any networks overflow, both are given, since the unknown lags of those networks separate them.
    """
    at = chosen.sel(weight_scale=scale)
    lower, upper = horizon_quantile(at.horizon.values, at.horizon_kind.values)
    ends = _reach(lower), _reach(upper)
    if lower.kind != upper.kind:
        return f"{ends[0]} to {ends[1]}"
    if ends[0] == ends[1] or "nonfinite" not in at.horizon_kind.values:
        return ends[0]
    return f"{lower.lag:g}–{upper.lag:g} {lower.kind}"


def _median_growth(chosen: xr.Dataset, last: int) -> Float[np.ndarray, " G"]:
    """Return the median over seeds, at each weight scale, of log(‖M‖_F / √n) at lag `last`.

    If the Frobenius norm was not measured, of log ‖M‖₂. A network that overflows has a growth of +inf. The midpoint of
    a finite and an infinite value is the infinite one, and that of -inf and +inf is -inf. NaN if no network was
    measured.
    """
    measured = chosen.log_norm.norm.values.tolist()
    norm = "frobenius" if "frobenius" in measured else measured[0]
    offset = 0.5 * np.log(float(chosen.state_size)) if norm == "frobenius" else 0.0
    values = chosen.log_norm.sel(norm=norm, lag=last).transpose("weight_scale", "seed").values - offset
    exists = chosen.horizon_kind.transpose("weight_scale", "seed").values != ""
    return np.array(
        [_median(np.where(np.isnan(row), np.inf, row)[there]) for row, there in zip(values, exists, strict=True)]
    )


def _median(values: Float[np.ndarray, " S"]) -> float:
    """Return the median of numbers that may be infinite; NaN if there are none."""
    if not len(values):
        return np.nan
    low, high = np.sort(values)[[(len(values) - 1) // 2, len(values) // 2]]
    return float(low if np.isneginf(low) or low == high else (low + high) / 2)


def _neutral(scales: Float[np.ndarray, " G"], growth: Float[np.ndarray, " G"]) -> str:
    """Return the neutral scale as text, or the side of the measured scales on which it may lie."""
    neutral = neutral_scale(scales, growth)
    if np.isfinite(neutral):
        return f"{neutral:.3f}"
    known = growth[~np.isnan(growth)]
    if len(known) and np.all(known < 0):
        return f"> {scales[-1]:g}"
    if len(known) and np.all(known >= 0):
        return f"< {scales[0]:g}"
    return f"none in {scales[0]:g}..{scales[-1]:g}"


def horizon_table(dataset: xr.Dataset) -> Table | None:
    """Tabulate gradient horizons, one row per swept setting; None if no horizon was measured.

    The median is that of `horizon_quantile`; if it lies between two networks of different kinds, both are given.
    """
    if "horizon" not in dataset:
        return None
    keys = swept_keys(dataset)
    scales = dataset.weight_scale.values.tolist()
    columns = ("neutral g", *(f"g = {scale:g}" for scale in _shown(scales)), "non-finite")
    ascending = np.argsort(scales)
    table = table_of("Gradient horizon in steps at weight scale g, median over seeds", keys, columns)
    for at, chosen in points_of(dataset, keys):
        norm = chosen.log_norm.isel(norm=0)
        # one weight scale at a time: the whole may be larger than memory
        measured = [at.notnull().any("seed").values for at in norm.transpose("weight_scale", "seed", "lag")]
        lags = np.flatnonzero(np.any(measured, axis=0))
        last = int(chosen.lag[lags[-1]]) if len(lags) else int(chosen.lag[-1])
        lost = int((chosen.horizon_kind == "nonfinite").sum())
        table.add_row(
            *(str(at[key]) for key in keys),
            _neutral(np.asarray(scales)[ascending], _median_growth(chosen, last)[ascending]),
            *(_horizon(chosen, scale) for scale in _shown(scales)),
            str(lost),
        )
    neutral, *reaches = ([str(cell) for cell in column.cells] for column in table.columns[len(keys) : -1])
    table.caption = _caption(neutral, [cell for cells in reaches for cell in cells])
    return table


def truncation_table(dataset: xr.Dataset) -> Table | None:
    """Tabulate the steps of backpropagation that keep the gradient's bias below `BIAS`, one row per swept setting.

    The median over seeds of `truncation_length` of the Frobenius norms, the upper one of the middle two; None if they
    were not measured, from the end, at `LEAST_LAGS` lags.
    """
    if "horizon" not in dataset or "frobenius" not in dataset.norm or dataset.sizes["lag"] < LEAST_LAGS:
        return None
    keys, scales = swept_keys(dataset), dataset.weight_scale.values.tolist()
    columns = tuple(f"g = {scale:g}" for scale in _shown(scales))
    table = table_of(f"Steps of backpropagation for a bias of {BIAS:.0%}, median over seeds", keys, columns)
    for at, chosen in points_of(dataset, keys):
        table.add_row(*(str(at[key]) for key in keys), *(_length(chosen, scale) for scale in _shown(scales)))
    cells = [str(cell) for column in table.columns[len(keys) :] for cell in column.cells]
    table.caption = "never: the gradient does not decay" if "never" in cells else None
    return table


def _length(chosen: xr.Dataset, scale: float) -> str:
    """Return the median truncation length; `> T + 1` if it is extrapolated, since then only that is measured."""
    at = chosen.sel(weight_scale=scale)
    values = at.log_norm.sel(norm="frobenius").transpose("seed", "lag").values[at.horizon_kind.values != ""]
    values = values[:, : _measured_lags(values)]
    if not len(values) or values.shape[1] < LEAST_LAGS:
        return ""
    lengths = truncation_length(values, BIAS, state_size=int(chosen.state_size)).length
    median = np.sort(np.where(np.isnan(lengths), np.inf, lengths))[len(lengths) // 2]
    if np.isinf(median):
        return "never"
    last = values.shape[1]
    return f"{median:.0f}" if median <= last + 1 else f"> {last + 1}"


def _measured_lags(values: Float[np.ndarray, "S T"]) -> int:
    """Return the number of lags up to the last at which any network has a number: a shorter job has no more."""
    known = np.flatnonzero(~np.isnan(values).all(axis=0))
    return int(known[-1]) + 1 if len(known) else 0


def _caption(neutral: list[str], reaches: list[str]) -> str | None:
    """Explain the less common entries."""
    remarks = {
        "neutral g > or <: the median gradient vanishes or explodes at every scale": any(
            cell.startswith((">", "<")) for cell in neutral
        ),
        "none: the median never crosses from vanishing to exploding": any(cell.startswith("none") for cell in neutral),
        "a–b, a to b: the median lies between": any("–" in cell or " to " in cell for cell in reaches),
        "?: at least half overflow, at an unknown lag": any("?" in cell for cell in reaches),
    }
    return "; ".join(words for words, is_needed in remarks.items() if is_needed) or None


def recheck_lines(dataset: xr.Dataset) -> list[str]:
    """Report the largest difference from `method=jacrev` of each job that was measured again with it."""
    rechecked = json.loads(dataset.attrs.get("recheck", "[]"))
    return [
        f"{entry['job'] or 'single'}: largest |difference| in a log norm from method=jacrev: {entry['difference']:.2g}"
        f" ({entry['networks']} networks, every lag)"
        for entry in rechecked
    ]
