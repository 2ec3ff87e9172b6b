"""How far the gradient reaches, and how exactly that was measured."""

import json
import warnings

import numpy as np
import xarray as xr
from rich.table import Table

from gradient_horizon.horizon import neutral_scale
from gradient_horizon.summary.rows import points_of, swept_keys, table_of

SHOWN_SCALES = (0.5, 1.0, 2.0)


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
    keys = swept_keys(dataset)
    scales = dataset.weight_scale.values.tolist()
    columns = ("neutral g", *(f"g = {scale:g}" for scale in _shown(scales)), "non-finite")
    table = table_of("Gradient horizon in steps at weight scale g, median over seeds", keys, columns)
    for at, chosen in points_of(dataset, keys):
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


def recheck_lines(dataset: xr.Dataset) -> list[str]:
    """The largest difference from `method=jacrev` of each job that was measured again with it."""
    rechecked = json.loads(dataset.attrs.get("recheck", "[]"))
    return [
        f"{entry['job'] or 'single'}: largest |difference| of a log norm from method=jacrev: {entry['difference']:.2g}"
        f" ({entry['networks']} networks, every lag)"
        for entry in rechecked
    ]
