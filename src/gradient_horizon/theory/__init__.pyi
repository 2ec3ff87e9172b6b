__all__ = [
    "LogGrowth",
    "MeanField",
    "PascanuBounds",
    "PowerNorms",
    "PowerSpectrum",
    "critical_line",
    "gaussian_log_growth_variance",
    "gaussian_lyapunov_exponents",
    "gaussian_power_norms",
    "gaussian_power_spectrum",
    "lstm_forget_log_norm",
    "mean_field",
    "mean_field_horizon",
    "one_unit_critical_log_norm",
    "one_unit_log_growth",
    "pascanu_bounds",
    "relu_log_growth",
]

from .bounds import PascanuBounds as PascanuBounds
from .bounds import pascanu_bounds as pascanu_bounds
from .mean_field_theory import MeanField as MeanField
from .mean_field_theory import critical_line as critical_line
from .mean_field_theory import mean_field as mean_field
from .mean_field_theory import mean_field_horizon as mean_field_horizon
from .one_unit import lstm_forget_log_norm as lstm_forget_log_norm
from .one_unit import one_unit_critical_log_norm as one_unit_critical_log_norm
from .one_unit import one_unit_log_growth as one_unit_log_growth
from .random_matrices import LogGrowth as LogGrowth
from .random_matrices import PowerNorms as PowerNorms
from .random_matrices import PowerSpectrum as PowerSpectrum
from .random_matrices import gaussian_log_growth_variance as gaussian_log_growth_variance
from .random_matrices import gaussian_lyapunov_exponents as gaussian_lyapunov_exponents
from .random_matrices import gaussian_power_norms as gaussian_power_norms
from .random_matrices import gaussian_power_spectrum as gaussian_power_spectrum
from .random_matrices import relu_log_growth as relu_log_growth
