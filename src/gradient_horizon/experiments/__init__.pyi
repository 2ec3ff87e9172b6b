__all__ = ["measure", "slabs"]

from .slab import measure as measure
from .slab import slabs as slabs
