"""Matrices with one exponent per row: their products and singular values, however much the rows differ in size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gradient_horizon.numerics.exponents import LOG_2, log_of, normalise, power_of_two
from gradient_horizon.numerics.extended_range import Extended

ZERO = -(2**30)  # the exponent of a row of zeros
_SWEEPS = 40  # about 5 to 8 are needed


class Graded(NamedTuple):
    """diag(2^`exponents`) `rows`, with the largest entry of each row in [1, 2); a row of zeros has exponent `ZERO`."""

    rows: Array
    exponents: Array


def _power(exponent: Int[Array, "..."], dtype) -> Float[Array, "..."]:
    """2^`exponent`, or 0 below the normal numbers; the exponent must be at most a few tens."""
    lowest = int(jnp.finfo(dtype).minexp)
    power = jnp.vectorize(lambda e: power_of_two(e, dtype))(jnp.maximum(exponent, lowest))
    return jnp.where(exponent < lowest, 0, power)


def _regrade(rows: Float[Array, "m n"], exponents: Int[Array, " m"]) -> Graded:
    scaled, gained = jax.vmap(normalise)(rows)
    zero = jnp.all(rows == 0, axis=1)
    return Graded(scaled, jnp.where(zero, ZERO, exponents + gained))


def graded(rows: Float[Array, "m n"]) -> Graded:
    """Return `rows` as a graded matrix, each row with its own exponent."""
    return _regrade(rows, jnp.zeros(len(rows), jnp.int32))


def log_norm(matrix: Graded) -> Float[Array, ""]:
    """log ‖·‖_F, for exponents of moderate size; -inf for a matrix of zeros."""
    largest = jnp.max(matrix.exponents)
    largest = jnp.where(largest == ZERO, 0, largest)
    scaled = matrix.rows * _power(matrix.exponents - largest, matrix.rows.dtype)[:, None]
    return 0.5 * jnp.log(jnp.sum(scaled * scaled)) + largest.astype(scaled.dtype) * LOG_2


def graded_product(left: Float[Array, "n n"] | Extended, right: Graded) -> Graded:
    """`left` times a graded matrix, with the exponent of each entry taken into account: nothing over- or underflows."""
    mantissa, exponent = left if isinstance(left, Extended) else jax.vmap(jax.vmap(normalise))(left)
    total = exponent + right.exponents[None, :]
    total = jnp.where((mantissa == 0) | (right.exponents == ZERO)[None, :], ZERO, total)
    largest = jnp.max(total, axis=1)
    terms = mantissa * _power(total - largest[:, None], mantissa.dtype)
    rows = jnp.where((largest == ZERO)[:, None], 0, jnp.matmul(terms, right.rows, precision="highest"))
    return _regrade(rows, largest)


def _tournament(n: int) -> np.ndarray:
    """Rounds of disjoint pairs of 0 .. n - 1 (n even) that contain every pair once: shape (n - 1, 2, n / 2)."""
    circle = list(range(1, n))
    rounds = []
    for _ in range(n - 1):
        players = [0, *circle]
        rounds.append([players[: n // 2], players[: n // 2 - 1 : -1]])
        circle = [circle[-1], *circle[:-1]]
    return np.array(rounds, np.int32)


def _rotate(graded: Graded, pairs: Int[Array, "2 m"]) -> tuple[Graded, Float[Array, ""]]:
    """Make the rows of each pair orthogonal; also return the largest |cosine| between the two before."""
    dtype = graded.rows.dtype
    rows, exponents = graded.rows[pairs], graded.exponents[pairs]
    squares = jnp.sum(rows * rows, axis=2)
    size = exponents.astype(dtype) + 0.5 * jnp.log2(squares)  # -inf for a zero row
    swap = size[0] < size[1]
    first, second = jnp.where(swap, pairs[1], pairs[0]), jnp.where(swap, pairs[0], pairs[1])
    x, y = graded.rows[first], graded.rows[second]  # 2^e x is the longer row, 2^f y the shorter one
    e, f = graded.exponents[first], graded.exponents[second]
    a, b, inner = jnp.sum(x * x, axis=1), jnp.sum(y * y, axis=1), jnp.sum(x * y, axis=1)
    ratio = _power(f - e, dtype)
    gap = jnp.maximum(a - ratio * ratio * b, 0)
    root = gap + jnp.sqrt(gap * gap + 4 * ratio * ratio * inner * inner)
    # tan θ / ratio: finite even if the ratio underflows, in which case it is the Gram-Schmidt coefficient
    slope = jnp.where(inner == 0, 0, 2 * inner / jnp.where(inner == 0, 1, root))
    tangent = ratio * slope
    cosine = (1 / jnp.sqrt(1 + tangent * tangent))[:, None]
    longer = _regrade(cosine * (x + (ratio * tangent)[:, None] * y), e)
    shorter = _regrade(cosine * (y - slope[:, None] * x), f)
    rows = graded.rows.at[first].set(longer.rows).at[second].set(shorter.rows)
    exponents = graded.exponents.at[first].set(longer.exponents).at[second].set(shorter.exponents)
    scale = jnp.sqrt(a) * jnp.sqrt(b)
    angle = jnp.max(jnp.where(scale > 0, jnp.abs(inner) / jnp.where(scale > 0, scale, 1), 0))
    return Graded(rows, exponents), angle


def graded_svd(graded: Graded) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Log singular values of diag(2^e) X, descending, and the right singular vectors as rows.

    Computed by one-sided Jacobi on the rows (Demmel and Veselić 1992). The relative error of each σ_i is about
    eps κ(X), whatever e. -inf for exact zeros.
    """
    n, columns = graded.rows.shape
    dtype = graded.rows.dtype
    if n % 2:
        rows = jnp.concatenate([graded.rows, jnp.zeros((1, columns), dtype)])
        graded = Graded(rows, jnp.concatenate([graded.exponents, jnp.full(1, ZERO, graded.exponents.dtype)]))
    rounds = jnp.asarray(_tournament(n + n % 2))
    # below this cosine, inner products cannot be distinguished from 0
    tolerance = float(jnp.finfo(dtype).eps) * max(columns, 4)

    def sweep(carry):
        graded, _, count = carry
        graded, angles = lax.scan(_rotate, graded, rounds)
        return graded, jnp.max(angles), count + 1

    start = (graded, jnp.ones((), dtype), jnp.zeros((), jnp.int32))
    (rows, exponents), _, _ = lax.while_loop(lambda c: (c[1] > tolerance) & (c[2] < _SWEEPS), sweep, start)
    norms = jnp.sqrt(jnp.sum(rows * rows, axis=1))
    logs = log_of(norms, jnp.where(norms > 0, exponents, 0))
    order = lax.sort((-logs, jnp.arange(len(logs), dtype=jnp.int32)), num_keys=1)[1][:n]
    return logs[order], (rows / jnp.where(norms > 0, norms, 1)[:, None])[order]
