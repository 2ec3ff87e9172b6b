"""Verification of the package against known laws, reported on one page: `gradient-horizon verify`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
