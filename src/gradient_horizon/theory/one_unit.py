"""Closed forms of the Jacobian product for networks of one unit and for an LSTM's forget gate."""

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from gradient_horizon.theory.numbers import counts, log, number, positive_root

_LOG_2 = math.log(2.0)


def one_unit_log_growth(weight: float) -> float:
    """Log growth per step of the gradient of h_t = tanh(w h_{t-1}) once h has settled: natural log, to rounding.

    log|w| up to |w| = 1, where h → 0; above, log(|w| (1 - h*²)) < 0 at the fixed point h* = tanh(|w| h*) ≠ 0. A
    negative w only makes h alternate in sign. 0 at |w| = 1, where the decay is a power law
    (`one_unit_critical_log_norm`); -inf at w = 0.
    Raises `ValueError` for a weight that is not finite. The pitchfork of one unit: Strogatz, section 3.4.
    """
    w = abs(number("weight", weight, low=-math.inf))
    if w <= 1.0:
        return log(w)
    a = positive_root(lambda a: w * math.tanh(a) - a, min(1e-9, 0.5 * math.sqrt(w - 1.0)), w)
    return math.log(w) + 2.0 * (_LOG_2 - a - math.log1p(math.exp(-2.0 * a)))


def one_unit_critical_log_norm(steps: ArrayLike, initial_state: float = 1.0) -> Float[np.ndarray, "..."]:
    """log|∂h_t/∂h_0| of h_t = tanh(h_{t-1}) after t = `steps`: the critical power law, -(3/2) log t + log C.

    u = 1/h² obeys u_t = u_{t-1} + 2/3 + 1/(15u) - 2/(189u²) + ..., so h_t ≈ √(3/(2t)), and as a flow du/dt = f(u) =
    (2/3) (1 + 1/(10u) + 11/(630u²)). A flow stretches by f(u_t)/f(u_0), and hence

    ∂h_t/∂h_0 = (u_0/u_t)^(3/2) f(u_t)/f(u_0) → C t^(-3/2),  C = (3/2)^(3/2) / (|h_0|³ (1 + h_0²/10 + 11h_0⁴/630)).

    Natural logs; exact at t = 0, and to 0.003 h_0⁶ at every t for |h_0| ≤ 1. 0 at h_0 = 0, where nothing decays.
    Raises `ValueError` for steps that are negative or not whole, and for |h_0| > 1, which no later state can reach.
    """
    t = counts("steps", steps)
    if not abs(initial_state) <= 1.0:
        raise ValueError(f"initial_state: {initial_state}; allowed: -1 to 1")
    if initial_state == 0.0:
        return np.zeros_like(t)
    h = abs(float(initial_state))
    # in units of u_0, so that a small h_0 cannot overflow
    first, second = h * h / 10.0, 11.0 * h**4 / 630.0
    linear = 1.0 + 2.0 / 3.0 * h * h * t
    ratio = linear
    for _ in range(40):  # solves the flow's time, ∫ du/f, for u: the error shrinks to about a tenth each time
        ratio = linear + first * np.log(ratio) + (second - first * first) * (1.0 - 1.0 / ratio)
    speed = (1.0 + first / ratio + second / ratio**2) / (1.0 + first + second)
    return -1.5 * np.log(ratio) + np.log(speed)


def lstm_forget_log_norm(forget_bias: float, steps: ArrayLike) -> Float[np.ndarray, "..."]:
    """log ∂c_t/∂c_0 of an LSTM with zero weights after t = `steps`: t log σ(b), b the forget bias.

    Natural log (of the whole product, not per step), accurate to rounding even if σ(b) is nearly 1 or underflows.
    Raises `ValueError` for a bias that is not finite or steps that are negative or not whole.
    Gers, Schmidhuber, Cummins 2000 (the forget gate); Jozefowicz, Zaremba, Sutskever 2015 (its bias).
    """
    return -counts("steps", steps) * np.logaddexp(0.0, -number("forget_bias", forget_bias, low=-math.inf))
