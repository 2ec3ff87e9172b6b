"""Derivatives of steps that support only one mode of differentiation, and of searches, by another route.

A step with a `jax.custom_vjp` (the surrogate gradients of spiking units) has only a reverse-mode derivative, a step
with a `lax.while_loop` only a forward-mode one. If the requested mode does not exist, the whole Jacobian is formed by
the other one. A search takes its derivative from a differentiable route to the same result.
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
    except Exception as error:  # if it cannot differentiate, JAX raises TypeError, ValueError or NotImplementedError
        try:
            return other()
        except Exception:
            jax.eval_shape(function, h)  # raises any error of the step's own
            raise TypeError(f"step: has neither a forward nor a reverse derivative: {error}") from error


def jacobian(function: Map, h: Float[Array, " n"]) -> Float[Array, "n n"]:
    """The Jacobian of `function` at `h`, by columns if possible, otherwise by rows."""
    return _one_of(function, h, lambda: jax.jacfwd(function)(h), lambda: jax.jacrev(function)(h))


def jacobian_by_rows(function: Map, h: Float[Array, " n"]) -> Float[Array, "n n"]:
    """The Jacobian of `function` at `h`, by rows if possible, otherwise by columns."""
    return _one_of(function, h, lambda: jax.jacrev(function)(h), lambda: jax.jacfwd(function)(h))


def jacobian_by(
    function: Map, h: Float[Array, " n"], form: Callable[[Callable[[Array], Array]], Any], *, by_rows: bool = False
) -> Any:
    """Apply `form` to the map v ↦ J v or to v ↦ Jᵀ v; return its result, and True if the map was the latter.

    `by_rows` selects which of the two is preferred: Jᵀ v if true, J v otherwise.
    """

    def forwards() -> Any:
        return form(jax.linearize(function, h)[1]), False

    def backwards() -> Any:
        _, vjp = jax.vjp(function, h)
        return form(lambda vector: vjp(vector)[0]), True

    return _one_of(function, h, *((backwards, forwards) if by_rows else (forwards, backwards)))


def jvp_rows(
    flat_step: Callable[..., Array], params: PyTree, h: Float[Array, " n"], x: PyTree, rows: Float[Array, "k n"]
) -> Float[Array, "k n"]:
    """J v for every row v of `rows`, with J the Jacobian of the step at `h`."""

    def function(state: Array) -> Array:
        return flat_step(params, state, x)

    def forwards() -> Array:
        _, jvp = jax.linearize(function, h)
        return jax.vmap(jvp)(rows)

    return _one_of(function, h, forwards, lambda: rows @ jax.jacrev(function)(h).T)


def jvp_columns(
    flat_step: Callable[..., Array], params: PyTree, h: Float[Array, " n"], x: PyTree, matrix: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    """J M for `matrix` M, applied column by column, with J the Jacobian of the step at `h`."""
    return jvp_rows(flat_step, params, h, x, matrix.T).T


def vjp_rows(
    flat_step: Callable[..., Array], params: PyTree, h: Float[Array, " n"], x: PyTree, matrix: Float[Array, "k n"]
) -> Float[Array, "k n"]:
    """M J for `matrix` M, applied row by row, with J the Jacobian of the step at `h`."""

    def function(state: Array) -> Array:
        return flat_step(params, state, x)

    def backwards() -> Array:
        _, vjp = jax.vjp(function, h)
        return jax.vmap(lambda row: vjp(row)[0])(matrix)

    return _one_of(function, h, backwards, lambda: matrix @ jax.jacfwd(function)(h))


def pullback(
    function: Callable[..., Array], *at: Array, is_formed: bool = False
) -> Callable[[Array], tuple[Array, ...]]:
    """The map from a vector v to vᵀ ∂`function`/∂a, for each argument a of `function`, at the arguments `at`.

    If `is_formed`, or if there is no reverse derivative, it multiplies by the Jacobians, which are formed first.
    """

    def backwards() -> Any:
        value, vjp = jax.vjp(function, *at)
        jax.eval_shape(vjp, value)  # raises if there is no reverse derivative
        return vjp

    def formed(transform: Any) -> Any:
        jacobians = transform(function, argnums=tuple(range(len(at))))(*at)
        return lambda vector: tuple(jnp.matmul(vector, part.astype(vector.dtype)) for part in jacobians)

    def by_rows() -> Any:
        return formed(jax.jacrev) if is_formed else backwards()

    return _one_of(lambda _: function(*at), at[0].ravel(), by_rows, lambda: formed(jax.jacfwd))


def with_derivative_of(route: Callable[..., tuple[Any, Any]], value: PyTree, *arguments: PyTree) -> PyTree:
    """Return `value` with the derivative of `route(*arguments)`, which returns the same value and whether to trust it.

    The derivative is NaN where `route` is not to be trusted, and where its result differs from `value` by more than
    eps^⅓ (1 + |`value`|).
    """

    @jax.custom_jvp
    def exact(value: PyTree, *arguments: PyTree) -> PyTree:
        return value

    @exact.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        value, *arguments = primals
        of_route, tangent, is_sure = jax.jvp(route, arguments, list(tangents[1:]), has_aux=True)

        def checked(value: Array, of_route: Array, tangent: Array) -> Array:
            gap = jnp.where(value == of_route, 0, jnp.abs(value - of_route))
            agrees = gap <= float(jnp.finfo(value.dtype).eps) ** (1 / 3) * (1 + jnp.abs(value))
            # a factor, so that the derivative stays linear
            return jnp.where(agrees & is_sure, 1, jnp.nan).astype(value.dtype) * tangent

        return value, jax.tree.map(checked, value, of_route, tangent)

    return exact(lax.stop_gradient(value), *arguments)
