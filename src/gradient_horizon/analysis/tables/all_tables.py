"""All tables printed at the end of a sweep."""

import xarray as xr
from rich.table import Table

from gradient_horizon.analysis.tables.exponents import lyapunov_table
from gradient_horizon.analysis.tables.horizons import horizon_table, truncation_table
from gradient_horizon.analysis.tables.training import prediction_table, solved_table
from gradient_horizon.analysis.tables.transients import transient_table

_TABLES = (horizon_table, truncation_table, lyapunov_table, transient_table, solved_table, prediction_table)


def tables(dataset: xr.Dataset) -> list[Table]:
    """Return the tables that apply to the result of a sweep.

    `singular_values`, `pairs`, `nodes`, `input_gradients`, `covariant`, `fixed_points` and `notes` have no tables.
    """
    return [table for make in _TABLES if (table := make(dataset)) is not None]
