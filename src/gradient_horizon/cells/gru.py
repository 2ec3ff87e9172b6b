"""The gated recurrent unit."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from gradient_horizon.cells.vanilla import Affine, VanillaCell, VanillaParams, plain_cell, stack
from gradient_horizon.names import declare
from gradient_horizon.numerics.arrays import Factors, RandomKey, Vector
from gradient_horizon.numerics.keys import named_key

DECLARES = declare.Cell("gru", "gated recurrent unit", make="GRUCell")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GRUParams:
    """W, U and b of both gates and the candidate."""

    update_gate: VanillaParams
    reset_gate: VanillaParams
    candidate: VanillaParams

    @property
    def recurrent(self) -> Array:
        """The candidate's W."""
        return self.candidate.recurrent


@jax.tree_util.register_static
@dataclass(frozen=True)
class GRUCell:
    """h_t = (1 - z) h_{t-1} + z h̃, with h̃ = tanh(W (r h_{t-1}) + U x_t + b), products of vectors elementwise.

    z = σ(W_z h_{t-1} + U_z x_t + b_z) and r = σ(W_r h_{t-1} + U_r x_t + b_r) are the update and the reset gate. The
    reset gate acts on the state *before* the matrix product, as in Cho et al. 2014 (arXiv:1406.1078, eq. 8; PyTorch
    and cuDNN apply it after). An open update gate lets the candidate in, as in Chung et al. 2014 (arXiv:1412.3555,
    eq. 4); Cho's own z is 1 minus this one.
    """

    hidden_size: int
    input_size: int = 0

    @property
    def name(self) -> str:
        """gru."""
        return "gru"

    @property
    def state_size(self) -> int:
        """n, the number of entries of the state."""
        return self.hidden_size

    @property
    def _gate(self) -> VanillaCell:
        return plain_cell("sigmoid", self.hidden_size, self.input_size)

    @property
    def _candidate(self) -> VanillaCell:
        return plain_cell("tanh", self.hidden_size, self.input_size)

    def init(
        self,
        key: RandomKey,
        weight_scale: ArrayLike = 1.0,
        weights: str = "gaussian",
        bias_scale: ArrayLike = 0.0,
        input_scale: ArrayLike = 1.0,
        dtype: DTypeLike = jnp.float32,
    ) -> GRUParams:
        """Draw the gates and the candidate as vanilla cells from the same ensemble, each with a key derived by name.

        W = `weight_scale` · W⁰ (see `weights`), U ~ N(0, `input_scale`²/D), b ~ N(0, `bias_scale`²).
        """

        def drawn(part: str) -> VanillaParams:
            return self._gate.init(named_key(key, part), weight_scale, weights, bias_scale, input_scale, dtype)

        return GRUParams(drawn("update_gate"), drawn("reset_gate"), drawn("candidate"))

    def initial_state(
        self, key: RandomKey | None = None, state_scale: ArrayLike = 1.0, dtype: DTypeLike = jnp.float32
    ) -> Vector:
        """h_0 ~ N(0, `state_scale`²), or zeros if `key` is None."""
        return self._candidate.initial_state(key, state_scale, dtype)

    def step(self, params: GRUParams, h: Vector, x: Float[Array, " D"] | None = None) -> Vector:
        """h_t from h_{t-1} and x_t (None: no input)."""
        update = self._gate.preactivation(params.update_gate, h, x)
        reset = self._gate.preactivation(params.reset_gate, h, x)
        gates = jnp.concatenate([update, reset])
        return self.respond(
            (gates, self._candidate.preactivation(params.candidate, self.operand(1, (gates,), h), x)), h
        )

    def stacked(self, params: GRUParams) -> tuple[Affine, Affine]:
        """W, U and b of z and r stacked vertically, with W of shape (2N, N), and those of the candidate."""
        return stack([params.update_gate, params.reset_gate]), stack([params.candidate])

    @property
    def forgets(self) -> bool:
        """False: the update gate keeps part of the state."""
        return False

    def operand(self, place: int, a: Factors, h: Float[Array, "... N"]) -> Float[Array, "... N"]:
        """The vector that the matrices multiply: h for the gates (`place` 0), r h for the candidate (`place` 1)."""
        if place == 0:
            return h
        _, reset = jnp.split(a[0], 2, axis=-1)
        return self._gate.activation.value(reset) * h

    def respond(self, a: Factors, h: Float[Array, "... N"]) -> Float[Array, "... N"]:
        """h_t from the pre-activations of z and r, (..., 2N), and of the candidate, and from h_{t-1}, elementwise."""
        update, _ = jnp.split(a[0], 2, axis=-1)
        sigmoid = self._gate.activation.value
        # σ(-a) is 1 - z to full precision; the difference would lose digits if z is close to 1
        return sigmoid(-update) * h + sigmoid(update) * self._candidate.activation.value(a[1])

    def output(self, h: Float[Array, "... N"]) -> Float[Array, "... N"]:
        """The part of the state that a readout sees: all of it."""
        return h

    def slopes(self, a: Factors) -> Float[Array, "..."]:
        """The derivatives at the pre-activations of z, r and the candidate, each as a fraction of its maximum."""
        return jnp.concatenate([self._gate.slopes((a[0],)), self._candidate.slopes((a[1],))], axis=-1)
