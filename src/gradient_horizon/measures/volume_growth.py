"""How fast products of step Jacobians stretch volumes: the growth of log R_ii in J_T ... J_1 Q_0 = Q R.

`grow` obtains it by elimination with partial pivoting, and detects what that may have lost; `grow_in_float64` by a QR
with sorted rows at every step, at several times the cost. Both return logs whose means are the Lyapunov exponents (see
`lyapunov`, which also says why elimination gives the same R).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.measures.states import FlatStep
from gradient_horizon.numerics import lapack, lu, sums
from gradient_horizon.numerics.arrays import PyTree, Scalar
from gradient_horizon.numerics.derivatives import jvp_rows
from gradient_horizon.numerics.exponents import LOG_2, bits_of, normalise
from gradient_horizon.numerics.keys import fixed_normal

_THIN = 2.0**-40  # smaller ratios do not arise by chance, and float32 reaches down to 2^-126


def _volumes(basis: Float[Array, "n k"]) -> Float[Array, " k"]:
    return jnp.log(jnp.abs(jnp.diagonal(lapack.triangular_factor(basis))))


class Growth(NamedTuple):
    """Tangent vectors carried along a trajectory by elimination.

    - `basis`: (k, n), the vectors as rows, so that each is contiguous in memory.
    - `volumes`: (k,), log R_ii of the basis.
    - `unresolved`: (k,), True if no pivot has yet exceeded the rounding of its row.
    - `lost`: True if something may have been lost next to a vector's largest entry or beyond the range of floats.
    """

    basis: Array
    volumes: Array
    unresolved: Array
    lost: Array


def start_from(basis: Float[Array, "k n"]) -> Growth:
    """The `Growth` of an orthonormal `basis` before the first step."""
    k, dtype = len(basis), basis.dtype
    return Growth(basis, jnp.zeros(k, dtype), jnp.ones(k, bool), jnp.zeros((), bool))


# stretch(vectors, (h, x)): the vectors (k, n) after a step, up to a power of two, and the exponent of that power.
Stretch: TypeAlias = Callable[[Float[Array, "k n"], PyTree], tuple[Float[Array, "k n"], Int[Array, ""]]]


def stretch_by(flat_step: FlatStep, params: PyTree, dtype: DTypeLike) -> Stretch:
    """A `Stretch` by the linearised step.

    The vectors are lifted far enough that neither small entries of J_t nor the results of eliminating them underflow.
    """
    lift = bits_of(dtype).bias // 2

    def stretch(vectors, inputs):
        h, x = inputs
        return jvp_rows(flat_step, params, h, x, vectors * 2.0**lift), jnp.int32(-lift)

    return stretch


def grow(stretch: Stretch, every: int, before: Growth, window: PyTree) -> tuple[Growth, sums.Sum]:
    """Carry `before` over a window of steps (states and inputs), with an elimination after `every` steps.

    Also returns by how much log R_ii has grown, a `Sum` (k,).
    """
    states, _ = window
    length, n = states.shape
    dtype = before.basis.dtype
    far = 2.0 ** (bits_of(dtype).bias - 24)

    def one(carry, inputs):
        vectors, exponent = carry
        vectors, gained = stretch(vectors, inputs)
        vectors, size = normalise(vectors)
        return (vectors, exponent + gained + size), None

    def over(vectors, inputs):
        if every == 1:
            return stretch(vectors, jax.tree.map(lambda leaf: leaf[0], inputs))
        return lax.scan(one, (vectors, jnp.int32(0)), inputs)[0]

    def eliminate_after(carry, inputs):
        basis, logs, unresolved, lost = carry
        if len(basis) < n:
            ends, exponent = over(jnp.concatenate([basis, other]), inputs)
            stretched, row = ends[:-1], ends[-1:]
            # compared to what the same row of J_t gives for a vector with entries of similar size
            lost = lost | jnp.any(jnp.abs(stretched) < _THIN * jnp.abs(row))
        else:
            stretched, exponent = over(basis, inputs)
        factors = lu.lu(stretched)
        pivots = jnp.abs(factors.diagonal)
        lost = lost | ~jnp.all((pivots == 0) | ((pivots >= 1 / far) & (pivots <= far)))
        rounding = jnp.max(jnp.abs(stretched), axis=0)[factors.places] * (n * jnp.finfo(dtype).eps)
        return (factors.lower, sums.add_log(logs, pivots, exponent), unresolved & (pivots <= rounding), lost), None

    other = jnp.asarray(fixed_normal(1, n), dtype)
    eliminations = length // every
    cut = eliminations * every
    carry = (before.basis, sums.zero(before.volumes), before.unresolved, before.lost)
    if eliminations:
        split = jax.tree.map(lambda leaf: leaf[:cut].reshape(eliminations, every, *leaf.shape[1:]), window)
        carry, _ = lax.scan(eliminate_after, carry, split)
    if cut < length:
        carry, _ = eliminate_after(carry, jax.tree.map(lambda leaf: leaf[cut:], window))
    basis, logs, unresolved, lost = carry
    volumes = _volumes(basis.T)
    return Growth(basis, volumes, unresolved, lost), sums.add(sums.add(logs, volumes), -before.volumes)


def _log_abs_det(matrix: Float[Array, "n n"]) -> Scalar:
    """By QR: JAX cannot compile an elimination, with its indices, if only part of a program has 64 bits enabled."""
    return jnp.sum(jnp.log(jnp.abs(jnp.diagonal(lapack.graded_qr(matrix)[1]))))


def grow_in_float64(
    jacobian: Callable[[PyTree], tuple[Float[Array, "n n"], Int[Array, ""]]],
    window: PyTree,
    start: Float[np.ndarray, "n n"],
    eps: float,
    parts: Int[np.ndarray, " T"],
    with_log_dets: bool,
) -> tuple[Float[Array, "parts n"], Bool[Array, " n"], Float[Array, " T"]]:
    """Growth of log R_ii by a sorted QR at every step, summed over the steps of each part.

    Also returns which directions have never risen above the rounding `eps` of the Jacobians, and log|det J_t|, or
    zeros. `jacobian((h, x))` is J_t as a matrix in float64 and the exponent of a power of two. 64 bits must be enabled.
    """
    n = len(start)

    def advance(carry, inputs):
        basis, totals, unresolved = carry
        inputs, part = inputs
        matrix, exponent = jacobian(inputs)
        stretched = jnp.matmul(matrix, basis, precision="highest")
        basis, r = lapack.graded_qr(stretched)
        pivots = jnp.abs(jnp.diagonal(r))
        sizes = -jnp.sort(-jnp.max(jnp.abs(stretched), axis=1))
        powers = exponent.astype(jnp.float64) * LOG_2
        totals = totals + jnp.where(numbers == part, jnp.log(pivots) + powers, 0)
        unresolved = unresolved & (pivots <= sizes * (n * eps))
        return (basis, totals, unresolved), _log_abs_det(matrix) + n * powers if with_log_dets else jnp.zeros(())

    numbers = np.arange(parts.max() + 1, dtype=np.int32)[:, None]
    carry = (jnp.asarray(start), jnp.zeros((len(numbers), n)), jnp.ones(n, bool))
    (_, totals, unresolved), log_dets = lax.scan(advance, carry, (window, parts))
    return totals, unresolved, log_dets
