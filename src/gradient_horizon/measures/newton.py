"""Search for a zero of G(h) = F(h) - h from one start, and what is known of the zero that was found.

The search is Newton's method with the exact Jacobian and backtracking (Dennis and Schnabel 1996, section 6.3); if J - I
is singular to rounding, the step is the shortest one of least squares. Minima of ‖G‖ at which G is not 0, where the
state moves slowly, are found by the method of Levenberg (1944) and Marquardt (1963).

The certificate is that of Kantorovich, in the form of a contraction. With A ≈ (J(p) - I)⁻¹, a zero of G is a fixed
point of T(h) = h - A G(h), and T moves p by η = ‖A G(p)‖ at most, rounding of G included. If ‖I - A (J(h) - I)‖ ≤ κ < 1
for every h within η / (1 - κ) of p, then there is exactly one zero that near, and none if that cannot be shown. Norms
are those of the largest entry. κ is sampled at the corners of the cube, not bounded by interval arithmetic; to allow
for that, twice the sampled value counts, and it may be a quarter at most.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int

from gradient_horizon.measures.return_map import ReturnMap, length_of, norm_bound
from gradient_horizon.numerics import lapack
from gradient_horizon.numerics.arrays import Scalar

_HALVINGS = 12  # of a Newton step: 2^-11 of it is the shortest tried
_DECREASE = 1e-4  # of ‖G‖, as a fraction of what the linearisation promises
_CORNERS = 4  # pairs of opposite corners at which the Jacobian is sampled
_MOST_CHANGE = 0.25  # κ, as sampled


class Certificate(NamedTuple):
    """What is known of a point.

    - `residual`: ‖F(h) - h‖₂ as computed.
    - `error`: a bound on the distance of every entry from the one fixed point that near; inf if there is none, or if it
      cannot be told from others.
    - `is_fixed`: the error is finite, or F(h) - h is 0 to within rounding.
    - `is_kink`: the Jacobian jumps within the error.
    - `jacobian`, `jacobian_error`: at the point, and a bound on its distance from that at the fixed point.
    """

    residual: Array
    error: Array
    is_fixed: Array
    is_kink: Array
    jacobian: Array
    jacobian_error: Array


def newton(system: ReturnMap, start: Float[Array, " n"], cycles: int, iterations: int) -> Float[Array, " n"]:
    """The point at which damped Newton steps from `start` no longer reduce ‖G‖, or the last after `iterations`."""
    identity = jnp.eye(len(start), dtype=start.dtype)
    fractions = jnp.asarray(0.5 ** np.arange(_HALVINGS), start.dtype)

    def is_going(carry):
        _, size, is_stuck, count = carry
        return ~is_stuck & (size > 0) & (count < iterations)

    def advance(carry):
        h, size, _, count = carry
        value, matrix, *_ = system.linearised(h, cycles)
        change = lapack.solution(matrix - identity, h - value)
        trials = h[None] + fractions[:, None] * change[None]
        sizes = lax.map(lambda trial: length_of(system.apply(trial, cycles) - trial), trials)
        serves = sizes <= (1 - _DECREASE * fractions) * size
        chosen = jnp.argmax(serves)  # the longest of them
        is_stuck = ~jnp.any(serves)
        return (
            jnp.where(is_stuck, h, trials[chosen]),
            jnp.where(is_stuck, size, sizes[chosen]),
            is_stuck,
            count + 1,
        )

    size = length_of(system.apply(start, cycles) - start)
    carry = (start, size, ~jnp.isfinite(size), jnp.zeros((), jnp.int32))
    h = lax.while_loop(is_going, advance, carry)[0]
    return jnp.where(jnp.abs(h) < float(jnp.finfo(h.dtype).tiny), 0, h)  # as XLA reads it


def slowest(
    system: ReturnMap, start: Float[Array, " n"], cycles: int, iterations: Int[Array, ""]
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """A local minimum of ‖G‖ below `start`, and whether it was reached after so many `iterations`.

    It counts as reached if the slope of ‖G‖ is below √eps of ‖J - I‖.
    """
    identity = jnp.eye(len(start), dtype=start.dtype)
    limit = system.eps**0.5

    def is_going(carry):
        _, size, _, is_reached, count = carry
        return ~is_reached & (size > 0) & jnp.isfinite(size) & (count < iterations)

    def advance(carry):
        h, size, damping, _, count = carry
        value, matrix, *_ = system.linearised(h, cycles)
        matrix, gap = matrix - identity, value - h
        slope = matrix.T @ gap
        scale = jnp.sum(matrix * matrix)
        is_reached = length_of(slope) <= limit * jnp.sqrt(scale) * length_of(gap)
        change = -lapack.solution(matrix.T @ matrix + damping * scale * identity, slope)
        trial = h + change
        reached = length_of(system.apply(trial, cycles) - trial)
        serves = (reached < size) & ~is_reached
        # the decrease of ½‖G‖² over that of its model sets the damping (Nielsen 1999)
        promised = jnp.sum(change * (damping * scale * change - slope))
        gain = (size - reached) * (size + reached) / jnp.where(promised > 0, promised, 1)
        factor = jnp.clip(1 - (2 * gain - 1) ** 3, 1 / 3, 2)
        damping = jnp.where(serves, damping * factor, damping * 4)
        return jnp.where(serves, trial, h), jnp.where(serves, reached, size), damping, is_reached, count + 1

    size = length_of(system.apply(start, cycles) - start)
    damping = jnp.asarray(1e-2, start.dtype)
    carry = (start, size, damping, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    h, _, _, is_reached, _ = lax.while_loop(is_going, advance, carry)
    return h, is_reached


def certify(system: ReturnMap, h: Float[Array, " n"], cycles: int) -> Certificate:
    """What is known of the point `h`, taken as one of F applied `cycles` times."""
    n, eps = len(h), system.eps
    identity = jnp.eye(n, dtype=h.dtype)
    value, matrix, rounding, slope_rounding = system.linearised(h, cycles)
    gap = value - h
    rounding = rounding + eps * jnp.abs(h) + 4 * _rounding_of_parameters(system, h, cycles, value)
    inverse = lapack.inverse(matrix - identity)
    size = jnp.max(jnp.abs(inverse @ gap) + jnp.abs(inverse) @ rounding)
    scale = jnp.maximum(jnp.max(jnp.abs(h)), 1)
    # beyond eps^⅓, the accuracy with which a triple zero can be known, no error is of use
    is_small = 2 * size <= eps ** (1 / 3) * scale
    radius = jnp.where(is_small, jnp.maximum(2 * size, 4 * eps * scale), eps ** (1 / 3) * scale)

    def sample(corner):
        other = system.jacobian(h + radius * corner, cycles)
        return _row_sum(identity - inverse @ (other - identity)), norm_bound(other - matrix)

    changes, jumps = lax.map(sample, _signs(n, h.dtype))
    # I - A (J - I) itself rounds by √n eps |A| |J - I|
    change = jnp.max(changes) + n**0.5 * eps * _row_sum(jnp.abs(inverse) @ jnp.abs(matrix - identity))
    is_sure = is_small & (change <= _MOST_CHANGE)  # False for NaN
    error = jnp.where(is_sure, size / (1 - 2 * jnp.where(is_sure, change, 0)), jnp.inf)
    jump = jnp.max(jumps)
    # a smooth Jacobian changes in proportion to the distance, one at a kink at once
    is_kink = jump > jnp.sqrt(radius / scale) * (norm_bound(matrix) + 1e-3)
    is_fixed = jnp.isfinite(error) | jnp.all(jnp.abs(gap) <= 2 * rounding)
    is_fixed = is_fixed & ~system.is_misread()
    return Certificate(
        length_of(gap),
        jnp.where(is_fixed, error, jnp.inf),
        is_fixed,
        is_kink & is_fixed,
        matrix,
        jump + slope_rounding,
    )


def _rounding_of_parameters(
    system: ReturnMap, h: Float[Array, " n"], cycles: int, value: Float[Array, " n"]
) -> Float[Array, " n"]:
    """What a relative change of eps in every parameter and input does to F(h), entry by entry.

    Numbers of which F depends only through a small difference (a large input and a large bias) round by more than the
    Jacobian shows. The change has a few patterns of signs and is √eps, so that rounding does not hide its effect. (It
    does not reach numbers that are written in the step itself.)
    """
    size = system.eps**0.5

    def depart(pattern):
        return jnp.abs(system.perturbed(size, pattern).apply(h, cycles) - value)

    return size * jnp.max(lax.map(depart, jnp.arange(_CORNERS, dtype=jnp.int32)), axis=0)


def _signs(n: int, dtype: np.dtype) -> Float[np.ndarray, "k n"]:
    """Pairs of opposite corners of the cube, always the same."""
    signs = np.sign(np.random.default_rng(0).standard_normal((_CORNERS, n)))
    return np.concatenate([signs, -signs]).astype(dtype)


def _row_sum(matrix: Float[Array, "n n"]) -> Scalar:
    """‖M‖_∞, the largest sum of a row."""
    return jnp.max(jnp.sum(jnp.abs(matrix), axis=1))


def multipliers(certificate: Certificate) -> tuple[Complex[Array, " n"], Float[Array, " n"]]:
    """The eigenvalues of the Jacobian, by decreasing modulus, and a bound on the error of each.

    To first order a change E moves an eigenvalue by its condition number times ‖E‖ (see `lapack.eigensystem`). It can
    never be moved by more than (2 ‖J‖ + ‖E‖)^(1 - 1/n) ‖E‖^(1/n) (Elsner 1985), which is what counts for eigenvalues
    that are multiple or nearly so.
    """
    matrix, change = certificate.jacobian, certificate.jacobian_error
    n = len(matrix)
    values, conditions = lapack.eigensystem(jnp.where(jnp.isfinite(matrix), matrix, 0))
    first_order = jnp.where(change > 0, conditions * change, 0)
    most = (2 * jnp.sqrt(jnp.sum(matrix * matrix)) + change) ** (1 - 1 / n) * change ** (1 / n)
    error = jnp.minimum(first_order, most)
    is_known = jnp.all(jnp.isfinite(matrix))
    return jnp.where(is_known, values, jnp.nan), jnp.where(is_known, error, jnp.inf)
