"""The tables that end a sweep: how far the gradient reaches, how fast it grows, what was learned."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
