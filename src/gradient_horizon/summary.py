"""The short tables that end a sweep: how far the gradient reaches, or how fast it grows."""

import itertools
import json
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from rich.table import Table

from gradient_horizon.horizon import neutral_scale
from gradient_horizon.predictions import prediction
from gradient_horizon.results import settings_of

SHOWN_SCALES = (0.5, 1.0, 2.0)
MOST_SCALES = 5  # rows of the table of exponents a swept setting


def tables(dataset: xr.Dataset) -> list[Table]:
    """What there is to tell of the result of a sweep; `pairs`, `nodes` and `notes` speak by their figures."""
    return [table for table in (horizon_table(dataset), lyapunov_table(dataset)) if table is not None]


def _keys(dataset: xr.Dataset) -> list[str]:
    return [key for key in json.loads(dataset.attrs["swept"]) if key in dataset.dims]


def _points(dataset: xr.Dataset, keys: list[str]) -> Iterator[tuple[dict[str, Any], xr.Dataset]]:
    """The combinations of these settings that a job measured."""
    for point in itertools.product(*(dataset[key].values.tolist() for key in keys)):
        at = dict(zip(keys, point, strict=True))
        chosen = dataset.sel(at)
        if chosen.state_size.notnull():
            yield at, chosen


def _shown(scales: list[float]) -> list[float]:
    wanted = [scale for scale in SHOWN_SCALES if scale in scales]
    return wanted or list(dict.fromkeys([scales[0], scales[len(scales) // 2], scales[-1]]))


def _horizon(chosen: xr.Dataset, scale: float, last: int) -> str:
    at = chosen.sel(weight_scale=scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no finite network at this scale
        median = float(np.nanmedian(at.horizon))
    if not np.isfinite(median):
        return "nonfinite"
    if median > last:
        return f"> {last}"
    kinds, counts = np.unique(
        at.horizon_kind.values[np.isin(at.horizon_kind, ["vanished", "exploded"])], return_counts=True
    )
    return f"{median:g} {kinds[counts.argmax()]}"


def horizon_table(dataset: xr.Dataset) -> Table | None:
    """One row a swept setting; None where no horizon was measured."""
    if "horizon" not in dataset:
        return None
    keys = _keys(dataset)
    scales = dataset.weight_scale.values.tolist()
    table = Table(title="Gradient horizon in steps at weight scale g, median over seeds")
    for key in keys:
        table.add_column(key)
    table.add_column("neutral g", justify="right")
    for scale in _shown(scales):
        table.add_column(f"g = {scale:g}", justify="right")
    table.add_column("non-finite", justify="right")
    for at, chosen in _points(dataset, keys):
        norm = chosen.log_norm.isel(norm=0)
        # a weight scale at a time, as the whole may be larger than memory
        measured = [at.notnull().any("seed").values for at in norm.transpose("weight_scale", "seed", "lag")]
        lags = np.flatnonzero(np.any(measured, axis=0))
        last = int(chosen.lag[lags[-1]]) if len(lags) else int(chosen.lag[-1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            growth = np.nanmedian(norm.sel(lag=last), axis=-1) - 0.5 * np.log(float(chosen.state_size))
        neutral = neutral_scale(np.asarray(scales), growth)
        lost = int((chosen.horizon_kind == "nonfinite").sum())
        table.add_row(
            *(str(at[key]) for key in keys),
            f"{neutral:.3f}" if np.isfinite(neutral) else f"none in {scales[0]:g}..{scales[-1]:g}",
            *(_horizon(chosen, scale, last) for scale in _shown(scales)),
            str(lost),
        )
    return table


def _median(values: xr.DataArray, digits: int, *, spread: bool = False) -> str:
    """The median over seeds, and half the 10–90 % range where that is finite."""
    known = values.values[~np.isnan(values.values)]
    if not len(known):
        return ""
    text = f"{np.median(known):z.{digits}f}"
    if not spread or len(known) == 1 or np.isinf(known).any():
        return text
    lower, upper = np.quantile(known, (0.1, 0.9))
    return f"{text}±{(upper - lower) / 2:.{digits}f}"


def lyapunov_table(dataset: xr.Dataset) -> Table | None:
    """One row a swept setting and weight scale, of which up to `MOST_SCALES`; None where no exponents were measured.

    `theory` is ½ log χ, or exact; `D_KY` the Kaplan-Yorke dimension and `entropy` the sum of the positive exponents,
    medians over seeds; `error` the worst violation of the sum rule, per step and unit.
    """
    if "sum_rule_error" not in dataset:
        return None
    keys = _keys(dataset)
    table = Table(title="Largest Lyapunov exponent (1/step), median ± half the 10–90 % range")
    for key in keys:
        table.add_column(key)
    for name in ("g", "λ1", "theory", "D_KY", "entropy", "error"):
        table.add_column(name, justify="right")
    dataset = dataset.sortby("weight_scale")
    last = dataset.sizes["weight_scale"] - 1
    shown = np.linspace(0, last, min(last + 1, MOST_SCALES)).round().astype(int)
    for at, chosen in _points(dataset, keys):
        law = prediction(settings_of(chosen))
        for index in shown:
            row = chosen.isel(weight_scale=index)
            scale, error = float(row.weight_scale), row.sum_rule_error.values
            table.add_row(
                *(str(at[key]) for key in keys),
                f"{scale:g}",
                _median(row.lyapunov_exponent.isel(index=0), 3, spread=True) or "nonfinite",
                f"{law.log_growth(scale):z.3f}" if law else "",
                _median(row.kaplan_yorke_dimension, 1),
                _median(row.entropy_rate, 2),
                f"{np.nanmax(error):.0e}" if np.isfinite(error).any() else "",
                end_section=bool(keys) and index == shown[-1],
            )
    table.caption = "theory: at N → ∞; D_KY: Kaplan-Yorke dimension; error: of the sum rule, at worst"
    return table


def recheck_lines(dataset: xr.Dataset) -> list[str]:
    """The largest difference from `method=jacrev` of each job that was measured again with it."""
    rechecked = json.loads(dataset.attrs.get("recheck", "[]"))
    return [
        f"{entry['job'] or 'single'}: largest |difference| of a log norm from method=jacrev: {entry['difference']:.2g}"
        f" ({entry['networks']} networks, every lag)"
        for entry in rechecked
    ]
