"""The largest singular value of a matrix by iterative search, starting from a singular vector of a similar matrix.

From lag to lag a product changes by one factor, M' = M J, so its leading left singular vector is a good start for the
next one. The search takes only some matrix-vector products. It is a conjugate gradient method on the Rayleigh quotient
of M Mᵀ: each step finds the best vector in the span of the current one, the residual and the last direction (Knyazev
2001, LOBPCG with one vector and no preconditioner). LAPACK's SVD takes as long as 6 to 100 matrix products, this search
between a fraction of one and two.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from gradient_horizon.numerics import lapack
from gradient_horizon.numerics.arrays import Scalar
from gradient_horizon.numerics.derivatives import with_derivative_of
from gradient_horizon.numerics.keys import fixed_normal

MOST_STEPS = 200  # then LAPACK: about 5 are needed, up to 80 at the first lags of a wide network
FRESH = 0.3  # how much of each start is a new random direction
_FRESH_DIRECTIONS = 64


class Leading(NamedTuple):
    """The largest singular value of a matrix, and a unit vector close to the left singular vector."""

    value: Array
    vector: Array


class _Search(NamedTuple):
    present: Array  # (x, Mᵀ x), x a unit vector
    last: Array  # the last step, and its image
    residual: Array  # M Mᵀ x - θ x
    square: Array  # θ = ‖Mᵀ x‖²
    length: Array  # of the residual
    steps: Array


def _dot(a: Array, b: Array) -> Scalar:
    return jnp.sum(a * b)


def _unit(vector: Array) -> Array:
    size = jnp.sqrt(_dot(vector, vector))
    return vector / jnp.where(size > 0, size, 1)


def fresh_directions(n: int, dtype) -> Float[Array, "k n"]:
    """Random directions of about unit length, always the same ones, to be used in turn."""
    return jnp.asarray(fixed_normal(_FRESH_DIRECTIONS, n) / n**0.5, dtype)


def _leading_of_three(gram: list[list[Scalar]]) -> list[Scalar]:
    """The eigenvector of the largest eigenvalue of a symmetric 3 × 3 matrix, by five Jacobi rotations.

    Four more would save the search one step in 800: near its end the matrix is nearly diagonal.
    """
    entry = [list(row) for row in gram]
    one, zero = jnp.ones_like(entry[0][0]), jnp.zeros_like(entry[0][0])
    vectors = [[one if i == j else zero for j in range(3)] for i in range(3)]
    for p, q in ((0, 1), (0, 2), (1, 2), (0, 1), (0, 2)):
        other, off = 3 - p - q, entry[p][q]
        ratio = (entry[q][q] - entry[p][p]) / (2 * jnp.where(off == 0, 1, off))
        tangent = jnp.where(ratio < 0, -1, 1) / (jnp.abs(ratio) + jnp.sqrt(1 + ratio * ratio))
        tangent = jnp.where(off == 0, 0, tangent)
        cosine = 1 / jnp.sqrt(1 + tangent * tangent)
        sine = tangent * cosine
        entry[p][p], entry[q][q] = entry[p][p] - tangent * off, entry[q][q] + tangent * off
        entry[p][q] = entry[q][p] = zero
        first, second = entry[other][p], entry[other][q]
        entry[other][p] = entry[p][other] = cosine * first - sine * second
        entry[other][q] = entry[q][other] = sine * first + cosine * second
        for row in vectors:
            row[p], row[q] = cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]
    values = [entry[i][i] for i in range(3)]
    is_first = (values[0] >= values[1]) & (values[0] >= values[2])
    is_second = values[1] >= values[2]
    return [jnp.where(is_first, row[0], jnp.where(is_second, row[1], row[2])) for row in vectors]


def largest_singular_value(
    matrix: Float[Array, "n m"], start: Float[Array, " n"], fresh: Float[Array, " n"]
) -> Leading:
    """σ_1 of `matrix`, by a search from `start` (the left singular vector of a similar matrix) mixed with `fresh`.

    **Accuracy:** the search ends when r = ‖M Mᵀ x - θ x‖, with θ = ‖Mᵀ x‖², is below 16 eps θ (√n eps θ from n = 256
    on); θ is then within r of some σ_i². If 2 θ - ‖M‖_F² > θ/100, so that no other σ_i² can be as large, it also ends
    when r² ≤ 16 eps θ (2 θ - ‖M‖_F²), which fixes θ to 16 eps. Thus log σ_1 is accurate to 1e-6 in float32 and 1e-14 in
    float64, unless the search ends in another singular vector. For that, σ_1 would have to exceed that vector's
    singular value by less than r / (σ_1 c²), with c the share of the true vector in the start; `fresh` keeps c at about
    `FRESH`/√n even if `start` has no such share. If `MOST_STEPS` do not suffice, LAPACK is used. 0 for a matrix of
    zeros, NaN for one that is not finite.

    **Derivatives:** dσ = uᵀ dM v, with u and v from LAPACK; NaN if another singular value is as large.

    **Source:** Knyazev, SIAM J. Sci. Comput. 23, 517 (2001); the bounds are Temple's and the residual's own
    (Parlett 1998, chapters 4 and 10).
    """
    n = matrix.shape[0]
    tolerance = max(16.0, n**0.5) * float(jnp.finfo(matrix.dtype).eps)

    def searched(present: Array, last: Array, steps: Array) -> _Search:
        x, y = present[:n], present[n:]
        square = _dot(y, y)
        residual = jnp.matmul(matrix, y) - square * x
        return _Search(present, last, residual, square, jnp.sqrt(_dot(residual, residual)), steps)

    def is_open(search: _Search) -> Array:
        square, length = search.square, search.length
        gap = 2 * square - whole
        alone = (gap > 0.01 * square) & (length * length <= tolerance * square * gap)
        return (length > tolerance * square) & ~alone & (search.steps < MOST_STEPS)  # NaN ends it

    def improve(search: _Search) -> _Search:
        """Each vector is concatenated with its image, so that one operation updates both."""
        present, last = search.present, search.last
        x = present[:n]
        r = _unit(search.residual - _dot(x, search.residual) * x)
        downhill = jnp.concatenate([r, jnp.matmul(r, matrix)])
        last = last - _dot(x, last[:n]) * present - _dot(r, last[:n]) * downhill
        size = jnp.sqrt(_dot(last[:n], last[:n]))
        last = jnp.where(size > 1e-20, 1 / jnp.where(size > 1e-20, size, 1), 0) * last
        images = present[n:], downhill[n:], last[n:]
        products = {(i, j): _dot(images[i], images[j]) for i in range(3) for j in range(i, 3)}
        a, b, c = _leading_of_three([[products[min(i, j), max(i, j)] for j in range(3)] for i in range(3)])
        last = b * downhill + c * last
        present = a * present + last
        return searched(present / jnp.sqrt(_dot(present[:n], present[:n])), last, search.steps + 1)

    original, matrix, start = matrix, lax.stop_gradient(matrix), lax.stop_gradient(start)
    whole = jnp.sum(matrix * matrix)
    x = _unit(start + FRESH * fresh)
    present = jnp.concatenate([x, jnp.matmul(x, matrix)])
    first_search = searched(present, jnp.zeros_like(present), jnp.zeros((), jnp.int32))
    last_search = lax.while_loop(is_open, improve, first_search)
    value = jnp.sqrt(last_search.square)
    value = lapack.largest_singular_value_where(last_search.steps >= MOST_STEPS, matrix, value)
    return Leading(with_derivative_of(_differentiable, value, original), last_search.present[:n])


def largest_by_lapack(matrix: Float[Array, "n m"]) -> Scalar:
    """σ_1 of `matrix` by a singular value decomposition, with the same derivatives."""
    return with_derivative_of(_differentiable, lapack.singular_values(lax.stop_gradient(matrix))[0], matrix)


def _differentiable(matrix: Float[Array, "n m"]) -> tuple[Scalar, Bool[Array, ""]]:
    return lapack.largest_singular_value(matrix), lapack.largest_stands_alone(matrix)
