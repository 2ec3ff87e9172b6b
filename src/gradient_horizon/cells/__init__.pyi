__all__ = [
    "Affine",
    "Cell",
    "GRUCell",
    "GRUParams",
    "LSTMCell",
    "LSTMParams",
    "LSTMState",
    "TrainableCell",
    "VanillaCell",
    "VanillaParams",
    "make_cell",
]

from .cell import Cell as Cell
from .cell import TrainableCell as TrainableCell
from .cell import make_cell as make_cell
from .gru import GRUCell as GRUCell
from .gru import GRUParams as GRUParams
from .lstm import LSTMCell as LSTMCell
from .lstm import LSTMParams as LSTMParams
from .lstm import LSTMState as LSTMState
from .vanilla import Affine as Affine
from .vanilla import VanillaCell as VanillaCell
from .vanilla import VanillaParams as VanillaParams
