"""Figures: a labelled Dataset in, a matplotlib Figure out. One figure a file.

Names load lazily: importing this package does not load matplotlib. Every Figure is built without pyplot, so drawing
opens no window and is safe in a thread.
"""

from importlib import import_module
from typing import Any

_HOME_OF = {
    "quick_look": "overview",
    "sweep_figures": "overview",
    "save": "style",
    "norm_against_lag": "norms",
    "horizon_against_scale": "horizon",
    "growth_of_every_direction": "singular_values",
    "lyapunov_spectrum": "lyapunov",
    "largest_exponent_against_scale": "lyapunov",
    "reach_of_every_pair": "pairs",
    "growth_by_node": "nodes",
    "loss_against_update": "learning",
    "error_against_update": "learning",
    "gradient_norm_against_update": "gradient_norms",
    "state_gradient_over_training": "state_gradients",
    "evolution_of_the_network": "evolution",
    "share_solved_against": "success",
    "accuracy_against": "success",
    "solved_map": "success_map",
    "solving_against_initial_growth": "prediction",
    "norm_growth_and_decay": "notes",
    "tanh_derivative_in_float32": "activations",
}

__all__ = [*_HOME_OF]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"gradient_horizon.figures.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'gradient_horizon.figures' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
