"""Mean field of wide networks h_t = φ(W h_{t-1} + U x_t + b): the variance q of a pre-activation and the growth χ.

Exact as N → ∞ for Gaussian W ~ N(0, g²/N) and b ~ N(0, σ_b²). At finite N the growth scatters and is somewhat lower on
average; `gaussian_log_growth_variance` gives the scale of the scatter.
"""

import math
from typing import NamedTuple

from gradient_horizon.theory.moments import BOUNDED, HOMOGENEOUS, Moments
from gradient_horizon.theory.numbers import log, number, positive_root

_ROUNDING = 1e-15  # of g² c: a ReLU network whose weight scale is the float nearest to √2 counts as critical
_RESOLUTION = 1e-13  # of χ: the accuracy of the averages


class MeanField(NamedTuple):
    """`q`: variance of a pre-activation; `chi`: growth of ‖M‖_F² per step; `log_growth`: ½ log χ, natural, per step."""

    q: float
    chi: float
    log_growth: float


def _check(activation: str) -> None:
    if activation not in BOUNDED and activation not in HOMOGENEOUS:
        allowed = ", ".join((*HOMOGENEOUS, *BOUNDED))
        raise ValueError(f"activation: {activation!r} has no mean field here; allowed: {allowed}")


def _offset(bias_scale: float, input_variance: float) -> float:
    return number("bias_scale", bias_scale) ** 2 + number("input_variance", input_variance)


def _homogeneous_variance(gain: float, offset: float) -> float:
    if abs(gain - 1.0) <= _ROUNDING:
        return math.inf if offset > 0 else math.nan
    return offset / (1.0 - gain) if gain < 1.0 else math.inf


def _bounded_variance(moments: Moments, squared_scale: float, offset: float) -> float:
    lowest = squared_scale * moments.square(0.0) + offset
    if squared_scale == 0.0 or (lowest == 0.0 and squared_scale * moments.slope_square(0.0) <= 1.0):
        return lowest

    def excess(q: float) -> float:
        return (squared_scale * moments.square(q) + offset) / q - 1.0

    highest = squared_scale * moments.ceiling + offset
    low = lowest if lowest > 0 else highest
    while excess(low) <= 0.0:
        low /= 16.0
        if low < 1e-300:
            return 0.0
    return positive_root(excess, low, highest)


def mean_field(activation: str, weight_scale: float, bias_scale: float = 0.0, input_variance: float = 0.0) -> MeanField:
    """The stable fixed point of q = g²⟨φ(√q z)²⟩ + σ_b² + v, z ~ N(0, 1), and χ = g²⟨φ′(√q z)²⟩ at that point.

    ‖M‖_F² grows by χ per step and the largest Lyapunov exponent is `log_growth` = ½ log χ; -inf at g = 0.

    **Arguments:** `activation`: linear, relu, tanh, hard_tanh, erf or sigmoid. `weight_scale`: g. `bias_scale`: σ_b.
    `input_variance`: v, the variance of (U x_t)_i; for U ~ N(0, s²/D) it is s² times the mean square of x's entries.

    **Which fixed point:** ⟨φ²⟩ is concave in q for every bounded φ here, so there is at most one positive fixed point,
    and it is stable. For odd φ with σ_b = v = 0, q = 0 is also a fixed point, stable up to g φ′(0) = 1, where the
    positive one appears. Linear and ReLU (c = 1, ½): q = (σ_b² + v)/(1 - c g²) if c g² < 1 and inf if c g² > 1; at
    c g² = 1 it is inf, or undetermined (nan) if σ_b = v = 0; χ = c g² always.

    **Accuracy:** errors below 1e-12, absolute in χ and the log growth, and relative to max(q, 1) in q.

    **Raises:** `ValueError` for another activation, or for a setting that is negative or not finite.

    Sompolinsky, Crisanti, Sommers 1988; Molgedey, Schuchhardt, Schuster 1992 (discrete time, and the exponent);
    Poole et al. 2016 and Schoenholz et al. 2017 (length map, χ₁); Chen, Pennington, Schoenholz 2018 (recurrent,
    with inputs). Closed forms: erf, Williams 1997; ReLU, Cho and Saul 2009.
    """
    _check(activation)
    squared_scale = number("weight_scale", weight_scale) ** 2
    offset = _offset(bias_scale, input_variance)
    if activation in HOMOGENEOUS:
        chi = squared_scale * HOMOGENEOUS[activation]
        q = _homogeneous_variance(chi, offset)
    else:
        moments = BOUNDED[activation]
        q = _bounded_variance(moments, squared_scale, offset)
        chi = squared_scale * moments.slope_square(q)
    return MeanField(q, chi, 0.5 * log(chi))


def critical_line(activation: str, bias_scale: float = 0.0, input_variance: float = 0.0) -> float:
    """The edge of chaos: the weight scale g at which `mean_field` has χ = 1.

    1/φ′(0) for odd φ without bias and input variance (tanh and hard_tanh 1, erf √π/2); √2 for ReLU and 1 for linear,
    whatever their values. Otherwise q solves the single equation q = ⟨φ²⟩/⟨φ′²⟩ + σ_b² + v, and g = ⟨φ′²⟩^(-½).
    Error below 1e-8, and below 1e-11 if σ_b² + v is above 1e-12 (or 0).

    Arguments and errors as for `mean_field`. Poole et al. 2016; Schoenholz et al. 2017.
    """
    _check(activation)
    offset = _offset(bias_scale, input_variance)
    if activation in HOMOGENEOUS:
        return math.sqrt(1.0 / HOMOGENEOUS[activation])
    moments = BOUNDED[activation]
    low = moments.square(0.0) + offset
    if low == 0.0:
        return 1.0 / math.sqrt(moments.slope_square(0.0))

    def excess(q: float) -> float:
        return moments.square(q) / moments.slope_square(q) + offset - q

    high = 2.0 * low
    while excess(high) > 0.0:
        high *= 2.0
    return 1.0 / math.sqrt(moments.slope_square(positive_root(excess, low, high)))


def mean_field_horizon(
    activation: str,
    weight_scale: float,
    bias_scale: float = 0.0,
    input_variance: float = 0.0,
    threshold: float = 3.0,
) -> float:
    """The gradient horizon that `mean_field` predicts: the first lag τ ≥ 1 with τ · |½ log10 χ| > `threshold`.

    In steps, a whole number as a float; inf if χ is 1 (to 1e-13). Vanishing if χ < 1, exploding if χ > 1.
    Arguments and errors as for `mean_field`; `threshold`, in powers of ten, is at least 0.
    """
    threshold = number("threshold", threshold)
    field = mean_field(activation, weight_scale, bias_scale, input_variance)
    if abs(field.chi - 1.0) <= _RESOLUTION:
        return math.inf
    return float(math.floor(threshold * math.log(10.0) / abs(field.log_growth)) + 1)
