__all__ = [
    "Watch",
]

from .watch import Watch as Watch
