"""LAPACK decompositions, one matrix at a time.

A LAPACK call on a batch splits it over the thread pool that the call itself runs in, and waits there: with two CPU
devices both threads wait for ever (jax 0.10.2: `ParallelBatchMap` inside `lapack_*_ffi`). Under `jax.vmap` these
functions loop over the batch instead. Nothing else in the package may call LAPACK inside a compiled program.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap, sequential_vmap
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int


@sequential_vmap
def qr(matrix: Float[Array, "n k"]) -> tuple[Float[Array, "n k"], Float[Array, "k k"]]:
    """The reduced QR factors."""
    q, r = jnp.linalg.qr(matrix)
    return q, r


def descending(values: Float[Array, " n"]) -> Int[Array, " n"]:
    """The order that sorts `values` in descending order, as 32-bit integers even if 64 bits are enabled."""
    return lax.sort((-values, jnp.arange(len(values), dtype=jnp.int32)), num_keys=1)[1]


def graded_qr(matrix: Float[Array, "n k"]) -> tuple[Float[Array, "n k"], Float[Array, "k k"]]:
    """The reduced QR factors, computed with the rows sorted by decreasing size.

    Each row of `matrix` thus keeps its own relative accuracy, however much the norms of the rows differ (Cox and
    Higham 1998); a plain QR loses the small rows in the rounding of the large ones.
    """
    order = descending(jnp.max(jnp.abs(matrix), axis=1))
    q, r = qr(matrix[order])
    return jnp.zeros_like(q).at[order].set(q), r


@sequential_vmap
def rank_revealing_qr(matrix: Float[Array, "n k"]) -> tuple[Float[Array, "n n"], Float[Array, "n k"]]:
    """Q and R with Q R = `matrix` and the rows of R by decreasing size: for rank r, all but r rows are rounding errors.

    R is triangular up to the order of its columns (Businger and Golub 1965). Rows are sorted as in `graded_qr`.
    """
    order = descending(jnp.max(jnp.abs(matrix), axis=1))
    q, r, columns = jax.scipy.linalg.qr(matrix[order], pivoting=True)  # type: ignore[misc]
    return jnp.zeros_like(q).at[order].set(q), jnp.zeros_like(r).at[:, columns].set(r)


@sequential_vmap
def triangular_factor(matrix: Float[Array, "n k"]) -> Float[Array, "k k"]:
    """Only R of the reduced QR factors, at half the work."""
    return jnp.linalg.qr(matrix, mode="r")


@sequential_vmap
def solve_upper_triangular(matrix: Float[Array, "k k"], right: Float[Array, "k m"]) -> Float[Array, "k m"]:
    """X with `matrix` X = `right`, for an upper triangular matrix."""
    return jax.scipy.linalg.solve_triangular(matrix, right)


@sequential_vmap
def singular_values(matrix: Inexact[Array, "n k"]) -> Float[Array, " m"]:
    """All m = min(n, k) singular values, descending."""
    return jnp.linalg.svd(matrix, compute_uv=False)


@sequential_vmap
def _svd(matrix: Float[Array, "n k"]) -> tuple[Float[Array, "n m"], Float[Array, " m"], Float[Array, "m k"]]:
    u, values, v = jnp.linalg.svd(matrix, full_matrices=False)
    return u, values, v


@jax.custom_jvp
def _leading_vectors(matrix: Float[Array, "n k"]) -> tuple[Float[Array, " n"], Float[Array, " k"]]:
    """The singular vectors of the largest singular value; their derivatives are not implemented and give NaN."""
    u, _, v = _svd(lax.stop_gradient(matrix))
    return u[:, 0], v[0]


@_leading_vectors.defjvp
def _(primals, tangents):
    vectors = _leading_vectors(*primals)
    return vectors, jax.tree.map(lambda vector: jnp.full_like(vector, jnp.nan) * jnp.sum(tangents[0]), vectors)


@jax.custom_jvp
def largest_singular_value(matrix: Float[Array, "n k"]) -> Float[Array, ""]:
    """The largest singular value, with its first derivative dσ = uᵀ dM v; second derivatives are NaN."""
    return singular_values(lax.stop_gradient(matrix))[0]


@largest_singular_value.defjvp
def _(primals, tangents):
    u, v = _leading_vectors(*primals)
    return largest_singular_value(*primals), u @ tangents[0] @ v


def largest_stands_alone(matrix: Float[Array, "n k"]) -> Bool[Array, ""]:
    """True if the largest singular value is separated from the next by more than √eps of itself.

    Only then is it differentiable.
    """
    values = singular_values(lax.stop_gradient(matrix))[:2]
    limit = float(jnp.finfo(matrix.dtype).eps) ** 0.5 * values[0]
    return values[0] - values[1] > limit if len(values) > 1 else values[0] > 0


@custom_vmap
def largest_singular_value_where(
    needed: Bool[Array, ""], matrix: Float[Array, "n k"], otherwise: Float[Array, ""]
) -> Float[Array, ""]:
    """The largest singular value if `needed`, otherwise `otherwise`. Computed only if needed, even under `jax.vmap`."""
    return lax.cond(needed, lambda: singular_values(matrix)[0], lambda: otherwise)


@largest_singular_value_where.def_vmap
def _(size, batched, *arguments):
    needed, matrix, otherwise = (
        value if has else jnp.broadcast_to(value, (size, *value.shape))
        for value, has in zip(arguments, batched, strict=True)
    )

    def each():
        return lax.map(lambda values: largest_singular_value_where(*values), (needed, matrix, otherwise))

    return lax.cond(jnp.any(needed), each, lambda: otherwise), True


@sequential_vmap
def eigenvalues(matrix: Inexact[Array, "n n"]) -> Complex[Array, " n"]:
    """All eigenvalues of a general matrix, in no particular order; only on the CPU."""
    return jnp.linalg.eigvals(matrix)


@sequential_vmap
def schur_form(matrix: Inexact[Array, "n n"]) -> Inexact[Array, "n n"]:
    """T of the Schur decomposition A = Q T Q*, without Q; only on the CPU.

    Upper triangular for a complex matrix. For a real one T is real, with a 2 × 2 block [[a, b], [c, a]], b c < 0, for
    each pair of complex eigenvalues a ± i √(-b c).
    """
    return lax.linalg.schur(matrix, compute_schur_vectors=False)[0]


@sequential_vmap
def symmetric_eigenvalues(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    """All eigenvalues of a symmetric matrix, ascending."""
    return jnp.linalg.eigvalsh(matrix)


def spectral_radius(matrix: Inexact[Array, "n n"]) -> Float[Array, ""]:
    """The largest modulus of an eigenvalue."""
    return jax.numpy.max(jnp.abs(eigenvalues(matrix)))


@sequential_vmap
def inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The inverse; not finite if the matrix is exactly singular."""
    return jnp.linalg.inv(matrix)


