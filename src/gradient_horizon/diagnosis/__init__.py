"""Diagnosis of a network on its way: measured while it trains, explained in words."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
