"""Gaussian elimination with partial pivoting, for a whole block of networks at once.

LAPACK's routine takes one matrix at a time (see `lapack`), is half as fast on a CPU at 64 × 64, and returns the order
of the rows as a list of exchanges that have yet to be carried out. Here rows are not moved. The columns are halved
recursively until few are left, which are eliminated one by one; the rest of the work is matrix products (Toledo, SIAM
J. Matrix Anal. Appl. 18, 1065 (1997)).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.numerics import sums
from gradient_horizon.numerics.arrays import Scalar
from gradient_horizon.numerics.exponents import LOG_2, normalise
from gradient_horizon.numerics.xla import materialised

_FEW = 32  # columns that are eliminated one by one


class LU(NamedTuple):
    """The factors of a matrix whose k columns of length n are stored as rows.

    - `lower`: (k, n), unit lower triangular up to the order of the entries within its columns.
    - `diagonal`: (k,), of U.
    - `places`: (k,), the place of each pivot in its column of the matrix.
    """

    lower: Array
    diagonal: Array
    places: Array


def _middle(k: int) -> int:
    """About half of k columns, as a multiple of `_FEW`."""
    return _FEW * ((k // _FEW + 1) // 2)


def _one_by_one(columns: Float[Array, "k n"], free: Bool[Array, " n"]) -> tuple[LU, Bool[Array, " n"]]:
    """The factors with pivots only in rows that are `free`, and the rows that are free afterwards."""
    k, n = columns.shape
    after, numbers = jnp.arange(k), jnp.arange(n, dtype=jnp.int32)
    ordered = f"int{8 * columns.dtype.itemsize}"  # read as integers, floats ≥ 0 keep their order, NaN above all

    def eliminate(j, state):
        # Materialise the row and the multipliers first, so that the update of all entries is one fused multiply-add.
        rest, free, factors = state
        column = materialised(lax.dynamic_index_in_dim(rest, j, keepdims=False))
        size = jnp.where(free, lax.bitcast_convert_type(jnp.abs(column), ordered), -1)
        place = jnp.min(jnp.where(size == jnp.max(size), numbers, n))
        index = place.astype(jnp.uint32)  # unsigned: a signed index would also be tested for being negative
        pivot = lax.dynamic_index_in_dim(column, index, keepdims=False)
        row = materialised(lax.dynamic_index_in_dim(rest, index, axis=1, keepdims=False))
        is_pivot = numbers == place
        free = free & ~is_pivot
        multiples = materialised(jnp.where(free, column / jnp.where(pivot == 0, 1, pivot), 0))
        rest = rest - jnp.where(after > j, row, 0)[:, None] * multiples[None]
        of_column = LU(jnp.where(is_pivot, 1, multiples), pivot, place)
        write = partial(lax.dynamic_update_index_in_dim, index=j, axis=0)
        return rest, free, jax.tree.map(write, factors, of_column)

    none = LU(jnp.zeros_like(columns), jnp.zeros_like(columns[:, 0]), jnp.zeros(k, jnp.int32))
    _, free, factors = lax.fori_loop(0, k, eliminate, (columns, free, none))
    return factors, free


def _solved(unit: Float[Array, "k k"], rows: Float[Array, "m k"]) -> Float[Array, "m k"]:
    """Solve X `unit` = `rows` for X, where `unit` is upper triangular with ones on its diagonal."""
    k = len(unit)
    if k > _FEW:
        half = _middle(k)
        left = _solved(unit[:half, :half], rows[:, :half])
        right = rows[:, half:] - jnp.matmul(left, unit[:half, half:])
        return jnp.concatenate([left, _solved(unit[half:, half:], right)], axis=1)
    after = jnp.arange(k)

    def substitute(j, solved):
        factors = materialised(jnp.where(after > j, lax.dynamic_index_in_dim(unit, j, keepdims=False), 0))
        column = materialised(lax.dynamic_index_in_dim(solved, j, axis=1, keepdims=False))
        return solved - column[:, None] * factors[None]

    return lax.fori_loop(0, k, substitute, rows)


def _eliminated(columns: Float[Array, "k n"], free: Bool[Array, " n"]) -> tuple[LU, Bool[Array, " n"]]:
    k = len(columns)
    if k <= _FEW:
        return _one_by_one(columns, free)
    half = _middle(k)
    left, free = _eliminated(columns[:half], free)
    rest = columns[half:]
    unit, rows = (part.at[:, left.places].get(mode="promise_in_bounds") for part in (left.lower, rest))
    above = _solved(unit, rows)
    right, free = _eliminated(rest - jnp.matmul(above, left.lower), free)
    return jax.tree.map(lambda *halves: jnp.concatenate(halves), left, right), free


def lu(columns: Float[Array, "k n"]) -> LU:
    """Factorise the matrix (n, k) with these `columns`, k ≤ n, as `lower` U, by elimination with partial pivoting.

    Columns are stored as rows, so that each is contiguous in memory. The columns of `lower` have entries of at most 1,
    in the order of those of `columns`. A column without a pivot gives a 0 on U's diagonal and a unit column in `lower`,
    which therefore always has full rank.
    """
    return _eliminated(columns, jnp.ones(columns.shape[1], bool))[0]


def log_abs_product(factors: Float[Array, "... n"], power: Int[Array, "..."] | int = 0) -> Float[Array, "..."]:
    """log|product| of the n `factors` 2^`power`, with exponents of two summed as integers; -inf if a factor is 0."""
    mantissas, exponents = sums.split(factors)
    total = jnp.sum(exponents, axis=-1, dtype=jnp.int32) + factors.shape[-1] * power
    return jnp.sum(jnp.log(jnp.abs(mantissas)), axis=-1) + total.astype(factors.dtype) * LOG_2


def log_abs_det(matrix: Float[Array, "n n"]) -> Scalar:
    """log|det|; -inf if elimination meets a column of exact zeros.

    The matrix is normalised first, so that no term of the elimination is lost.
    """
    scaled, power = normalise(matrix)
    return log_abs_product(lu(scaled).diagonal, power)
