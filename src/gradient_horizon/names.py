"""The names that each setting accepts. JAX-free, so that a wrong name is reported before JAX is loaded."""

from enum import IntEnum

VANILLA_CELLS = ("linear", "tanh", "relu", "hard_tanh", "erf", "sigmoid", "leaky_tanh")
CELLS = (*VANILLA_CELLS, "gru", "lstm")
# Cells of one family share their parameters, so the same network can be measured under each of them.
FAMILY_OF_CELL = {**dict.fromkeys(VANILLA_CELLS, "linear"), "gru": "gru", "lstm": "lstm"}
# In a vanilla step without a leak the gradient flows back along a single path, through one node after another.
ONE_PATH_CELLS = tuple(cell for cell in VANILLA_CELLS if cell != "leaky_tanh")
# step(c h) = c step(h) for c > 0, in the absence of bias and inputs
HOMOGENEOUS_CELLS = ("linear", "relu")
STATES_OF_CELL = {"lstm": 2}  # number of vectors of length hidden_size in the state, if more than one
BLOCKS = (
    "state",
    "hidden",
    "cell",
)  # the part of the state that is differentiated with respect to itself; for an LSTM h or c
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
    """How a gradient ends at its horizon; `BEYOND`: the sequence ends first; `NONFINITE`: a state is not finite."""

    VANISHED = 0
    EXPLODED = 1
    BEYOND = 2
    NONFINITE = 3


HORIZON_KINDS = tuple(kind.name.lower() for kind in HorizonKind)

# The method that extends the product outward from each anchor, at one matrix product per step.
METHOD_OF_ANCHOR = {"end": "pullback", "start": "pushforward"}
