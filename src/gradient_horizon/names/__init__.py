"""The names that settings accept, the rules for values, and how a file declares what it adds; imports no JAX."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
