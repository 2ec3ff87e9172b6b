"""Thousands of networks on one machine: devices, blocks that are compiled together, vmap with the batch axis last."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
