__all__ = [
    "horizon_table",
    "lyapunov_table",
    "meaning_lines",
    "prediction_table",
    "recheck_lines",
    "solved_table",
    "tables",
    "transient_table",
    "truncation_table",
]

from .all_tables import tables as tables
from .exponents import lyapunov_table as lyapunov_table
from .horizons import horizon_table as horizon_table
from .horizons import recheck_lines as recheck_lines
from .horizons import truncation_table as truncation_table
from .meaning import meaning_lines as meaning_lines
from .training import prediction_table as prediction_table
from .training import solved_table as solved_table
from .transients import transient_table as transient_table
