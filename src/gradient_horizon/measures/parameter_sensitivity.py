"""The sensitivity of the state to the parameters, ∂h_t/∂θ, as t grows.

Even if gradients neither vanish nor explode, the sensitivity grows as memory does: the parameters act at every step,
and a network that forgets slowly adds up more of these actions. Zucchet and Orvieto 2024 call this the curse of memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from gradient_horizon.measures.parameter_gradients import like_params, of_parameters, params_layout
from gradient_horizon.measures.pulled_rows import (
    JointStep,
    Linear,
    Rows,
    are_kept,
    as_slices,
    log_norm_of,
    log_of_extended,
    normalised,
    through,
    total_of,
    unbound,
)
from gradient_horizon.measures.trajectory import Trajectory, ever, system_of
from gradient_horizon.numerics import extended_range
from gradient_horizon.numerics.arrays import PyTree, Series, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.derivatives import jacobian, jvp_rows, pullback
from gradient_horizon.numerics.exponents import room_of
from gradient_horizon.numerics.extended_range import Extended, extended
from gradient_horizon.numerics.fallback import with_care


class ParameterSensitivity(NamedTuple):
    """Natural logs of ‖∂h_t/∂θ‖_F at t = 1 .. T, (T,) each.

    `log_norm`: of all parameters together; `by_leaf`: of each leaf alone, a tree like `params`, with None for leaves
    that cannot be differentiated.
    """

    log_norm: Any
    by_leaf: PyTree


@compiled_once
def log_parameter_sensitivity(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    steps: int | None = None,
    trajectory: Trajectory | None = None,
) -> ParameterSensitivity:
    """Natural logs of ‖∂h_t/∂θ‖_F at every t, for every leaf of the parameters θ, with h_0 held fixed.

    S_t = J_t S_{t-1} + ∂h_t/∂θ at a fixed h_{t-1}, carried forward as in real-time recurrent learning (Williams and
    Zipser 1989): exact, at p tangent vectors a step for p parameters and p n numbers of memory. A vanilla network of n
    units has p ≈ n², so a step costs about n⁴ operations. For less, take a part of the parameters:
    `lambda b, h, x: step(replace(params, bias=b), h, x)`.

    **Arguments:** as for `log_jacobian_norms`; `params` is θ, whose floats and complex numbers are differentiated.

    **Returns:** `ParameterSensitivity`. -inf where h_t does not depend on the parameters; NaN from the first state on
    that is not finite. Of complex states and parameters, real and imaginary parts count as two numbers.

    **Accuracy:** S_t neither over- nor underflows: every column has an exponent of its own, and every entry if need be.

    **Raises:** `ValueError` for parameters without floats.

    **Source:** Zucchet and Orvieto, Recurrent neural networks: vanishing and exploding gradients are not the end of the
    story, NeurIPS 2024, eq. 3. For h_t = λ h_{t-1} + x_t with white noise of variance 1, the mean square of dh_t/dλ
    tends to (1 + λ²)/(1 - λ²)³, against 1/(1 - λ²) of h_t.
    """
    of_params = params_layout(params)
    system = system_of(step, params, h0, xs, steps=steps, trajectory=trajectory)
    joint = of_parameters(step, params, system, of_params)
    before = system.trajectory.states[:-1]
    places = as_slices(of_params)
    bad = ever(~system.trajectory.finite)[1:]
    quick, are_safe = _quick(joint, before, places)
    joint_of, closed = unbound(joint, before)

    def careful(closed: Any, z: Array, rest: PyTree, before: Array) -> list[Series]:
        return _careful(joint_of(closed, z, rest), before, places)

    found = with_care(jnp.any(~are_safe & ~bad), quick, careful, closed, joint.z, joint.rest, before)
    whole, *parts = (jnp.where(bad, jnp.nan, logs.astype(before.dtype)) for logs in found)
    return ParameterSensitivity(whole, like_params(of_params, parts))


def _pushed(joint: JointStep, h: Float[Array, " n"], rest: PyTree, rows: Float[Array, "p n"]) -> Float[Array, "p n"]:
    """J_t v for every row v, with J_t the step's Jacobian in its state."""
    if joint.is_formed:
        of_h = jacobian(lambda h: joint.step(h, joint.z, rest), h)
        return jnp.matmul(rows, of_h.T, precision="highest")
    return jvp_rows(lambda z, h, rest: joint.step(h, z, rest), joint.z, h, rest, rows)


def _direct(joint: JointStep, h: Float[Array, " n"], rest: PyTree) -> Linear:
    """The map from a row of n numbers to that row times ∂h_t/∂θ at a fixed h_{t-1}."""
    return pullback(lambda z: joint.step(h, z, rest), joint.z, is_formed=joint.is_formed)


def _quick(joint: JointStep, before: Array, places: list[slice]) -> tuple[list[Series], Bool[Array, " T"]]:
    """The norms of S_t and of its parts, with one exponent a column; and at which steps nothing was lost."""
    n, dtype = before.shape[1], before.dtype
    room = room_of(dtype)

    def advance(columns: Rows, inputs: Any) -> Any:
        h, rest = inputs
        raw = _pushed(joint, h, rest, columns.mantissa * 2.0**room)
        direct = jax.vmap(_direct(joint, h, rest))(jnp.eye(n, dtype=dtype) * 2.0**room)[0].T.astype(dtype)
        pushed, added = normalised(raw), normalised(direct)
        is_safe = are_kept(raw, pushed.mantissa, room) & are_kept(direct, added.mantissa, room)
        pushed = Rows(pushed.mantissa, pushed.exponent + columns.exponent - room)
        total = total_of(pushed, Rows(added.mantissa, added.exponent - room))
        is_safe &= are_kept(jnp.abs(pushed.mantissa) + jnp.abs(added.mantissa), total.mantissa, room)
        logs = [log_norm_of(Rows(*(part[place] for part in total))) for place in [slice(None), *places]]
        return total, (logs, is_safe)

    nothing = Rows(jnp.zeros((len(joint.z), n), dtype), jnp.zeros(len(joint.z), jnp.int32))
    return lax.scan(advance, nothing, (before, joint.rest))[1]


def _careful(joint: JointStep, before: Array, places: list[slice]) -> list[Series]:
    """The norms, with an exponent for each entry."""
    n, dtype = before.shape[1], before.dtype

    def advance(columns: Extended, inputs: Any) -> Any:
        h, rest = inputs
        (pushed,) = through(lambda column: (_pushed(joint, h, rest, column[None])[0],), columns)
        (direct,) = through(
            lambda row: (_direct(joint, h, rest)(row)[0].astype(dtype),), extended_range.identity(n, dtype)
        )
        total = extended_range.add(pushed, extended_range.transposed(direct))
        return total, [log_of_extended(Extended(*(part[place] for part in total))) for place in [slice(None), *places]]

    return lax.scan(advance, extended(jnp.zeros((len(joint.z), n), dtype)), (before, joint.rest))[1]
