"""Gradient Horizon: how far back in time can the gradient of a recurrent network reach?

Public names load lazily: importing the package starts neither JAX's backends nor matplotlib.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME_OF = {
    "make_cell": "cells",
    "log_jacobian_norms": "jacobian",
    "log_jacobian_norms_all_pairs": "all_pairs",
    "log_singular_values": "spectra",
    "lyapunov_exponents": "lyapunov",
    "node_split": "backprop",
    "JacobianNorms": "jacobian",
    "gradient_horizon": "horizon",
    "Horizon": "horizon",
    "HorizonKind": "names",
    "horizon_quantile": "horizon",
    "clip_gradients": "clipping",
    "make_task": "tasks",
    "make_train": "training",
    "TrainSpec": "training",
    "Member": "training",
    "prepare": "process",
    "run": "api",
    "load": "results",
}

_MODULES = ("theory",)

__all__ = ["__version__", *_HOME_OF, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"gradient_horizon.{_HOME_OF[name]}"), name)
    if name in _MODULES:
        return import_module(f"gradient_horizon.{name}")
    raise AttributeError(f"module 'gradient_horizon' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
