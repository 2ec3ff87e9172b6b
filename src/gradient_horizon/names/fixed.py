"""The names whose meaning is built in; those that files declare are in `declared`."""

from enum import IntEnum

NORMS = ("frobenius", "spectral")
ANCHORS = ("end", "start")
METHODS = ("auto", "jacrev", "pushforward", "pullback")
INPUTS = ("none", "noise", "digits")
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")
PRECISIONS = ("float32", "float64")


class HorizonKind(IntEnum):
    """How a gradient ends at its horizon; `BEYOND`: the sequence ends first; `NONFINITE`: a state is not finite."""

    VANISHED = 0
    EXPLODED = 1
    BEYOND = 2
    NONFINITE = 3


HORIZON_KINDS = tuple(kind.name.lower() for kind in HorizonKind)

# The method that extends the product outward from each anchor, at one matrix product per step.
METHOD_OF_ANCHOR = {"end": "pullback", "start": "pushforward"}


class Parallelisable(IntEnum):
    """Whether a recurrence can be run in parallel over time, from the sign of its largest Lyapunov exponent."""

    NO = 0
    YES = 1
    UNDECIDED = 2


VERDICTS = tuple(verdict.name.lower() for verdict in Parallelisable)
