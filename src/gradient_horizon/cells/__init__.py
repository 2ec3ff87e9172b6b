"""Recurrent cells as one-step maps, one family per file, with their activations and ensembles of weights."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