@sequential_vmap
def solution(matrix: Float[Array, "n n"], vector: Float[Array, " n"]) -> Float[Array, " n"]:
    """The x with `matrix` x = `vector`; if rounding leaves no such x, the shortest one of least squares.

    LU serves as long as its residual is at most half of `vector`. Otherwise singular values below n eps of the largest
    count as 0.
    """
    direct = jnp.linalg.solve(matrix, vector)
    residual = jnp.linalg.norm(matrix @ direct - vector)
    serves = residual <= 0.5 * jnp.linalg.norm(vector)  # False for NaN

    def shortest() -> Array:
        u, values, v = jnp.linalg.svd(matrix)
        limit = len(vector) * float(jnp.finfo(matrix.dtype).eps) * values[0]
        weights = jnp.where(values > limit, 1 / jnp.where(values > limit, values, 1), 0)
        return v.T @ (weights * (u.T @ vector))

    return lax.cond(serves, lambda: direct, shortest)


@sequential_vmap
def eigensystem(matrix: Float[Array, "n n"]) -> tuple[Complex[Array, " n"], Float[Array, " n"]]:
    """All eigenvalues by decreasing modulus, and the condition number of each; only on the CPU.

    The condition number is ‖x‖ ‖y‖ / |y* x| of the right and left eigenvectors x and y: a small change E of the matrix
    moves the eigenvalue by at most that times ‖E‖₂, to first order (Wilkinson 1965, section 2.8). inf if the
    eigenvectors are not independent.
    """
    values, vectors = jnp.linalg.eig(matrix)
    left = jnp.linalg.inv(vectors)
    conditions = jnp.linalg.norm(left, axis=1) * jnp.linalg.norm(vectors, axis=0)
    order = descending(jnp.abs(values))
    return values[order], jnp.where(jnp.isnan(conditions), jnp.inf, conditions)[order]
