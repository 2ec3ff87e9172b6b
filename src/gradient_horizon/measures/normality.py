"""How far a matrix is from normal: Henrici's departure, and a lower bound on the Kreiss constant.

The eigenvalues of a normal matrix (A A* = A* A: symmetric, orthogonal, circulant) say everything about the norms of its
powers, ‖A^k‖₂ = ρ(A)^k. Any other matrix may amplify first what it forgets in the end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact, Int

from gradient_horizon.numerics import lapack
from gradient_horizon.numerics.arrays import Scalar
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.exponents import largest_exponent, power_of_two

ANGLES, RADII = 33, 10  # the first search for the Kreiss constant: directions of z, and distances from the unit circle
ROUNDS = 20  # steps of the second search, each with the eight neighbours of the best z so far


class Departure(NamedTuple):
    """Henrici's departure from normality of a matrix A with eigenvalues λ_i.

    - `absolute`: √(‖A‖_F² - Σ|λ_i|²), 0 for a normal matrix.
    - `relative`: the same divided by ‖A‖_F, between 0 and 1 (1: nilpotent); 0 for a matrix of zeros.
    """

    absolute: Array
    relative: Array


class KreissBound(NamedTuple):
    """A lower bound on the Kreiss constant K(A) of a matrix.

    - `bound`: at least 1.
    - `at`: the z at which it was found; inf if no z did better than 1, the limit for |z| → ∞.
    - `spectral_radius`: the largest modulus of the computed eigenvalues; K is infinite if it exceeds 1.
    """

    bound: Array
    at: Array
    spectral_radius: Array


@compiled_once
def henrici_departure(matrix: Any) -> Departure:
    """Henrici's departure from normality, √(‖A‖_F² - Σ|λ_i|²), of a square matrix, real or complex.

    It is ‖N‖_F for A = Q (D + N) Q*, with D diagonal and N strictly upper triangular (Schur). It is computed as this
    norm, not as the difference, whose cancellation would leave √eps of ‖A‖_F for a normal matrix.

    **Accuracy:** exact for a matrix that differs from `matrix` by some n eps ‖A‖_F. For a normal matrix the result is
    of that size. Where eigenvalues are ill conditioned (those of an n × n Jordan block move by eps^(1/n)), Σ|λ_i|²
    moves with them.

    Works inside `jax.jit` and `jax.vmap`, on the CPU. Derivatives are NaN. NaN for a matrix that is not finite.

    **Raises:** `ValueError` if `matrix` is not square.

    **Source:** Henrici 1962, Numer. Math. 4, 24; Trefethen and Embree 2005, chapter 48.
    """
    matrix = square_matrix(matrix)
    if not len(matrix):
        raise ValueError("matrix: shape (0, 0); allowed: at least one row")
    is_finite = jnp.all(jnp.isfinite(matrix))
    fixed = lax.stop_gradient(matrix)
    scaled, exponent = _normalised(jnp.where(is_finite, fixed, jnp.eye(len(matrix), dtype=matrix.dtype)))
    schur = lapack.schur_form(scaled)
    above = jnp.abs(jnp.triu(schur, 1))
    # in a real form, a block [[a, b], [c, a]] has |λ|² = a² + |b c| twice, so (|b| - |c|)² remains
    paired = jnp.diag(jnp.abs(jnp.diagonal(schur, -1)), 1)
    departure, size = _norm(above - paired), _norm(jnp.abs(scaled))
    relative = departure / jnp.where(size > 0, size, 1)
    absolute = departure * power_of_two(exponent, departure.dtype)
    found = Departure(absolute, jnp.minimum(relative, 1))
    return _without_derivative(jax.tree.map(lambda value: jnp.where(is_finite, value, jnp.nan), found), matrix)


@compiled_once
def kreiss_lower_bound(matrix: Any) -> KreissBound:
    """A lower bound on the Kreiss constant K(A) = sup_{|z|>1} (|z| - 1) ‖(z - A)⁻¹‖₂ of a square matrix.

    K bounds the powers of A, the Jacobian products of a network at a fixed point, from both sides (Kreiss 1962;
    Spijker 1991): K ≤ sup_k ‖A^k‖₂ ≤ e n K. It is 1 for a normal matrix with ρ(A) ≤ 1 and infinite if ρ(A) > 1.

    Every z gives a lower bound, (|z| - 1)/σ_min(z - A), and so does |z| → ∞, which gives 1. The largest is sought on a
    grid of `ANGLES` × `RADII` (for a real matrix in the upper half plane, where the other half is its mirror image) and
    then around its best point: some 500 singular value decompositions, a tenth of a second for n = 64.

    **Certification:** the computed σ_min is taken to be off by n eps ‖z - A‖_F (LAPACK is backward stable), and the
    bound is lowered by that much, so that rounding cannot raise it above K. Even where K is infinite it is therefore at
    most (|z| - 1)/(n eps ‖z - A‖_F); it is inf only if A is z times the identity for a z that was tried, and K is then
    infinite. It may lie below K if the supremum is so narrow a peak that the search misses it.

    Works inside `jax.jit` and `jax.vmap`, on the CPU. Derivatives are NaN. NaN for a matrix that is not finite.

    **Raises:** `ValueError` if `matrix` is not square.

    **Source:** Trefethen and Embree, Spectra and Pseudospectra, 2005, chapter 18.
    """
    matrix = square_matrix(matrix)
    if not len(matrix):
        raise ValueError("matrix: shape (0, 0); allowed: at least one row")
    is_finite = jnp.all(jnp.isfinite(matrix))
    n, is_real = len(matrix), not jnp.iscomplexobj(matrix)
    eye = jnp.eye(n, dtype=matrix.dtype)
    fixed = jnp.where(is_finite, lax.stop_gradient(matrix), eye)
    dtype = jnp.finfo(matrix.dtype).dtype
    eps = float(jnp.finfo(dtype).eps)

    def of_circle(place: Float[Array, "2"]) -> tuple[Scalar, Array]:
        """(|z| - 1)/σ_min(z - A), and z, from log(|z| - 1) and the angle of z."""
        distance, angle = jnp.exp(place[0]), place[1]
        z = lax.complex((1 + distance) * jnp.cos(angle), (1 + distance) * jnp.sin(angle))
        shifted = z * eye.astype(z.dtype) - fixed.astype(z.dtype)
        rounding = n * eps * _norm(jnp.abs(shifted))
        least = lapack.singular_values(shifted)[-1]
        return (distance - 4 * eps * (1 + distance)) / (least + rounding), z

    turn = np.pi if is_real else 2 * np.pi * (1 - 1 / ANGLES)
    angles = np.linspace(0, turn, ANGLES)
    distances = np.linspace(np.log(eps) / 2, np.log(4.0), RADII)
    grid = jnp.asarray(np.stack(np.meshgrid(distances, angles), axis=-1).reshape(-1, 2), dtype)
    bounds, _ = lax.map(of_circle, grid)
    best = jnp.argmax(bounds)
    around = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)], dtype)

    def refine(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        place, bound, stride = carry
        places = place[None, :] + around * stride[None, :]
        others, _ = lax.map(of_circle, places)
        best = jnp.argmax(others)
        is_better = others[best] > bound
        place = jnp.where(is_better, places[best], place)
        return (place, jnp.maximum(others[best], bound), jnp.where(is_better, stride, stride / 2)), None

    stride = jnp.asarray([(distances[1] - distances[0]) / 2, (angles[1] - angles[0]) / 2], dtype)
    (place, bound, _), _ = lax.scan(refine, (grid[best], bounds[best], stride), None, length=ROUNDS)
    at = jnp.where(bound > 1, of_circle(place)[1], jnp.inf)
    found = KreissBound(jnp.maximum(bound, 1), at, lapack.spectral_radius(fixed))
    return _without_derivative(jax.tree.map(lambda value: jnp.where(is_finite, value, jnp.nan), found), matrix)


def square_matrix(matrix: Any) -> Inexact[Array, "n n"]:
    """`matrix` as a JAX array of floats; `ValueError` if it is not square."""
    array = jnp.asarray(matrix)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"matrix: shape {array.shape}; allowed: a square matrix")
    is_wide = jnp.issubdtype(array.dtype, jnp.inexact) and jnp.finfo(array.dtype).bits >= 32
    return array if is_wide else array.astype(float)


def _normalised(matrix: Inexact[Array, "n n"]) -> tuple[Inexact[Array, "n n"], Int[Array, ""]]:
    """`matrix` = `scaled` · 2^`exponent`, with the largest real or imaginary part between 1 and 2."""
    exponent = largest_exponent(jnp.maximum(jnp.abs(jnp.real(matrix)), jnp.abs(jnp.imag(matrix))))
    return matrix * power_of_two(-exponent, jnp.finfo(matrix.dtype).dtype).astype(matrix.dtype), exponent


def _norm(moduli: Float[Array, "n n"]) -> Scalar:
    return jnp.sqrt(jnp.sum(moduli * moduli))


@jax.custom_jvp
def _without_derivative(values: Any, matrix: Inexact[Array, "n n"]) -> Any:
    """`values`, whose derivatives are not implemented and give NaN."""
    return values


@_without_derivative.defjvp
def _(primals: Any, tangents: Any) -> Any:
    values, _ = primals
    change = jnp.real(jnp.sum(tangents[1]))

    def unknown(value: Array) -> Array:
        return jnp.full_like(value, jnp.nan) * change.astype(value.dtype)

    return values, jax.tree.map(unknown, values)
