"""Table of transient growth: overshoot, its lag, departure from normality, and verdicts on parallelisability."""

import numpy as np
import xarray as xr
from rich.table import Table

from gradient_horizon.analysis.tables.layout import few_scales, median_of, points_of, swept_keys, table_of
from gradient_horizon.names import Parallelisable


def transient_table(dataset: xr.Dataset) -> Table | None:
    """Tabulate transient growth, one row per swept setting and weight scale; None if it was not measured.

    At most `MOST_SCALES` weight scales are shown. `overshoot` is the largest ‖M_k‖₂ exp(-λ₁ k) as a factor and `lag`
    where it is reached, `departure` that of W from normality, all medians over seeds; `parallel` counts the networks
    that are parallelisable in time, undecided, and not.
    """
    if "log_overshoot" not in dataset:
        return None
    keys = swept_keys(dataset)
    columns = ("g", "overshoot", "lag", "λ1", "departure", "parallel: yes/?/no")
    table = table_of("Transient growth, medians over seeds", keys, columns)
    dataset = dataset.sortby("weight_scale")
    shown = few_scales(dataset)
    for at, chosen in points_of(dataset, keys):
        for index in shown:
            row = chosen.isel(weight_scale=index)
            verdicts = row.parallelisable.values[row.finite.values == 1]
            counts = [
                int(np.sum(verdicts == int(which)))
                for which in (Parallelisable.YES, Parallelisable.UNDECIDED, Parallelisable.NO)
            ]
            with np.errstate(over="ignore"):
                factor = np.exp(row.log_overshoot)
            table.add_row(
                *(str(at[key]) for key in keys),
                f"{float(row.weight_scale):g}",
                median_of(factor, 2) or "nonfinite",
                median_of(row.overshoot_lag.where(row.overshoot_lag >= 0), 0),
                median_of(row.largest_exponent, 3, spread=True),
                median_of(row.henrici_of_w, 2),
                "/".join(map(str, counts)),
                end_section=bool(keys) and index == shown[-1],
            )
    table.caption = "overshoot: largest ‖∂h_k/∂h_0‖₂ over exp(λ1 k); departure: of W, relative; ?: within 3 errors of 0"
    return table
