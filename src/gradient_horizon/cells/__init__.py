"""Recurrent cells as one-step maps: activations, weight ensembles, and vanilla, GRU and LSTM cells."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
