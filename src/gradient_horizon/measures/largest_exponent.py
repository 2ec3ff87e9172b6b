"""The largest Lyapunov exponent of any one-step map, from the growth of a single tangent vector.

One vector needs no elimination, only a power of two per step, so this takes a fraction of the time of
`lyapunov_exponents` with `count` = 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradient_horizon.measures.states import FlatStep
from gradient_horizon.measures.trajectory import Trajectory, system_of
from gradient_horizon.measures.wide import jacobian_by_entry
from gradient_horizon.numerics import sums
from gradient_horizon.numerics.arrays import PyTree, Scalar, Step
from gradient_horizon.numerics.derivatives import jvp_columns
from gradient_horizon.numerics.exponents import bits_of, normalise, power_of_two
from gradient_horizon.numerics.fallback import step_of_arrays, with_care
from gradient_horizon.numerics.graded import ZERO, Graded, graded, graded_product, log_norm
from gradient_horizon.numerics.keys import fixed_normal


def largest_lyapunov_exponent(
    step: Step, params: PyTree, h0: PyTree, trajectory: Trajectory, xs: PyTree = None, transient: int = 0
) -> Scalar:
    """The growth of one tangent vector after `transient` of the steps of `trajectory`, natural log per step.

    `lyapunov_exponents` with `count` = 1, without its errors: one vector needs no elimination, only a power of two per
    step. If one of its entries falls more than 2^42 (float64: 2^341) below the largest, the computation is repeated
    with an exponent for each entry (`_largest_by_entry`), so that a unit or a block that no other reaches can fall far
    below the rest and still grow again. (Only the structure of `h0` is used.) -inf if the vector dies, NaN if a state
    is not finite.
    """
    flat_step, params, xs, trajectory, *_ = system_of(step, params, h0, xs, trajectory=trajectory)
    before = trajectory.states[:-1]
    n, dtype = before.shape[1], before.dtype
    room = bits_of(dtype).bias // 3  # products of entries of at least 1 with entries of J do not underflow
    lift = float(2.0**room)

    def advance(carry, inputs):
        vector, logs = carry
        h, x = inputs
        raw = jvp_columns(flat_step, params, h, x, (vector * lift)[:, None])[:, 0]
        vector, gained = normalise(raw)
        logs = sums.add_powers(logs, gained - room)
        return (vector, logs), (raw, gained)

    start, _ = normalise(jnp.asarray(fixed_normal(n), dtype))
    window = (before, xs)
    none = sums.zero(before[0, 0])
    (vector, _), early = lax.scan(advance, (start, none), jax.tree.map(lambda leaf: leaf[:transient], window))
    aligned = vector
    (vector, logs), late = lax.scan(advance, (vector, none), jax.tree.map(lambda leaf: leaf[transient:], window))
    growth = sums.value(sums.add(sums.add(logs, _log_length(vector)), -_log_length(aligned)))
    is_over = ~jnp.any(vector != 0)
    rate = jnp.where(is_over, -jnp.inf, growth / (trajectory.length - transient))

    raw, gained = jax.tree.map(lambda *parts: jnp.concatenate(parts), early, late)
    smallest = jnp.min(jnp.where(raw == 0, jnp.inf, jnp.abs(raw)), axis=1)
    # 2^(gained - room) underflows only if the whole vector nearly does, and then nothing is safe
    is_safe = (gained > room // 2) & (smallest >= power_of_two(jnp.maximum(gained - room, -room), dtype))
    is_safe = (is_safe & jnp.all(jnp.isfinite(raw), axis=1)) | jnp.all(raw == 0, axis=1)
    all_finite = jnp.all(trajectory.finite)

    careful_step, closed = step_of_arrays(lambda h, x: flat_step(params, h, x), *window)

    def by_entry(closed, window):
        return _largest_by_entry(careful_step, closed, window, transient)

    rate = with_care(all_finite & ~jnp.all(is_safe), rate, by_entry, closed, window)
    return jnp.where(all_finite, rate, jnp.nan)


def _log_length(vector: Float[Array, " n"]) -> Scalar:
    return 0.5 * jnp.log(jnp.sum(vector * vector))


def _largest_by_entry(flat_step: FlatStep, params: PyTree, window: PyTree, transient: int) -> Scalar:
    """`largest_lyapunov_exponent` with an exponent for each entry of the vector, which requires forming every J_t."""
    before, _ = window
    length, n, dtype = len(before), before.shape[1], before.dtype

    def advance(carry, inputs):
        vector, logs, too_far = carry
        h, x = inputs
        vector = graded_product(jacobian_by_entry(lambda h: flat_step(params, h, x), h), vector)
        largest = jnp.max(vector.exponents)
        largest = jnp.where(largest == ZERO, 0, largest)
        is_zero = vector.exponents == ZERO
        exponents = jnp.where(is_zero, ZERO, vector.exponents - largest)
        too_far = too_far | jnp.any(~is_zero & (exponents < ZERO // 2))
        return (Graded(vector.rows, exponents), sums.add_powers(logs, largest), too_far), None

    start = graded(jnp.asarray(fixed_normal(n), dtype)[:, None])
    carry = (start, sums.zero(before[0, 0]), jnp.zeros((), bool))
    (vector, _, too_far), _ = lax.scan(advance, carry, jax.tree.map(lambda leaf: leaf[:transient], window))
    log_before = log_norm(vector)
    carry = (vector, sums.zero(before[0, 0]), too_far)
    (vector, logs, too_far), _ = lax.scan(advance, carry, jax.tree.map(lambda leaf: leaf[transient:], window))
    growth = sums.value(sums.add(sums.add(logs, log_norm(vector)), -log_before))
    rate = jnp.where(log_before == -jnp.inf, -jnp.inf, growth / (length - transient))
    return jnp.where(too_far, jnp.nan, rate)
