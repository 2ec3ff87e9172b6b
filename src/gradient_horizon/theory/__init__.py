"""Theoretical predictions to compare with measurements: closed forms and one-dimensional integrals.

Everything here runs on the host in float64 and returns Python floats or NumPy arrays. Logs are natural and per step.

| law | functions |
|---|---|
| mean field of wide networks | `mean_field`, `critical_line`, `mean_field_horizon` |
| fresh Gaussian matrices | `gaussian_lyapunov_exponents`, `gaussian_log_growth_variance`, `relu_log_growth` |
| powers of one Gaussian matrix | `gaussian_power_norms`, `gaussian_power_spectrum` |
| one unit, one gate | `one_unit_log_growth`, `one_unit_critical_log_norm`, `lstm_forget_log_norm` |
| any network | `pascanu_bounds` |
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
