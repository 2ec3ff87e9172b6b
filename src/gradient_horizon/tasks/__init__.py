"""Tasks to train networks on, and input sequences that drive them: one task per file, and the limits of each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
