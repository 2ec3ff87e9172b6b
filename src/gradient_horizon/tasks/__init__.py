"""Sequences that drive a network and that it learns from: one task a file, with its limits."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
