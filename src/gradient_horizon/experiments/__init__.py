"""Experiments, from a checked `Config` to a labelled Dataset, one per file; slabs of networks held in memory."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
