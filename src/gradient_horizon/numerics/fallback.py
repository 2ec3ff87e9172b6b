"""What is computed again, with more care, only if it has to be; the quick result keeps its derivatives."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from gradient_horizon.numerics.arrays import PyTree

# What the program that is being written will have to be asked for when it has run; None: it takes care of itself.
_suspicions: ContextVar[list[Any] | None] = ContextVar("suspicions", default=None)


@contextmanager
def postponed() -> Iterator[list[Any]]:
    """`with_care` leaves the care to its caller, who looks at the list whether any result was suspect.

    For a program whose results are not transformed, and without loops around `with_care`.
    """
    suspicions: list[Any] = []
    token = _suspicions.set(suspicions)
    try:
        yield suspicions
    finally:
        _suspicions.reset(token)


def is_postponed() -> bool:
    """Whether somebody else takes care."""
    return _suspicions.get() is not None


@jax.custom_jvp
def corrected(
    carried: Float[Array, "*shape"], careful: Float[Array, "*shape"], is_suspect: Bool[Array, ""]
) -> Float[Array, "*shape"]:
    """`careful` where `carried` may be wrong.

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
    """The arrays of `tree` as constants of differentiation; what is no array stays as it is."""
    return jax.tree.map(lambda leaf: lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf, tree)


def with_care(is_suspect: Bool[Array, ""], found: PyTree, compute: Callable[..., PyTree], *arrays: PyTree) -> PyTree:
    """`found`; if it `is_suspect`, `compute(*arrays)` instead, of the same shapes and dtypes (see `corrected`).

    What is not needed is not computed, in a transformation neither. `compute` closes over nothing that is traced for
    a derivative (see `step_of_arrays`).
    """
    suspicions = _suspicions.get()
    if suspicions is not None and isinstance(is_suspect, Tracer):
        suspicions.append(is_suspect)
        return found
    arrays = held(arrays)
    if not isinstance(is_suspect, Tracer):
        careful = compute(*arrays) if is_suspect else found
    else:

        def once(carry):
            # the barrier makes it depend on the carry: XLA would take it out of the loop and do it always
            return jnp.zeros((), bool), compute(*lax.optimization_barrier((arrays, carry[0]))[0])

        # At most one turn: under `jax.vmap` none if no network needs it, while `lax.cond` would take both sides.
        start = (is_suspect, jax.tree.map(jnp.zeros_like, held(found)))
        careful = lax.while_loop(lambda carry: carry[0], once, start)[1]
    return jax.tree.map(lambda quick, slow: corrected(quick, slow, is_suspect), found, careful)


def step_of_arrays(
    function: Callable[[Array, PyTree], Array], states: Float[Array, "T n"], xs: PyTree
) -> tuple[Callable[..., Array], list[Any]]:
    """`function(h, x)` of one state and one input as `step(closed, h, x)`, and the `closed` that it holds of traced
    values: an argument for `with_care`."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), (states, xs))
    step, closed = jax.closure_convert(function, *one)
    return (lambda closed, h, x: step(h, x, *closed)), closed
