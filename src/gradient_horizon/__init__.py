"""Gradient Horizon: how far back in time can the gradient of a recurrent network reach?

Public names load lazily: importing the package starts neither JAX's backends nor matplotlib.
"""

import warnings
from types import SimpleNamespace
from typing import Any

import lazy_loader

_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Return a public name; `runtime.prepare` of version 0.1, which also enables float64, still works and warns."""
    if name != "runtime":
        return _public_name(name)
    from gradient_horizon.ensembles.process import prepare_own

    warnings.warn("gradient_horizon.runtime.prepare is now gradient_horizon.prepare", DeprecationWarning, stacklevel=2)
    return SimpleNamespace(prepare=prepare_own)
