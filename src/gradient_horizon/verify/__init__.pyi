__all__ = [
    "SECTIONS",
    "Check",
    "Comparison",
    "Item",
    "Plot",
    "Section",
    "verify",
]

from .comparison import Check as Check
from .comparison import Comparison as Comparison
from .comparison import Item as Item
from .comparison import Plot as Plot
from .suite import SECTIONS as SECTIONS
from .suite import Section as Section
from .suite import verify as verify
