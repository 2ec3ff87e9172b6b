"""The names that files of this package and of installed packages declare."""

from gradient_horizon.names import declare

# The order in which lists and the axes of results show them. Others follow, in the order in which they are found.
_CELLS = ("linear", "tanh", "relu", "hard_tanh", "erf", "sigmoid", "leaky_tanh", "gru", "lstm")
_TASKS = (
    *("adding", "multiplication", "temporal_order", "temporal_order_3", "copy_memory", "delayed_xor"),
    *("noiseless_memorisation", "random_permutation", "story"),
    *("digits", "permuted_digits", "fashion", "characters"),
)
_EXPERIMENTS = (
    *("jacobian", "singular_values", "lyapunov", "covariant", "pairs", "nodes", "input_gradients"),
    *("transient", "fixed_points", "notes", "training"),
)


def _names(kind: type[declare.Declaration], first: tuple[str, ...] = ()) -> tuple[str, ...]:
    every = declare.declared(kind)
    return tuple(dict.fromkeys([*(name for name in first if name in every), *every]))


CELLS = _names(declare.Cell, _CELLS)
_OF_CELL = {name: declare.declared(declare.Cell)[name] for name in CELLS}
FAMILY_OF_CELL = {name: cell.family or name for name, cell in _OF_CELL.items()}
VANILLA_CELLS = tuple(name for name, family in FAMILY_OF_CELL.items() if family == "linear")
ONE_PATH_CELLS = tuple(name for name, cell in _OF_CELL.items() if cell.one_path)
HOMOGENEOUS_CELLS = tuple(name for name, cell in _OF_CELL.items() if cell.homogeneous)
STATES_OF_CELL = {name: cell.states for name, cell in _OF_CELL.items()}
# the part of the state that is differentiated with respect to itself
BLOCKS = ("state", *dict.fromkeys(block for cell in _OF_CELL.values() for block in cell.blocks))
WEIGHTS = _names(declare.Ensemble)
TASKS = _names(declare.Task, _TASKS)
CLIP_RULES = _names(declare.ClipRule)
EXPERIMENTS = _names(declare.Experiment, _EXPERIMENTS)  # last, as their settings refer to the other names
