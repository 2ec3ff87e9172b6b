__all__ = [
    "map_networks",
]

from .blocks import map_networks as map_networks
