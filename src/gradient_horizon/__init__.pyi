__version__: str

__all__ = [
    "CausalityError",
    "FixedPoints",
    "Horizon",
    "HorizonKind",
    "InputGradients",
    "JacobianNorms",
    "Member",
    "Parallelisable",
    "ParameterGradients",
    "ParameterSensitivity",
    "PointKind",
    "TrainSpec",
    "Truncation",
    "TruncationKind",
    "Tuned",
    "Watch",
    "__version__",
    "check_causality",
    "clip_gradients",
    "covariant_lyapunov_vectors",
    "ensemble",
    "finite_time_exponents",
    "fixed_points",
    "gradient_horizon",
    "henrici_departure",
    "horizon_of",
    "horizon_quantile",
    "is_parallelisable",
    "kreiss_lower_bound",
    "load",
    "log_input_gradients",
    "log_jacobian_norms",
    "log_jacobian_norms_all_pairs",
    "log_parameter_gradients",
    "log_parameter_sensitivity",
    "log_singular_values",
    "log_state_gradients",
    "lyapunov_exponents",
    "make_cell",
    "make_task",
    "make_train",
    "node_split",
    "prepare",
    "run",
    "sample_states",
    "theory",
    "transient_growth",
    "truncation_length",
    "tune",
]

from . import theory as theory
from .cells.cell import make_cell as make_cell
from .commands.api import run as run
from .diagnosis.watch import Watch as Watch
from .ensembles.process import prepare as prepare
from .experiments.own_networks import ensemble as ensemble
from .experiments.tune import Tuned as Tuned
from .experiments.tune import tune as tune
from .measures.all_pairs import log_jacobian_norms_all_pairs as log_jacobian_norms_all_pairs
from .measures.causality import CausalityError as CausalityError
from .measures.causality import check_causality as check_causality
from .measures.covariant_vectors import covariant_lyapunov_vectors as covariant_lyapunov_vectors
from .measures.fixed_points import FixedPoints as FixedPoints
from .measures.fixed_points import fixed_points as fixed_points
from .measures.fixed_points import sample_states as sample_states
from .measures.horizon import Horizon as Horizon
from .measures.horizon import gradient_horizon as gradient_horizon
from .measures.horizon import horizon_of as horizon_of
from .measures.horizon import horizon_quantile as horizon_quantile
from .measures.input_gradients import InputGradients as InputGradients
from .measures.input_gradients import log_input_gradients as log_input_gradients
from .measures.jacobian_norms import JacobianNorms as JacobianNorms
from .measures.jacobian_norms import log_jacobian_norms as log_jacobian_norms
from .measures.loss_gradients import log_state_gradients as log_state_gradients
from .measures.lyapunov import lyapunov_exponents as lyapunov_exponents
from .measures.nodes import node_split as node_split
from .measures.normality import henrici_departure as henrici_departure
from .measures.normality import kreiss_lower_bound as kreiss_lower_bound
from .measures.overshoot import is_parallelisable as is_parallelisable
from .measures.overshoot import transient_growth as transient_growth
from .measures.parameter_gradients import ParameterGradients as ParameterGradients
from .measures.parameter_gradients import log_parameter_gradients as log_parameter_gradients
from .measures.parameter_sensitivity import ParameterSensitivity as ParameterSensitivity
from .measures.parameter_sensitivity import log_parameter_sensitivity as log_parameter_sensitivity
from .measures.singular_values import log_singular_values as log_singular_values
from .measures.truncation import Truncation as Truncation
from .measures.truncation import TruncationKind as TruncationKind
from .measures.truncation import truncation_length as truncation_length
from .measures.window_exponents import finite_time_exponents as finite_time_exponents
from .names import HorizonKind as HorizonKind
from .names import Parallelisable as Parallelisable
from .names import PointKind as PointKind
from .store.datasets import load as load
from .tasks.make import make_task as make_task
from .training.clipping import clip_gradients as clip_gradients
from .training.spec import Member as Member
from .training.spec import TrainSpec as TrainSpec
from .training.train import make_train as make_train
