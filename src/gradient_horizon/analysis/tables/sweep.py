"""The short tables that end a sweep: how far the gradient reaches, how fast it grows, what was learned."""

import xarray as xr
from rich.table import Table

from gradient_horizon.analysis.tables.exponents import lyapunov_table
from gradient_horizon.analysis.tables.horizons import horizon_table
from gradient_horizon.analysis.tables.training import prediction_table, solved_table

_TABLES = (horizon_table, lyapunov_table, solved_table, prediction_table)


def tables(dataset: xr.Dataset) -> list[Table]:
    """What there is to tell of the result of a sweep; `pairs`, `nodes` and `notes` speak by their figures."""
    return [table for make in _TABLES if (table := make(dataset)) is not None]
