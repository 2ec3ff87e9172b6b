"""Gaussian averages ⟨φ²⟩ and ⟨φ′²⟩ over pre-activations of variance q, as functions of q.

Closed forms where they exist; tanh (and therefore sigmoid, a shifted tanh) by the trapezoid rule. For functions that
are analytic in a strip its error falls like exp(-2π · half width of the strip / step): tanh has its poles at ±iπ/2, so
a step of ¼ in the pre-activation is enough at *every* q. The spacing of Gauss-Hermite nodes is fixed in a/√q instead:
at q = 60, 64 of them miss the peak of tanh′ and give the wrong sign of the log growth.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

Series = Float[np.ndarray, " k"]

_AGREEMENT = 1e-12  # between the trapezoid rule and that with half the step; the remaining error is about its square
_TAIL_IN_SPREADS = 9.0  # exp(-9²/2) = 3e-18
_TAIL_OF_SECH2 = 20.0  # 4 exp(-2 · 20) = 2e-17


@dataclass(frozen=True)
class Moments:
    """`square`(q) = ⟨φ(√q z)²⟩ and `slope_square`(q) = ⟨φ′(√q z)²⟩ of a bounded φ, for z ~ N(0, 1).

    `ceiling` = sup ⟨φ²⟩. `square` is concave, as φ² (for sigmoid, its even part) is concave in a².
    """

    square: Callable[[float], float]
    slope_square: Callable[[float], float]
    ceiling: float = 1.0


def _trapezoid(function: Callable[[Series], Series], q: float, reach: float, step: float) -> float:
    a = step * np.arange(math.ceil(reach / step) + 1)
    values = function(a) * np.exp(-a * a / (2.0 * q))
    return float(step * (2.0 * values.sum() - values[0]) / math.sqrt(2.0 * math.pi * q))


def _average(function: Callable[[Series], Series], q: float) -> float:
    """⟨f(√q z)⟩ for an even f with poles no nearer than ±iπ/2; either f decays like sech² or √q is below 2."""
    spread = math.sqrt(q)
    reach = min(_TAIL_IN_SPREADS * spread, _TAIL_OF_SECH2)
    step = min(0.6 * spread, 0.25)
    coarse = _trapezoid(function, q, reach, step)
    while True:
        step /= 2.0
        fine = _trapezoid(function, q, reach, step)
        if not abs(fine - coarse) > _AGREEMENT * fine:
            return fine
        coarse = fine


def _sech_squared(a: Series) -> Series:
    decay = np.exp(-2.0 * np.abs(a))
    return 4.0 * decay / ((1.0 + decay) * (1.0 + decay))


def _tanh_square(q: float) -> float:
    if q < 1.0:  # for relative accuracy when the mean square is small
        return _average(lambda a: np.tanh(a) ** 2, q) if q > 0 else 0.0
    return 1.0 - _average(_sech_squared, q)


def _tanh_slope_square(q: float) -> float:
    return _average(lambda a: _sech_squared(a) ** 2, q) if q > 0 else 1.0


def _sigmoid_square(q: float) -> float:
    # sigmoid(a) = (1 + tanh(a/2)) / 2, whose odd part averages to zero
    return 0.25 * (1.0 + _tanh_square(0.25 * q))


def _sigmoid_slope_square(q: float) -> float:
    return _tanh_slope_square(0.25 * q) / 16.0


def _erf_square(q: float) -> float:
    # (2/π) asin(2q / (1 + 2q)) without the loss of digits at large q
    return 2.0 / math.pi * math.atan(2.0 * q / math.sqrt(1.0 + 4.0 * q))


def _erf_slope_square(q: float) -> float:
    return 4.0 / (math.pi * math.sqrt(1.0 + 4.0 * q))


def _hard_tanh_square(q: float) -> float:
    # q times the average of z² over |z| < 1/√q, a chi-square of three degrees of freedom, plus the probability outside
    if q == 0:
        return 0.0
    return float(q * special.gammainc(1.5, 0.5 / q) + special.erfc(math.sqrt(0.5 / q)))


def _hard_tanh_slope_square(q: float) -> float:
    return float(special.erf(math.sqrt(0.5 / q))) if q > 0 else 1.0


BOUNDED: dict[str, Moments] = {
    "tanh": Moments(_tanh_square, _tanh_slope_square),
    "hard_tanh": Moments(_hard_tanh_square, _hard_tanh_slope_square),
    "erf": Moments(_erf_square, _erf_slope_square),
    "sigmoid": Moments(_sigmoid_square, _sigmoid_slope_square, ceiling=0.5),  # half of the units are off
}
"""The averages of each bounded φ, by name."""

HOMOGENEOUS: dict[str, float] = {"linear": 1.0, "relu": 0.5}
"""c of each positively homogeneous φ: ⟨φ²⟩ = c q and ⟨φ′²⟩ = c."""
