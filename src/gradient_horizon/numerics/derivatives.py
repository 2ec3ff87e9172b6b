"""Derivatives from where they can be had: of a step by whichever direction it has, of a search by another route.

A step with a `jax.custom_vjp` (the surrogate gradients of spiking units) has a reverse derivative alone, one with a
`lax.while_loop` inside a forward one alone. Where the direction that is asked for does not exist the whole Jacobian
is formed by the other one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradient_horizon.numerics.arrays import PyTree

Map = Callable[[Float[Array, " n"]], Float[Array, " n"]]


def _one_of(function: Map, h: Float[Array, " n"], direction: Callable[[], Any], other: Callable[[], Any]) -> Any:
    try:
        return direction()
    except Exception as error:  # JAX tells what it cannot differentiate by TypeError, ValueError, NotImplementedError
        try:
            return other()
        except Exception:
            jax.eval_shape(function, h)  # raises what is the step's own fault
            raise TypeError(f"step: has neither a forward nor a reverse derivative: {error}") from error


def jacobian(function: Map, h: Float[Array, " n"]) -> Float[Array, "n n"]:
    """The Jacobian of `function` at `h`, column by column, or row by row."""
    return _one_of(function, h, lambda: jax.jacfwd(function)(h), lambda: jax.jacrev(function)(h))


def jacobian_by_rows(function: Map, h: Float[Array, " n"]) -> Float[Array, "n n"]:
    """The Jacobian of `function` at `h`, row by row, or column by column."""
    return _one_of(function, h, lambda: jax.jacrev(function)(h), lambda: jax.jacfwd(function)(h))


def jacobian_by(
    function: Map, h: Float[Array, " n"], formed: Callable[[Callable[[Array], Array]], Any], *, by_rows: bool = False
) -> Any:
    """What `formed` makes of the map from a vector v to J v, or, preferably where `by_rows`, to Jᵀ v; and whether it is
    the latter."""

    def forwards() -> Any:
        return formed(jax.linearize(function, h)[1]), False

    def backwards() -> Any:
        _, vjp = jax.vjp(function, h)
        return formed(lambda vector: vjp(vector)[0]), True

    return _one_of(function, h, *((backwards, forwards) if by_rows else (forwards, backwards)))


def push_rows(
    flat_step: Callable[..., Array], params: PyTree, h: Float[Array, " n"], x: PyTree, rows: Float[Array, "k n"]
) -> Float[Array, "k n"]:
    """J v for every row v, J the Jacobian of the step taken at `h`."""

    def function(state: Array) -> Array:
        return flat_step(params, state, x)

    def forwards() -> Array:
        _, jvp = jax.linearize(function, h)
        return jax.vmap(jvp)(rows)

    return _one_of(function, h, forwards, lambda: rows @ jax.jacrev(function)(h).T)


def push(
    flat_step: Callable[..., Array], params: PyTree, h: Float[Array, " n"], x: PyTree, matrix: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    """J M for the columns of `matrix` M, J the Jacobian of the step taken at `h`."""
    return push_rows(flat_step, params, h, x, matrix.T).T


def pull(
    flat_step: Callable[..., Array], params: PyTree, h: Float[Array, " n"], x: PyTree, matrix: Float[Array, "k n"]
) -> Float[Array, "k n"]:
    """M J for the rows of `matrix` M, J the Jacobian of the step taken at `h`."""

    def function(state: Array) -> Array:
        return flat_step(params, state, x)

    def backwards() -> Array:
        _, vjp = jax.vjp(function, h)
        return jax.vmap(lambda row: vjp(row)[0])(matrix)

    return _one_of(function, h, backwards, lambda: matrix @ jax.jacfwd(function)(h))


def with_derivative_of(route: Callable[..., tuple[Any, Any]], value: PyTree, *arguments: PyTree) -> PyTree:
    """`value`, with the derivative of `route(*arguments)`, which finds the same and says where it is sure.

    The derivative is NaN where `route` is not sure, and where it finds something else, by more than eps^⅓.
    """

    @jax.custom_jvp
    def given(value: PyTree, *arguments: PyTree) -> PyTree:
        return value

    @given.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        value, *arguments = primals
        found, tangent, is_sure = jax.jvp(route, arguments, list(tangents[1:]), has_aux=True)

        def checked(value: Array, found: Array, tangent: Array) -> Array:
            gap = jnp.where(value == found, 0, jnp.abs(value - found))
            agrees = gap <= float(jnp.finfo(value.dtype).eps) ** (1 / 3) * (1 + jnp.abs(value))
            # a factor, so that the derivative stays linear
            return jnp.where(agrees & is_sure, 1, jnp.nan).astype(value.dtype) * tangent

        return value, jax.tree.map(checked, value, found, tangent)

    return given(lax.stop_gradient(value), *arguments)
