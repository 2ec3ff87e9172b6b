"""Angles between directions and between subspaces, accurate however small they are."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gradient_horizon.numerics import lapack


def _length(vector: Float[Array, " n"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(vector * vector))


def angle(one: Float[Array, " n"], other: Float[Array, " n"]) -> Float[Array, ""]:
    """The angle between the lines along two unit vectors, from 0 to π/2, accurate however small it is (Kahan 2006)."""
    other = jnp.where(jnp.vdot(one, other) < 0, -other, other)
    return 2 * jnp.arctan2(_length(one - other), _length(one + other))


def angles_of_columns(ones: Float[Array, "n k"], others: Float[Array, "n k"]) -> Float[Array, " k"]:
    """`angle` between each column of one matrix and that of the other, all of unit length."""
    return jax.vmap(angle, in_axes=1)(ones, others)


def angles_of_spans(basis: Float[Array, "n k"], other: Float[Array, "n k"]) -> Float[Array, " k"]:
    """A bound on the largest angle between the spans of the first i columns of two orthonormal bases, for each i.

    Its sine is ‖(1 - Q_i Q_iᵀ) Q_i′‖₂, at most the Frobenius norm that is used here.
    """
    inside = jnp.matmul(basis.T, other, precision="highest")
    outside = other - jnp.matmul(basis, inside, precision="highest")
    by_column = jnp.sum(outside * outside, axis=0)
    numbers = jnp.arange(basis.shape[1], dtype=jnp.int32)

    def squares(i):
        beyond = by_column + jnp.sum(jnp.where((numbers > i)[:, None], inside * inside, 0), axis=0)
        return jnp.sum(jnp.where(numbers <= i, beyond, 0))

    return jnp.arcsin(jnp.minimum(jnp.sqrt(lax.map(squares, numbers)), 1))


def smallest_angle(vectors: Float[Array, "n k"], dimension: Int[Array, ""] | int) -> Float[Array, ""]:
    """The first principal angle between the first `dimension` columns and the others."""
    k = vectors.shape[1]
    places = jnp.arange(k, dtype=jnp.int32)
    # orthonormal bases of both, padded with zeros: the last columns reversed are the first ones of another QR
    first = jnp.where((places < dimension)[None], lapack.qr(vectors)[0], 0)
    others = jnp.where((places < k - dimension)[None], lapack.qr(vectors[:, ::-1])[0], 0)
    cosines = jnp.matmul(first.T, others, precision="highest")
    rest = others - jnp.matmul(first, cosines, precision="highest")
    padding = jnp.diag(jnp.where(places < k - dimension, 0, 1).astype(vectors.dtype))
    # sines come from what is left outside; the padding adds singular values of 1, which are not the smallest
    sine = lapack.singular_values(jnp.concatenate([rest, padding]))[-1]
    between = jnp.arctan2(sine, lapack.singular_values(cosines)[0])
    return jnp.where((dimension > 0) & (dimension < k), between, jnp.nan)
