"""Contributions of each node of a vanilla step to the gradient norm as it propagates back in time.

h_t = φ(a_t), a_t = W h_{t-1} + U x_t + b, so ∂L/∂h_{t-1} = Wᵀ (φ′(a_t) ∂L/∂h_t): first the activation, then the
sums, which pass the gradient on unchanged, then the matrix.

The gradient is carried as a vector with one exponent, which is sound as long as its entries are close in size. Entries
may grow and decay at different times; if a non-zero one falls more than 2^42 (float64: 2^341) below the largest, the
whole backward pass is repeated with an exponent for each entry (see `extended_range`), which loses nothing. Exponents
are summed in int32: enough for 4·10⁶ steps (float64: 5·10⁵) that each shrink the gradient by the whole range of floats.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gradient_horizon import names
from gradient_horizon.cells.cell import Cell, TrainableCell
from gradient_horizon.cells.vanilla import preactivation
from gradient_horizon.measures.trajectory import Trajectory, ever, system_of
from gradient_horizon.measures.wide import jacobian_by_entry
from gradient_horizon.numerics import extended_range
from gradient_horizon.numerics.arrays import PyTree, Scalar, Series, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.derivatives import vjp_rows
from gradient_horizon.numerics.exponents import add, is_kept, log_of, normalise, room_of
from gradient_horizon.numerics.extended_range import Extended, extended
from gradient_horizon.numerics.fallback import step_of_arrays, with_care
from gradient_horizon.numerics.xla import unroll


def _log_ratio(after: Float[Array, " N"], gained: Int[Array, ""], before: Float[Array, " N"]) -> Scalar:
    """log(‖`after` 2^`gained`‖ / ‖`before`‖), both vectors normalised; 0 if `before` is already zero."""
    reached, start = (jnp.sqrt(jnp.sum(vector * vector)) for vector in (after, before))
    ratio = log_of(reached / jnp.where(start == 0, 1, start), gained)
    return jnp.where(start == 0, 0, ratio)


def _careful_log_ratio(after: Extended, before: Extended) -> Scalar:
    """`_log_ratio` of vectors with an exponent for each entry."""
    (reached, last), (start, first) = extended_range.frobenius_norm(after), extended_range.frobenius_norm(before)
    ratio = log_of(reached / jnp.where(start == 0, 1, start), last - first)
    return jnp.where(start == 0, 0, ratio)


@compiled_once
def log_state_gradient_norms(
    step: Step,
    params: PyTree,
    h0: PyTree,
    trajectory: Trajectory,
    xs: PyTree,
    read: Float[Array, "T n"],
) -> Series:
    """log ‖∂L/∂h_t‖ at h_1 .. h_T, natural logs, shape (T,); -inf if the gradient is exactly zero.

    `read[t - 1]`, raveled, is the part of ∂L/∂h_t that is due to L reading h_t directly; the rest comes back through
    the later steps: ∂L/∂h_t = read_t + J_{t+1}ᵀ ∂L/∂h_{t+1}. The vector is kept as a mantissa and a power of two, so
    its norm is correct even if the gradient itself would have underflowed. (Only the structure of `h0` is used.) NaN at
    the last state that is not finite, and at all earlier ones.

    Derivatives: forward and reverse; NaN if an exponent for each entry was needed and made a difference.
    """
    flat_step, params, xs, trajectory, *_ = system_of(step, params, h0, xs, trajectory=trajectory)
    before = trajectory.states[:-1]
    dtype = read.dtype
    room = room_of(dtype)

    def retreat(carry, inputs):
        vector, exponent, is_safe = carry
        h, x, raw = inputs
        added, own = normalise(raw)
        here, exponent = add(vector, exponent, added, own)
        is_safe = is_safe & is_kept(jnp.abs(vector) + jnp.abs(raw), here, room)
        norm = log_of(jnp.sqrt(jnp.sum(here * here)), exponent)
        raw = vjp_rows(flat_step, params, h, x, (here * 2.0**room)[None])[0]
        pulled, shift = normalise(raw)
        return (pulled, exponent + shift - room, is_kept(raw, pulled, room)), (norm, is_safe)

    start = (jnp.zeros_like(read[0]), jnp.zeros((), jnp.int32), jnp.ones((), bool))
    # the step from h_t to h_{t+1} is linearised at h_t; nothing is pulled back below h_1
    _, (norms, are_safe) = lax.scan(retreat, start, (before, xs, read), reverse=True)
    touches_bad = ever(~trajectory.finite[1:][::-1])[::-1]

    careful_step, closed = step_of_arrays(lambda h, x: flat_step(params, h, x), before, xs)

    def by_entry(closed, before, xs, read):
        def retreat(vector, inputs):
            h, x, added = inputs
            here = extended_range.add(vector, extended(added[:, None]))
            norm = log_of(*extended_range.frobenius_norm(here))
            jacobian = jacobian_by_entry(lambda h: careful_step(closed, h, x), h, by_rows=True)
            return extended_range.product(extended_range.transposed(jacobian), here), norm

        return lax.scan(retreat, extended(jnp.zeros_like(read[0])[:, None]), (before, xs, read), reverse=True)[1]

    norms = with_care(jnp.any(~are_safe & ~touches_bad), norms, by_entry, closed, before, xs, read)
    return jnp.where(touches_bad, jnp.nan, norms)


@compiled_once
def node_split(
    cell: Cell,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    steps: int | None = None,
    gradient: Array | None = None,
    trajectory: Trajectory | None = None,
) -> dict[str, Series]:
    """How much each node of the step adds to the log norm of ∂L/∂h_t, step by step back in time.

    With v = ∂L/∂h_t and u = φ′(a_t) v, the activation adds log(‖u‖ / ‖v‖) and the matrix log(‖Wᵀ u‖ / ‖u‖); the sums
    add nothing. Summed over both nodes and the first k entries, this gives log(‖∂L/∂h_{T-k}‖ / ‖∂L/∂h_T‖). The vector
    is renormalised by exact powers of two, so it neither over- nor underflows.

    **Arguments:**

    - `cell`, `params`, `h0`: a cell that `has_one_path` (a vanilla cell without leak), its parameters and its initial
      state.
    - `xs`: inputs with leading axis T, or None with `steps` = T.
    - `gradient`: ∂L/∂h_T, shape (N,), not zero; only its direction matters. None: all ones, as in the study notes.
    - `trajectory`: the result of `rollout` for the same arguments, if available (say, with `rescale`); by default it
      is computed.

    **Returns:** `{"activation": (T,), "matrix": (T,)}`, natural logs; entry k belongs to the step from lag k to lag
    k + 1, as in `log_jacobian_norms` from the end. The node that makes the vector exactly zero adds -inf, and all later
    ones add 0. NaN at the last state that is not finite, and at all earlier ones.

    **Raises:** `ValueError` for a cell with a second path around its nodes (a leak, gates), for which the contributions
    add instead of multiplying and the log norm does not split, and for a `gradient` whose shape or dtype differs from
    the state's.
    """
    if not isinstance(cell, TrainableCell) or not cell.has_one_path:
        allowed = ", ".join(names.ONE_PATH_CELLS)
        raise ValueError(f"cell: {cell.name!r} passes the gradient back along more than one path; allowed: {allowed}")
    trajectory = system_of(cell.step, params, h0, xs, steps=steps, trajectory=trajectory).trajectory
    before = trajectory.states[:-1]
    if gradient is None:
        gradient = jnp.ones_like(h0)
    if gradient.shape != h0.shape or gradient.dtype != h0.dtype:
        raise ValueError(f"gradient: {gradient.shape} {gradient.dtype}; allowed: {h0.shape} {h0.dtype}, like the state")

    dtype = before.dtype  # float32 for a 16-bit network
    (part,) = cell.affine_maps(params)
    gradient, recurrent = gradient.astype(dtype), part.recurrent.astype(dtype)
    room = room_of(dtype)
    lift = 2.0**room

    def slopes(h, x):
        h = h.astype(h0.dtype)
        a = preactivation(part, h, x)
        return jax.jvp(lambda a: cell.new_state((a,), h), (a,), (jnp.ones_like(a),))[1].astype(dtype)

    def retreat(vector, inputs):
        raw = vector * lift * slopes(*inputs)
        activated, shrunk = normalise(raw)
        is_safe = is_kept(raw, activated, room)
        raw = (activated * lift) @ recurrent
        multiplied, gained = normalise(raw)
        split = {
            "activation": _log_ratio(activated, shrunk - room, vector),
            "matrix": _log_ratio(multiplied, gained - room, activated),
        }
        return multiplied, (split, is_safe & is_kept(raw, multiplied, room))

    start, _ = normalise(gradient)
    _, (split, are_safe) = lax.scan(retreat, start, (before, xs), reverse=True, unroll=unroll(h0.size))
    touches_bad = ever(~trajectory.finite[::-1])[1:]
    is_safe = is_kept(gradient, start, room) & jnp.all(are_safe[::-1] | touches_bad)

    careful_slopes, closed = step_of_arrays(slopes, before, xs)

    def by_entry(closed, recurrent, gradient, before, xs):
        def retreat(vector, inputs):
            slope = extended(careful_slopes(closed, *inputs)[:, None])
            term = extended(vector.mantissa * slope.mantissa)
            activated = extended_range.shifted(term, vector.exponent + slope.exponent)
            multiplied = extended_range.product(recurrent.T, activated)
            return multiplied, {
                "activation": _careful_log_ratio(activated, vector),
                "matrix": _careful_log_ratio(multiplied, activated),
            }

        return lax.scan(retreat, extended(gradient[:, None]), (before, xs), reverse=True)[1]

    split = with_care(~is_safe, split, by_entry, closed, recurrent, gradient, before, xs)
    return {node: jnp.where(touches_bad, jnp.nan, added[::-1]) for node, added in split.items()}
