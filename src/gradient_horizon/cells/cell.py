"""Recurrent cells as one-step maps; scanning over time is left to the caller.

cell = make_cell("tanh", hidden_size=64, input_size=1)
params = cell.init(key, weight_scale=1.2)
state, _ = jax.lax.scan(lambda h, x: (cell.step(params, h, x), None), cell.initial_state(), xs)
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from gradient_horizon import names
from gradient_horizon.cells.vanilla import Affine
from gradient_horizon.names import declare
from gradient_horizon.numerics.arrays import Factors, PyTree, RandomKey


@runtime_checkable
class Cell(Protocol):
    """The interface of every cell; the state is a vector, or a pytree of vectors.

    Any such cell can be measured and trained. A `TrainableCell` trains faster.
    """

    @property
    def name(self) -> str:
        """The cell's name, as passed to `make_cell`."""
        ...

    @property
    def hidden_size(self) -> int:
        """N."""
        ...

    @property
    def input_size(self) -> int:
        """D."""
        ...

    @property
    def state_size(self) -> int:
        """n, the number of entries of the state."""
        ...

    def init(
        self,
        key: RandomKey,
        weight_scale: ArrayLike = 1.0,
        weights: str = "gaussian",
        bias_scale: ArrayLike = 0.0,
        input_scale: ArrayLike = 1.0,
        dtype: DTypeLike = jnp.float32,
    ) -> Any:
        """Draw the parameters, a pytree of floating arrays.

        Its attribute `recurrent`, if it has one, is W, whose spectrum is recorded during training: a vanilla cell's one
        matrix, a gated cell's candidate W.
        """
        ...

    def initial_state(
        self, key: RandomKey | None = None, state_scale: ArrayLike = 1.0, dtype: DTypeLike = jnp.float32
    ) -> Any:
        """h_0 ~ N(0, `state_scale`²), or zeros if `key` is None."""
        ...

    def step(self, params: Any, h: Any, x: PyTree = None) -> Any:
        """h_t from h_{t-1} and x_t (None: no input)."""
        ...

    def output(self, h: Any) -> Array:
        """The part of the state that a readout sees, shape (N,)."""
        ...


@runtime_checkable
class TrainableCell(Cell, Protocol):
    """A cell whose step is also available in parts, for many sequences at once (any leading axes).

    a = W v + U x_t + b for each of `affine_maps`, with v = `gated_input`; then h_t = `new_state`(a, h_{t-1}). The
    gated input of a second map may depend on the first pre-activation. The cell is a pytree (`register_static`, or
    `register_dataclass` with its numbers as leaves).
    """

    def affine_maps(self, params: Any) -> tuple[Affine, ...]:
        """W, U and b of each pre-activation, in the order in which the step uses them."""
        ...

    @property
    def reads_state(self) -> bool:
        """True if the new state also depends on the previous one directly, if only on its shape."""
        ...

    def gated_input(self, place: int, a: Factors, h: Any) -> Array:
        """The vector that the matrix at `place` multiplies, given the pre-activations before it; elementwise."""
        ...

    def new_state(self, a: Factors, h: Any) -> Any:
        """h_t, elementwise."""
        ...

    def relative_slopes(self, a: Factors) -> Array:
        """φ′ at every pre-activation, as a fraction of its maximum."""
        ...

    @property
    def is_homogeneous(self) -> bool:
        """True if step(c h) = c step(h) for every c > 0, in the absence of bias and inputs."""
        ...

    @property
    def has_one_path(self) -> bool:
        """True if h_t = φ(W h_{t-1} + U x_t + b): the gradient flows back through one node after another."""
        ...


def make_cell(name: str, hidden_size: int, input_size: int = 0, **settings: Any) -> TrainableCell:
    """Return the cell `name`, one of `names.CELLS`; if an installed package declares it, it may be a mere `Cell`.

    `settings` are the cell's own, which may be traced: `leak` of leaky_tanh, in (0, 1]; `forget_bias` of lstm, any
    finite number. Those of other cells are ignored. Raises `ValueError` for an unknown name or setting, and for an
    invalid size or value.
    """
    if name not in names.CELLS:
        raise ValueError(f"cell: {name!r} is unknown; allowed: {', '.join(names.CELLS)}")
    if hidden_size < 1 or input_size < 0:
        raise ValueError(f"hidden_size, input_size: {hidden_size}, {input_size}; allowed: at least 1, at least 0")
    of_cells = {key: own for cell in declare.declared(declare.Cell).values() for key, own in cell.settings.items()}
    for key, value in settings.items():
        if key not in of_cells:
            raise ValueError(f"{key}: {value!r} is not a setting of a cell; allowed: {', '.join(of_cells)}")
        if not isinstance(value, Tracer) and not of_cells[key].rule.accepts(_number(value)):
            raise ValueError(f"{key}: {value}; allowed: {of_cells[key].rule.allowed}")
    cell = declare.declared(declare.Cell)[name]
    own = {key: settings.get(key, setting.default) for key, setting in cell.settings.items()}
    return _as_pytree(cell.load()(*cell.arguments, hidden_size, input_size, **own))


def _as_pytree(cell: Any) -> Any:
    """Return `cell`, whose class becomes static for JAX's transformations unless it is already a registered pytree."""
    if jax.tree_util.all_leaves([cell]):
        jax.tree_util.register_static(type(cell))
    return cell


def _number(value: Any) -> Any:
    """Return an array of one number as a Python number; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value
