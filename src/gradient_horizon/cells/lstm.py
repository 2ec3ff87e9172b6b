"""The long short-term memory."""

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from gradient_horizon.cells.activations import ACTIVATIONS
from gradient_horizon.cells.vanilla import Affine, VanillaCell, VanillaParams, plain_cell, stack
from gradient_horizon.names import declare, rules
from gradient_horizon.numerics.arrays import Factors, Number, RandomKey
from gradient_horizon.numerics.keys import named_key

DECLARES = declare.Cell(
    "lstm",
    "long short-term memory",
    make="LSTMCell",
    settings={"forget_bias": declare.Setting(0.0, rules.FINITE, "value added to the bias of the forget gate")},
    states=2,
    blocks={"hidden": "h", "cell": "c"},
)


class LSTMState(NamedTuple):
    """The hidden state h and the cell state c, (N,) each; raveled, h comes first."""

    h: Array
    c: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LSTMParams:
    """W, U and b of the three gates and the candidate."""

    input_gate: VanillaParams
    forget_gate: VanillaParams
    output_gate: VanillaParams
    candidate: VanillaParams

    @property
    def recurrent(self) -> Array:
        """The candidate's W."""
        return self.candidate.recurrent


def _in_order(params: LSTMParams) -> tuple[VanillaParams, ...]:
    return params.input_gate, params.forget_gate, params.output_gate, params.candidate


@partial(jax.tree_util.register_dataclass, data_fields=["forget_bias"], meta_fields=["hidden_size", "input_size"])
@dataclass(frozen=True)
class LSTMCell:
    """c_t = f c_{t-1} + i g, h_t = o tanh(c_t), products elementwise; the state is the pair (h, c), n = 2N.

    i, f, o = σ(W_* h_{t-1} + U_* x_t + b_*) are the input, forget and output gates, g = tanh(W h_{t-1} + U x_t + b)
    the candidate (cell input); there are no peepholes. `forget_bias` is added to b_f. It is the only leaf of the cell
    as a pytree, so that programs that take the cell as an argument are the same for every bias. Hochreiter and
    Schmidhuber 1997; the forget gate: Gers, Schmidhuber and Cummins 2000.
    """

    hidden_size: int
    input_size: int = 0
    forget_bias: Number = 0.0

    @property
    def name(self) -> str:
        """lstm."""
        return "lstm"

    @property
    def state_size(self) -> int:
        """n, the number of entries of the state."""
        return 2 * self.hidden_size

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
    ) -> LSTMParams:
        """Draw the gates and the candidate as vanilla cells from the same ensemble, each with a key derived by name.

        W = `weight_scale` · W⁰ (see `weights`), U ~ N(0, `input_scale`²/D), b ~ N(0, `bias_scale`²); in the forget
        gate `forget_bias` is added to b.
        """

        def drawn(part: str) -> VanillaParams:
            return self._gate.init(named_key(key, part), weight_scale, weights, bias_scale, input_scale, dtype)

        forget = drawn("forget_gate")
        forget = replace(forget, bias=forget.bias + jnp.asarray(self.forget_bias, dtype))
        return LSTMParams(drawn("input_gate"), forget, drawn("output_gate"), drawn("candidate"))

    def initial_state(
        self, key: RandomKey | None = None, state_scale: ArrayLike = 1.0, dtype: DTypeLike = jnp.float32
    ) -> LSTMState:
        """h_0 and c_0 ~ N(0, `state_scale`²), independent, or zeros if `key` is None."""
        key_of_c = None if key is None else named_key(key, "cell")
        h, c = (self._candidate.initial_state(k, state_scale, dtype) for k in (key, key_of_c))
        return LSTMState(h, c)

    def step(self, params: LSTMParams, h: LSTMState, x: Float[Array, " D"] | None = None) -> LSTMState:
        """(h_t, c_t) from (h_{t-1}, c_{t-1}) and x_t (None: no input)."""
        a = jnp.concatenate([self._gate.preactivation(part, h.h, x) for part in _in_order(params)])
        return self.new_state((a,), h)

    def affine_maps(self, params: LSTMParams) -> tuple[Affine]:
        """W, U and b of i, f, o and g stacked vertically, with W of shape (4N, N)."""
        return (stack(_in_order(params)),)

    @property
    def is_homogeneous(self) -> bool:
        """False."""
        return False

    @property
    def has_one_path(self) -> bool:
        """False: the gradient also flows back through the gates."""
        return False

    @property
    def reads_state(self) -> bool:
        """True: the forget gate keeps part of the state."""
        return True

    def gated_input(self, place: int, a: Factors, h: LSTMState) -> Float[Array, "... N"]:
        """The vector that the matrices multiply: the hidden state."""
        return h.h

    def new_state(self, a: Factors, h: LSTMState) -> LSTMState:
        """(h_t, c_t) from the pre-activations of i, f, o and g, (..., 4N), and c_{t-1}, elementwise."""
        i, f, o, g = jnp.split(a[0], 4, axis=-1)
        sigmoid, tanh = ACTIVATIONS["sigmoid"].value, ACTIVATIONS["tanh"].value
        c = sigmoid(f) * h.c + sigmoid(i) * tanh(g)
        return LSTMState(sigmoid(o) * tanh(c), c)

    def output(self, h: LSTMState) -> Float[Array, "... N"]:
        """The part of the state that a readout sees: the hidden state."""
        return h.h

    def relative_slopes(self, a: Factors) -> Float[Array, "..."]:
        """The derivatives at the pre-activations of i, f, o and g, each as a fraction of its maximum."""
        i, f, o, g = jnp.split(a[0], 4, axis=-1)
        gates = [self._gate.relative_slopes((gate,)) for gate in (i, f, o)]
        return jnp.concatenate([*gates, self._candidate.relative_slopes((g,))], axis=-1)
