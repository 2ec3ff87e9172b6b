"""Activations φ with derivatives that remain accurate where φ saturates.

`1 - tanh²` and JAX's own derivative of `tanh` lose every digit in float32 from |x| = 8 on, where the true
derivative is 4.5e-7. Each φ here is differentiated (in forward and reverse mode) by its own accurate φ′, and log φ′
never underflows.

Kinks: a unit *at* a kink passes the gradient: relu′(0) = 1 and hard_tanh′(±1) = 1. (The study notes that prompted this
project also let the gradient pass for x ≥ 0.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradient_horizon.numerics.exponents import LOG_2

Elementwise: TypeAlias = Callable[[Float[Array, "..."]], Float[Array, "..."]]

_TWO_OVER_ROOT_PI = float(2.0 / np.sqrt(np.pi))


@dataclass(frozen=True)
class Activation:
    """φ, φ′ and log φ′, elementwise; `steepest` is max φ′; `is_homogeneous`: φ(c x) = c φ(x) for every c > 0."""

    value: Elementwise
    derivative: Elementwise
    log_derivative: Elementwise
    steepest: float = 1.0
    is_homogeneous: bool = False


def _differentiating_by(derivative: Elementwise, value: Elementwise) -> Elementwise:
    function = jax.custom_jvp(value)
    function.defjvp(lambda primals, tangents: (value(*primals), derivative(*primals) * tangents[0]))
    return function


def _tanh_derivative(x):
    decay = jnp.exp(-2.0 * jnp.abs(x))
    return 4.0 * decay / ((1.0 + decay) * (1.0 + decay))


def _log_tanh_derivative(x):
    size = jnp.abs(x)
    return 2.0 * (LOG_2 - size - jnp.log1p(jnp.exp(-2.0 * size)))


def _sigmoid_derivative(x):
    decay = jnp.exp(-jnp.abs(x))
    return decay / ((1.0 + decay) * (1.0 + decay))


def _log_sigmoid_derivative(x):
    size = jnp.abs(x)
    return -size - 2.0 * jnp.log1p(jnp.exp(-size))


def _erf_derivative(x):
    return _TWO_OVER_ROOT_PI * jnp.exp(-x * x)


def _log_erf_derivative(x):
    return float(np.log(_TWO_OVER_ROOT_PI)) - x * x


def _passes(condition: Callable) -> Elementwise:
    return lambda x: jnp.where(condition(x), jnp.ones_like(x), jnp.zeros_like(x))


def _log_passes(condition: Callable) -> Elementwise:
    return lambda x: jnp.where(condition(x), jnp.zeros_like(x), jnp.full_like(x, -jnp.inf))


def _activation(value: Elementwise, derivative: Elementwise, log_derivative: Elementwise, **properties: Any):
    return Activation(_differentiating_by(derivative, value), derivative, log_derivative, **properties)


def _is_any(x):
    return jnp.ones_like(x, dtype=bool)


def _is_open(x):
    return x >= 0


def _is_inside(x):
    return jnp.abs(x) <= 1


ACTIVATIONS: dict[str, Activation] = {
    "linear": _activation(lambda x: x, _passes(_is_any), _log_passes(_is_any), is_homogeneous=True),
    "tanh": _activation(jnp.tanh, _tanh_derivative, _log_tanh_derivative),
    "relu": _activation(lambda x: jnp.maximum(x, 0), _passes(_is_open), _log_passes(_is_open), is_homogeneous=True),
    "hard_tanh": _activation(lambda x: jnp.clip(x, -1, 1), _passes(_is_inside), _log_passes(_is_inside)),
    "erf": _activation(jax.lax.erf, _erf_derivative, _log_erf_derivative, steepest=_TWO_OVER_ROOT_PI),
    "sigmoid": _activation(jax.nn.sigmoid, _sigmoid_derivative, _log_sigmoid_derivative, steepest=0.25),
}
"""The activations by name."""
