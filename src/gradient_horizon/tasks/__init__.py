"""Tasks to train networks on, one per file, with their loss and error, and input sequences that drive networks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
