"""The minimal gated unit: a gated recurrent unit with one gate.

Source: G.-B. Zhou, J. Wu, C.-L. Zhang, Z.-H. Zhou, "Minimal gated unit for recurrent neural networks", International
Journal of Automation and Computing 13, 2016.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradient_horizon.cells import VanillaParams, make_cell
from gradient_horizon.names import declare, rules

DECLARES = declare.Cell(
    "mgu",
    "minimal gated unit",
    make="MinimalGatedUnit",
    settings={"gate_bias": declare.Setting(0.0, rules.FINITE, "value added to the bias of the gate")},
)


class Params(NamedTuple):
    """W, U and b of the gate and of the candidate."""

    gate: VanillaParams
    candidate: VanillaParams

    @property
    def recurrent(self):
        """The candidate's W."""
        return self.candidate.recurrent


@dataclass(frozen=True)
class MinimalGatedUnit:
    """h_t = (1 - f) h_{t-1} + f h̃, f = σ(W_f h_{t-1} + U_f x_t + b_f), h̃ = tanh(W (f h_{t-1}) + U x_t + b)."""

    hidden_size: int
    input_size: int = 0
    gate_bias: float = 0.0

    name = "mgu"

    @property
    def state_size(self):
        """n, the number of entries of the state."""
        return self.hidden_size

    @property
    def _part(self):
        return make_cell("linear", self.hidden_size, self.input_size)

    def init(self, key, weight_scale=1.0, weights="gaussian", bias_scale=0.0, input_scale=1.0, dtype=jnp.float32):
        """Draw the gate and the candidate from the same ensemble, with independent keys."""
        gate, candidate = (
            self._part.init(k, weight_scale, weights, bias_scale, input_scale, dtype) for k in jax.random.split(key)
        )
        bias = gate.bias + jnp.asarray(self.gate_bias, dtype)
        return Params(VanillaParams(gate.recurrent, gate.input, bias), candidate)

    def initial_state(self, key=None, state_scale=1.0, dtype=jnp.float32):
        """h_0 ~ N(0, `state_scale`²), or zeros if `key` is None."""
        return self._part.initial_state(key, state_scale, dtype)

    def step(self, params, h, x=None):
        """h_t from h_{t-1} and x_t (None: no input)."""
        f = jax.nn.sigmoid(self._part.step(params.gate, h, x))
        return (1 - f) * h + f * jnp.tanh(self._part.step(params.candidate, f * h, x))

    def output(self, h):
        """The part of the state that a readout sees: all of it."""
        return h
