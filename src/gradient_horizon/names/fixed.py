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


class PointKind(IntEnum):
    """What the linearisation says of a fixed or periodic point; multipliers are the eigenvalues of its Jacobian.

    `STABLE`: every multiplier lies inside the unit circle; `SADDLE`: some lie outside; `REPELLER`: all do. `MARGINAL`:
    within the error a multiplier may lie on either side, or another fixed point may be arbitrarily close. `KINK`: the
    Jacobian jumps there, so that its multipliers decide nothing. `SLOW`: not a fixed point, but a local minimum of
    ‖F(h) - h‖.
    """

    STABLE = 0
    SADDLE = 1
    REPELLER = 2
    MARGINAL = 3
    KINK = 4
    SLOW = 5


HORIZON_KINDS = tuple(kind.name.lower() for kind in HorizonKind)

# The method that extends the product outward from each anchor, at one matrix product per step.
METHOD_OF_ANCHOR = {"end": "pullback", "start": "pushforward"}


class Parallelisable(IntEnum):
    """Whether a recurrence can be run in parallel over time, from the sign of its largest Lyapunov exponent."""

    NO = 0
    YES = 1
    UNDECIDED = 2


VERDICTS = tuple(verdict.name.lower() for verdict in Parallelisable)
