"""The names a setting may take. Nothing here imports JAX, so a wrong name is told before JAX is loaded."""

from enum import IntEnum

VANILLA_CELLS = ("linear", "tanh", "relu", "hard_tanh", "erf", "sigmoid", "leaky_tanh")
CELLS = (*VANILLA_CELLS, "gru", "lstm")
# Cells of one family have the same parameters, so one network can be measured under each of them.
FAMILY_OF_CELL = {**dict.fromkeys(VANILLA_CELLS, "linear"), "gru": "gru", "lstm": "lstm"}
# A vanilla step without a leak lets the gradient back on a single path, through its nodes one after the other.
ONE_PATH_CELLS = tuple(cell for cell in VANILLA_CELLS if cell != "leaky_tanh")
# step(c h) = c step(h) for c > 0, without bias and inputs
HOMOGENEOUS_CELLS = ("linear", "relu")
STATES_OF_CELL = {"lstm": 2}  # vectors of hidden_size in a state, where there are several
BLOCKS = ("state", "hidden", "cell")  # the part of the state that is derived by itself; of an lstm h or c
WEIGHTS = ("gaussian", "orthogonal", "identity", "unit_normal", "np_rnn", "sparse", "sparse_outgoing")
NORMS = ("frobenius", "spectral")
ANCHORS = ("end", "start")
METHODS = ("auto", "jacrev", "pushforward", "pullback")
INPUTS = ("none", "noise", "digits")
TASKS = (
    *("adding", "multiplication", "temporal_order", "temporal_order_3", "copy_memory", "delayed_xor"),
    *("noiseless_memorisation", "random_permutation", "story"),
    *("digits", "permuted_digits", "fashion", "characters"),
)
CLIP_RULES = ("none", "book", "pseudocode", "optax", "pascanu", "value", "adaptive")
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")
PRECISIONS = ("float32", "float64")
EXPERIMENTS = ("jacobian", "singular_values", "lyapunov", "pairs", "nodes", "notes", "training")


class HorizonKind(IntEnum):
    """What ends a gradient at its horizon; `BEYOND`: the sequence ends first; `NONFINITE`: a state is not finite."""

    VANISHED = 0
    EXPLODED = 1
    BEYOND = 2
    NONFINITE = 3


HORIZON_KINDS = tuple(kind.name.lower() for kind in HorizonKind)

# The method that carries the product outward from each anchor, at one matrix product a step.
METHOD_OF_ANCHOR = {"end": "pullback", "start": "pushforward"}
