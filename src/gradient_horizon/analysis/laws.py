"""The theoretical law, if any, for the networks of a job, given its settings.

No other module decides which law applies.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from gradient_horizon import names

_ODD = ("tanh", "hard_tanh", "erf")  # contracting: without a drive the state settles at 0 below the edge of chaos
_MEAN_FIELD = (*names.HOMOGENEOUS_CELLS, *_ODD, "sigmoid")
_FEWEST_INPUTS = 16  # entries that an input needs for a mean square nearly the same at every step: to √(2/16)
_NO_GROWTH = 5e-14  # |½ log χ| below which the averages cannot tell growth from none


@dataclass(frozen=True)
class Law:
    """The theoretical growth of ‖M‖_F: at every N, lag and seed if `is_exact`, otherwise in the limit of large N.

    `gain` converts the weight scale of the settings to that of Gaussian weights, W_ij ~ N(0, (`gain` g)²/N).
    """

    activation: str
    gain: float = 1.0
    bias_scale: float = 0.0
    input_variance: float = 0.0
    is_exact: bool = False

    def log_growth(self, weight_scale: float) -> float:
        """Return ½ log χ, natural log per step: the growth of ‖M‖_F and the largest Lyapunov exponent.

        -inf at g = 0.
        """
        return _log_growth(self.activation, self.gain * weight_scale, self.bias_scale, self.input_variance)

    def horizon(self, weight_scale: float, threshold: float) -> float:
        """Return the first lag at which the growth has passed `threshold` decades: `theory.mean_field_horizon`."""
        growth = abs(self.log_growth(weight_scale))
        return math.inf if growth < _NO_GROWTH else float(math.floor(threshold * math.log(10.0) / growth) + 1)

    def edge(self) -> float:
        """Return the weight scale at which χ is 1."""
        from gradient_horizon.theory.mean_field_theory import critical_line

        return critical_line(self.activation, self.bias_scale, self.input_variance) / self.gain


@lru_cache(maxsize=4096)
def _log_growth(activation: str, weight_scale: float, bias_scale: float, input_variance: float) -> float:
    from gradient_horizon.theory.mean_field_theory import mean_field

    return mean_field(activation, weight_scale, bias_scale, input_variance).log_growth


def law_for(settings: Mapping[str, Any]) -> Law | None:
    """Return the law for the growth of ‖M‖_F under these settings; None if there is none in closed form.

    (Also None if the jobs differ in a setting that the law depends on, which is then missing from `settings`.)

    Mean field applies to a plain cell with Gaussian weights. The variance of U x_t is `input_scale`² times the mean
    square of x_t's entries, and must be nearly the same at every step: ½ log χ of a mean variance is not the mean of
    ½ log χ. Noise of 16 entries is steady enough; a single entry or a digit's pixels are not (measured: off by 0.09 and
    0.06 per step at g = 0.5). Linear and ReLU are unaffected, as their χ = g² and g²/2 for any input. A linear network
    with W = g Q, Q orthogonal, has ‖M‖_F = √N g^τ.
    """
    cell, weights = settings.get("cell"), settings.get("weights")
    if cell == "linear" and weights in ("orthogonal", "identity"):
        return Law("linear", is_exact=True)
    if cell not in _MEAN_FIELD or weights not in ("gaussian", "unit_normal"):
        return None
    if weights == "unit_normal" and "hidden_size" not in settings:
        return None
    gain = 1.0 if weights == "gaussian" else settings["hidden_size"] ** 0.5
    if cell in names.HOMOGENEOUS_CELLS:
        return Law(cell, gain)
    if not {"inputs", "bias_scale"} <= settings.keys():
        return None
    if settings["inputs"] == "none":
        return Law(cell, gain, settings["bias_scale"])
    if not {"hidden_size", "input_size", "input_scale", "noise_scale"} <= settings.keys():
        return None
    entries = settings["hidden_size"] if settings["input_size"] is None else settings["input_size"]
    if settings["inputs"] != "noise" or entries < _FEWEST_INPUTS:
        return None
    variance = (settings["input_scale"] * settings["noise_scale"]) ** 2
    return Law(cell, gain, settings["bias_scale"], variance)


def exponents_at_rest(
    settings: Mapping[str, Any], log_moduli: Float[np.ndarray, "*networks N"]
) -> Float[np.ndarray, "*networks N"] | None:
    """Return all Lyapunov exponents of networks whose J_t stays φ′(0) W: log φ′(0) + log|eig_i(W)|.

    Exact at every N. `log_moduli`: log|eig_i(W)|, descending. NaN for a network that does not come to rest; with an odd
    φ and neither bias nor input, it does if φ′(0) |eig_1(W)| < 1. A linear network has these exponents whatever its
    state does. None for other settings. Natural logs, per step.
    """
    if settings.get("cell") == "linear":
        return log_moduli
    if settings.get("cell") not in _ODD or settings.get("inputs") != "none" or settings.get("bias_scale") != 0:
        return None
    from gradient_horizon.theory.mean_field_theory import critical_line

    exponents = log_moduli - np.log(critical_line(settings["cell"]))  # the edge is 1/φ′(0)
    return np.where(exponents[..., :1] < 0, exponents, np.nan)
