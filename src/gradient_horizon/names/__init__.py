"""The names that settings accept, the kinds of rules for values, and how one file declares what it adds; no JAX."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
