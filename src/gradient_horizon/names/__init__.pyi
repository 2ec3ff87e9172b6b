__all__ = [
    "ANCHORS",
    "BLOCKS",
    "CELLS",
    "CLIP_RULES",
    "EXPERIMENTS",
    "FAMILY_OF_CELL",
    "HOMOGENEOUS_CELLS",
    "HORIZON_KINDS",
    "INPUTS",
    "METHODS",
    "METHOD_OF_ANCHOR",
    "NORMS",
    "ONE_PATH_CELLS",
    "OPTIMIZERS",
    "PRECISIONS",
    "STATES_OF_CELL",
    "TASKS",
    "VANILLA_CELLS",
    "VERDICTS",
    "WEIGHTS",
    "HorizonKind",
    "Parallelisable",
    "PointKind",
]

from .declared import BLOCKS as BLOCKS
from .declared import CELLS as CELLS
from .declared import CLIP_RULES as CLIP_RULES
from .declared import EXPERIMENTS as EXPERIMENTS
from .declared import FAMILY_OF_CELL as FAMILY_OF_CELL
from .declared import HOMOGENEOUS_CELLS as HOMOGENEOUS_CELLS
from .declared import ONE_PATH_CELLS as ONE_PATH_CELLS
from .declared import STATES_OF_CELL as STATES_OF_CELL
from .declared import TASKS as TASKS
from .declared import VANILLA_CELLS as VANILLA_CELLS
from .declared import WEIGHTS as WEIGHTS
from .fixed import ANCHORS as ANCHORS
from .fixed import HORIZON_KINDS as HORIZON_KINDS
from .fixed import INPUTS as INPUTS
from .fixed import METHOD_OF_ANCHOR as METHOD_OF_ANCHOR
from .fixed import METHODS as METHODS
from .fixed import NORMS as NORMS
from .fixed import OPTIMIZERS as OPTIMIZERS
from .fixed import PRECISIONS as PRECISIONS
from .fixed import VERDICTS as VERDICTS
from .fixed import HorizonKind as HorizonKind
from .fixed import Parallelisable as Parallelisable
from .fixed import PointKind as PointKind
