"""What theory predicts: closed forms, and integrals in one dimension, to lay over what is measured.

Everything here runs on the host in float64 and returns Python floats or NumPy arrays. Logs are natural and per step.

| law | functions |
|---|---|
| mean field of wide networks | `mean_field`, `critical_line`, `mean_field_horizon` |
| fresh Gaussian matrices | `gaussian_lyapunov_exponents`, `gaussian_log_growth_variance`, `relu_log_growth` |
| powers of one Gaussian matrix | `gaussian_power_norms`, `gaussian_power_spectrum` |
| one unit, one gate | `one_unit_log_growth`, `one_unit_critical_log_norm`, `lstm_forget_log_norm` |
| any network | `pascanu_bounds` |
"""

from gradient_horizon.theory.bounds import PascanuBounds, pascanu_bounds
from gradient_horizon.theory.fixed_point import MeanField, critical_line, mean_field, mean_field_horizon
from gradient_horizon.theory.random_matrices import (
    LogGrowth,
    PowerNorms,
    PowerSpectrum,
    gaussian_log_growth_variance,
    gaussian_lyapunov_exponents,
    gaussian_power_norms,
    gaussian_power_spectrum,
    relu_log_growth,
)
from gradient_horizon.theory.units import lstm_forget_log_norm, one_unit_critical_log_norm, one_unit_log_growth

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
