"""Careful recomputation of quick results, only if they are suspect; derivatives are those of the quick result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from gradient_horizon.numerics.arrays import PyTree


class _Postponed(NamedTuple):
    """The suspicions of the program being traced, and how many nested levels of care it takes at once."""

    suspicions: list[Any]
    care: int


# None: the program checks itself
_postponed: ContextVar[_Postponed | None] = ContextVar("postponed", default=None)


@contextmanager
def postponed(care: int = 0) -> Iterator[list[Any]]:
    """Let `with_care` return quick results; the yielded list collects flags that show whether any of them is suspect.

    With `care` = 1, `with_care` returns the careful result instead, whether it is needed or not, and the list collects
    the flags of any call of `with_care` inside it; with 2, of calls inside those, and so on.

    Only for a program whose results are not transformed, and in which `with_care` is not called inside a loop.
    """
    suspicions: list[Any] = []
    token = _postponed.set(_Postponed(suspicions, care))
    try:
        yield suspicions
    finally:
        _postponed.reset(token)


def is_postponed() -> bool:
    """True if the caller of the program does the careful recomputation (see `postponed`)."""
    return _postponed.get() is not None


@jax.custom_jvp
def corrected(
    carried: Float[Array, "*shape"], careful: Float[Array, "*shape"], is_suspect: Bool[Array, ""]
) -> Float[Array, "*shape"]:
    """Return `careful` if `carried` may be wrong, otherwise `carried`.

    The derivative is that of `carried`, which is right where the two agree, and NaN where they do not.
    """
    return jnp.where(is_suspect, careful, carried)


@corrected.defjvp
def _(primals: Any, tangents: Any) -> Any:
    carried, careful, is_suspect = primals
    limit = float(jnp.finfo(carried.dtype).eps) ** 0.5
    gap = jnp.where(carried == careful, 0, jnp.abs(carried - careful))
    is_right = ~is_suspect | (gap <= limit * (1 + jnp.abs(careful)))
    return corrected(*primals), jnp.where(is_right, 1, jnp.nan).astype(carried.dtype) * tangents[0]


def held(tree: PyTree) -> PyTree:
    """Stop gradients through the arrays of `tree`; other leaves are returned unchanged."""
    return jax.tree.map(lambda leaf: lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf, tree)


def with_care(is_suspect: Bool[Array, ""], result: PyTree, compute: Callable[..., PyTree], *arrays: PyTree) -> PyTree:
    """Return `result` or, if it `is_suspect`, `compute(*arrays)`, of the same shapes and dtypes (see `corrected`).

    `compute` runs only if it is needed, even inside a transformation. It must not close over values traced for a
    derivative (see `step_of_arrays`).
    """
    state = _postponed.get()
    if state is not None and state.care > 0:
        token = _postponed.set(state._replace(care=state.care - 1))
        try:
            return compute(*arrays)
        finally:
            _postponed.reset(token)
    if state is not None and isinstance(is_suspect, Tracer):
        state.suspicions.append(is_suspect)
        return result
    arrays = held(arrays)
    if not isinstance(is_suspect, Tracer):
        careful = compute(*arrays) if is_suspect else result
    else:

        def once(carry):
            # the barrier adds a dependence on the carry: otherwise XLA hoists this out of the loop and always runs it
            return jnp.zeros((), bool), compute(*lax.optimization_barrier((arrays, carry[0]))[0])

        # At most one iteration: under `jax.vmap` none if no network needs it; `lax.cond` would run both branches.
        start = (is_suspect, jax.tree.map(jnp.zeros_like, held(result)))
        careful = lax.while_loop(lambda carry: carry[0], once, start)[1]
    return jax.tree.map(lambda quick, slow: corrected(quick, slow, is_suspect), result, careful)


def step_of_arrays(
    function: Callable[[Array, PyTree], Array], states: Float[Array, "T n"], xs: PyTree
) -> tuple[Callable[..., Array], list[Any]]:
    """Convert `function(h, x)`, of one state and one input, to `step(closed, h, x)`.

    Returns the step and `closed`, the traced values that `function` closes over, to be passed to `with_care`.
    """
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), (states, xs))
    step, closed = jax.closure_convert(function, *one)
    return (lambda closed, h, x: step(h, x, *closed)), closed
