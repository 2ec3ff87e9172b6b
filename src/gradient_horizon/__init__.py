"""Gradient Horizon: how far back in time can the gradient of a recurrent network reach?

Public names load lazily: importing the package starts neither JAX's backends nor matplotlib.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
