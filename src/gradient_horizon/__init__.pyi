__version__: str

__all__ = [
    "Horizon",
    "HorizonKind",
    "JacobianNorms",
    "Member",
    "TrainSpec",
    "__version__",
    "clip_gradients",
    "ensemble",
    "gradient_horizon",
    "horizon_of",
    "horizon_quantile",
    "load",
    "log_jacobian_norms",
    "log_jacobian_norms_all_pairs",
    "log_singular_values",
    "lyapunov_exponents",
    "make_cell",
    "make_task",
    "make_train",
    "node_split",
    "prepare",
    "run",
    "theory",
]

from . import theory as theory
from .cells.cell import make_cell as make_cell
from .commands.api import run as run
from .ensembles.process import prepare as prepare
from .experiments.own_networks import ensemble as ensemble
from .measures.all_pairs import log_jacobian_norms_all_pairs as log_jacobian_norms_all_pairs
from .measures.horizon import Horizon as Horizon
from .measures.horizon import gradient_horizon as gradient_horizon
from .measures.horizon import horizon_of as horizon_of
from .measures.horizon import horizon_quantile as horizon_quantile
from .measures.jacobian_norms import JacobianNorms as JacobianNorms
from .measures.jacobian_norms import log_jacobian_norms as log_jacobian_norms
from .measures.lyapunov import lyapunov_exponents as lyapunov_exponents
from .measures.nodes import node_split as node_split
from .measures.singular_values import log_singular_values as log_singular_values
from .names import HorizonKind as HorizonKind
from .store.datasets import load as load
from .tasks.make import make_task as make_task
from .training.clipping import clip_gradients as clip_gradients
from .training.spec import Member as Member
from .training.spec import TrainSpec as TrainSpec
from .training.train import make_train as make_train
