"""Vanilla cells: one matrix and one activation per step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from gradient_horizon.cells.activations import ACTIVATIONS, Activation
from gradient_horizon.cells.weights import unit_weights
from gradient_horizon.names import declare, rules
from gradient_horizon.numerics import lu
from gradient_horizon.numerics.arrays import Factors, Number, RandomKey, Scalar, Vector, available
from gradient_horizon.numerics.keys import named_key, normal

DECLARES = (
    *(
        declare.Cell(
            name,
            f"one matrix and the activation {name}",
            make="plain_cell",
            arguments=(name,),
            family="linear",
            one_path=True,
            homogeneous=name in ("linear", "relu"),
        )
        for name in ("linear", "tanh", "relu", "hard_tanh", "erf", "sigmoid")
    ),
    declare.Cell(
        "leaky_tanh",
        "one matrix and tanh; a step replaces only a part of the state",
        make="leaky_cell",
        arguments=("tanh", "leaky_tanh"),
        family="linear",
        settings={"leak": declare.Setting(0.5, rules.FRACTION, "fraction of the state that one step replaces")},
    ),
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VanillaParams:
    """W (N, N), U (N, D) and b (N,), each with further leading axes for a batch of networks."""

    recurrent: Array
    input: Array
    bias: Array


class Affine(NamedTuple):
    """W (M, N), U (M, D) and b (M,) of M pre-activations a = W v + U x + b."""

    recurrent: Array
    input: Array
    bias: Array


@dataclass(frozen=True)
class VanillaCell:
    """h_t = (1 - leak) h_{t-1} + leak φ(a_t), a_t = W h_{t-1} + U x_t + b; `leak` = 1 is the plain cell.

    J_t = (1 - leak) I + leak diag(φ′(a_t)) W. A leak below 1 is the only leaf of the cell as a pytree, so that programs
    that take the cell as an argument are the same for every leak.
    """

    name: str
    activation: Activation
    hidden_size: int
    input_size: int = 0
    leak: Number = 1.0

    @property
    def state_size(self) -> int:
        """n, the number of entries of the state."""
        return self.hidden_size

    def init(
        self,
        key: RandomKey,
        weight_scale: ArrayLike = 1.0,
        weights: str = "gaussian",
        bias_scale: ArrayLike = 0.0,
        input_scale: ArrayLike = 1.0,
        dtype: DTypeLike = jnp.float32,
    ) -> VanillaParams:
        """Draw W = `weight_scale` · W⁰ (see `weights`), U ~ N(0, `input_scale`²/D), b ~ N(0, `bias_scale`²).

        Each of the three has its own key, derived by name and shape: W⁰ is the same at every scale, and different sizes
        have independent numbers.
        """
        n, d = self.hidden_size, self.input_size
        recurrent = unit_weights(weights, named_key(key, "weights"), n, dtype)
        inputs = normal(named_key(key, "input_weights"), (n, d), dtype) / max(d, 1) ** 0.5
        bias = normal(named_key(key, "bias"), (n,), dtype)
        return VanillaParams(
            jnp.asarray(weight_scale, dtype) * recurrent,
            jnp.asarray(input_scale, dtype) * inputs,
            jnp.asarray(bias_scale, dtype) * bias,
        )

    def initial_state(
        self, key: RandomKey | None = None, state_scale: ArrayLike = 1.0, dtype: DTypeLike = jnp.float32
    ) -> Vector:
        """h_0 ~ N(0, `state_scale`²), or zeros if `key` is None."""
        if key is None:
            return jnp.zeros(self.hidden_size, available(dtype))
        return jnp.asarray(state_scale, dtype) * normal(named_key(key, "state"), (self.hidden_size,), dtype)

    def preactivation(self, params: VanillaParams, h: Vector, x: Float[Array, " D"] | None = None) -> Vector:
        """a_t, shape (N,)."""
        return preactivation(params, h, x)

    def step(self, params: VanillaParams, h: Vector, x: Float[Array, " D"] | None = None) -> Vector:
        """h_t from h_{t-1} and x_t (None: no input)."""
        return self.new_state((self.preactivation(params, h, x),), h)

    def affine_maps(self, params: VanillaParams) -> tuple[Affine]:
        """W, U and b, unchanged."""
        return (stack([params]),)

    @property
    def is_homogeneous(self) -> bool:
        """True if φ(c a) = c φ(a) for every c > 0; a leak does not matter."""
        return self.activation.is_homogeneous

    @property
    def has_one_path(self) -> bool:
        """True if h_t = φ(a_t), that is, if the leak is 1 (and not traced)."""
        return not isinstance(self.leak, Tracer) and bool(self.leak == 1.0)

    @property
    def reads_state(self) -> bool:
        """True if the leak is below 1, or traced, as part of the state is then kept."""
        return not self.has_one_path

    def gated_input(self, place: int, a: Factors, h: Float[Array, "... N"]) -> Float[Array, "... N"]:
        """The vector that W multiplies: the state."""
        return h

    def new_state(self, a: Factors, h: Float[Array, "... N"]) -> Float[Array, "... N"]:
        """h_t from a_t and h_{t-1}, elementwise."""
        response = self.activation.value(a[0])
        if self.has_one_path:
            return response
        kept, replaced = (jnp.asarray(share, response.dtype) for share in (1.0 - self.leak, self.leak))
        return kept * h + replaced * response

    def output(self, h: Float[Array, "... N"]) -> Float[Array, "... N"]:
        """The part of the state that a readout sees: all of it."""
        return h

    def relative_slopes(self, a: Factors) -> Float[Array, "... N"]:
        """φ′(a_t) as a fraction of its maximum."""
        return self.activation.derivative(a[0]) / self.activation.steepest

    def log_abs_det(self, params: VanillaParams, h: Vector, x: Float[Array, " D"] | None = None) -> Scalar:
        """log|det J_t| = log|det W| + Σ_i log φ′(a_t,i), a natural log, without underflow; -inf if J_t is singular.

        Raises `ValueError` unless the leak is 1: otherwise the determinant has no such form.
        """
        if not self.has_one_path:
            raise ValueError(f"leak: {self.leak}; allowed: 1, as log|det J_t| has no closed form with a leak")
        log_slopes = self.activation.log_derivative(self.preactivation(params, h, x))
        return lu.log_abs_det(params.recurrent) + jnp.sum(log_slopes)


def _leaves(cell: VanillaCell) -> tuple[tuple[Number, ...], VanillaCell]:
    return ((), cell) if cell.has_one_path else ((cell.leak,), replace(cell, leak=0.5))


def _cell(structure: VanillaCell, leaves: Sequence[Number]) -> VanillaCell:
    return replace(structure, leak=leaves[0]) if leaves else structure


jax.tree_util.register_pytree_node(VanillaCell, _leaves, _cell)


def preactivation(part: VanillaParams | Affine, v: Vector, x: Float[Array, " D"] | None = None) -> Float[Array, " M"]:
    """a = W v + b, plus U x unless `x` is None."""
    a = part.recurrent @ v + part.bias
    return a if x is None else a + part.input @ x


def affine(
    xs: Float[Array, "*many D"], matrix: Float[Array, "N D"], bias: Float[Array, " N"]
) -> Float[Array, "*many N"]:
    """`matrix` x + `bias` for many x at once."""
    return jnp.matmul(xs, matrix.T) + jnp.expand_dims(bias, tuple(range(xs.ndim - 1)))


def stack(parts: Sequence[VanillaParams]) -> Affine:
    """Stack the matrices and biases of `parts` vertically."""
    return Affine(*(jnp.concatenate(leaves) for leaves in zip(*map(jax.tree.leaves, parts), strict=True)))


def plain_cell(activation: str, hidden_size: int, input_size: int) -> VanillaCell:
    """The cell h_t = φ(W h_{t-1} + U x_t + b); each gate of a gated cell is one of these, too."""
    return VanillaCell(activation, ACTIVATIONS[activation], hidden_size, input_size)


def leaky_cell(activation: str, name: str, hidden_size: int, input_size: int, leak: Number) -> VanillaCell:
    """The cell `name`, h_t = (1 - leak) h_{t-1} + leak φ(W h_{t-1} + U x_t + b)."""
    return VanillaCell(name, ACTIVATIONS[activation], hidden_size, input_size, leak)
