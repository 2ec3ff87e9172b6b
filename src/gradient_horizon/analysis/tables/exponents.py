"""Table of the largest Lyapunov exponent, with its theoretical value."""

import numpy as np
import xarray as xr
from rich.table import Table

from gradient_horizon.analysis.laws import law_for
from gradient_horizon.analysis.tables.layout import few_scales, median_of, points_of, swept_keys, table_of
from gradient_horizon.store.joining import settings_of


def lyapunov_table(dataset: xr.Dataset) -> Table | None:
    """Tabulate Lyapunov exponents, one row per swept setting and weight scale; None if none were measured.

    At most `MOST_SCALES` weight scales are shown. `theory` is ½ log χ, or exact; `D_KY` is the Kaplan-Yorke dimension
    and `entropy` the sum of the positive exponents, both medians over seeds; `error` is the worst violation of the sum
    rule, per step and unit.
    """
    if "sum_rule_error" not in dataset:
        return None
    keys = swept_keys(dataset)
    columns = ("g", "λ1", "theory", "D_KY", "entropy", "error")
    table = table_of("Largest Lyapunov exponent (1/step), median ± half the 10–90 % range", keys, columns)
    dataset = dataset.sortby("weight_scale")
    shown = few_scales(dataset)
    for at, chosen in points_of(dataset, keys):
        law = law_for(settings_of(chosen))
        for index in shown:
            row = chosen.isel(weight_scale=index)
            scale, error = float(row.weight_scale), row.sum_rule_error.values
            table.add_row(
                *(str(at[key]) for key in keys),
                f"{scale:g}",
                median_of(row.lyapunov_exponent.isel(index=0), 3, spread=True) or "nonfinite",
                f"{law.log_growth(scale):z.3f}" if law else "",
                median_of(row.kaplan_yorke_dimension, 1),
                median_of(row.entropy_rate, 2),
                f"{np.nanmax(error):.0e}" if np.isfinite(error).any() else "",
                end_section=bool(keys) and index == shown[-1],
            )
    table.caption = (
        "theory: in the limit N → ∞, or exact; D_KY: Kaplan-Yorke dimension; error: largest, of the sum rule"
    )
    return table
