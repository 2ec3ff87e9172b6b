"""Finite-time Lyapunov exponents: the growth in consecutive windows of a trajectory, in the frame that is carried on.

J_t ⋯ J_1 Q_0 = Q_t R, and the exponents of a window are the growth of log R_ii from its start to its end, per step.
As the frame Q is carried from window to window, they sum to the exponents of the whole.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from gradient_horizon.measures.states import FlatStep
from gradient_horizon.measures.trajectory import Trajectory, sequence_length, system_of
from gradient_horizon.measures.volume_growth import Stretch, grow, grow_in_float64, start_from, stretch_by
from gradient_horizon.measures.wide import in_float64, lifted_jacobian
from gradient_horizon.names.rules import whole_number
from gradient_horizon.numerics import lapack, sums
from gradient_horizon.numerics.arrays import PyTree, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.derivatives import with_derivative_of
from gradient_horizon.numerics.fallback import held, step_of_arrays, with_care
from gradient_horizon.numerics.keys import fixed_orthogonal
from gradient_horizon.numerics.orthogonal import log_growth


class FiniteTimeExponents(NamedTuple):
    """The first k Lyapunov exponents in each of W consecutive windows; natural logs per step.

    - `exponents`: (W, k), columns in the order of `mean`; within a window they need not descend. -inf for a direction
      that a step of the window maps to zero.
    - `mean`: (k,), over the windows: the exponents over all their steps, descending.
    - `spread`: (k,), the standard deviation over the windows (with W - 1; NaN for one window, or if one is not finite).
      Where correlations are short against the window, it falls as 1/√window.
    - `first`: (W,), the number of the first step of each window, counted from 1.
    """

    exponents: Array
    mean: Array
    spread: Array
    first: Array


class _Plan(NamedTuple):
    """`transient` steps that align the frame, and `windows` windows of `size` steps."""

    transient: int
    windows: int
    size: int

    def early(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[: self.transient], tree)

    def counted(self, tree: PyTree) -> PyTree:
        """The counted steps, with leading axes (`windows`, `size`)."""
        end = self.transient + self.windows * self.size
        return jax.tree.map(
            lambda leaf: leaf[self.transient : end].reshape(self.windows, self.size, *leaf.shape[1:]), tree
        )


@compiled_once
def finite_time_exponents(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    window: int,
    steps: int | None = None,
    count: int | None = None,
    transient: int = 0,
    trajectory: Trajectory | None = None,
) -> FiniteTimeExponents:
    """Lyapunov exponents over consecutive windows of `window` steps along the trajectory from `h0`.

    **Arguments:**

    - `step`, `xs`, `steps`, `trajectory`: as for `lyapunov_exponents`; any pytree as the state.
    - `window`: the number of steps of a window. Steps after the last whole window are not counted.
    - `count`: the number of exponents, from the largest (None: all).
    - `transient`: the number of steps before the first window, through which the frame is carried.

    For the distribution over networks, `jax.vmap` over seeds.

    **Complex states**, **accuracy** and **derivatives**: as for `lyapunov_exponents`, whose exponents over the same
    steps are `mean`, to rounding.

    **Returns:** `FiniteTimeExponents`, in the vector's dtype. All NaN if a state is not finite.

    **Raises:** `ValueError` for a setting out of range.

    **Source:** Benettin, Galgani, Giorgilli and Strelcyn 1980, Meccanica 15, 21; Pikovsky and Politi, Lyapunov
    Exponents, 2016, chapter 5.
    """
    length = sequence_length(xs, steps)
    window, transient = whole_number("window", window, None), whole_number("transient", transient, None)
    if not 0 <= transient < length:
        raise ValueError(f"transient: {transient}; allowed: from 0 to {length - 1}, one less than the number of steps")
    if not 1 <= window <= length - transient:
        raise ValueError(f"window: {window}; allowed: from 1 to {length - transient}, the steps after the transient")
    system = system_of(step, params, h0, xs, steps=steps, trajectory=trajectory)
    n, dtype = system.layout.size, system.layout.dtype
    copies = 2 if system.is_holomorphic else 1
    count = n // copies if count is None else whole_number("count", count, None)
    if not 1 <= count <= n // copies:
        raise ValueError(f"count: {count}; allowed: from 1 to {n // copies}, the size of the state")
    plan = _Plan(transient, (length - transient) // window, window)
    whole = np.kron(fixed_orthogonal(n // copies), np.eye(copies))  # a complex vector is followed by i times itself
    basis = whole[:, : count * copies]
    all_finite = jnp.all(system.trajectory.finite)

    # traced values held by `params` and the step become an argument, `closed`
    flat_step, closed = step_of_arrays(lambda h, x: system.step(params, h, x), *system.window)
    constant, constants = held((system.window, closed))
    stretch = stretch_by(flat_step, constants, dtype)
    quick, is_lost = _by_elimination(stretch, constant, jnp.asarray(basis.T, dtype), plan)
    with_64_bits = jnp.result_type(float) == jnp.float64
    careful = partial(_by_sorted_qr, flat_step, whole, plan, count * copies, with_64_bits)
    with jax.enable_x64(True):
        exponents = with_care(is_lost & all_finite, quick, careful, closed, system.window)
    route = partial(_by_orthogonal_route, flat_step, basis, plan)
    exponents = with_derivative_of(route, exponents, closed, system.window)
    exponents = jnp.where(all_finite, exponents, jnp.nan)
    exponents = jnp.mean(exponents.reshape(plan.windows, count, copies), axis=-1)
    return _summary(exponents, plan)


def _by_elimination(
    stretch: Stretch, window: PyTree, basis: Float[Array, "k n"], plan: _Plan
) -> tuple[Float[Array, "W k"], Bool[Array, ""]]:
    """The exponents of each window, and True if something may have been lost."""
    growth = start_from(basis)
    died_early = jnp.zeros(len(basis), bool)
    if plan.transient:
        growth, gained = grow(stretch, 1, growth, plan.early(window))
        died_early = gained.total == -jnp.inf
    growth, by_window = lax.scan(partial(grow, stretch, 1), growth, plan.counted(window))
    exponents = sums.value(by_window) / plan.size
    is_dead = jnp.broadcast_to(died_early | growth.unresolved, exponents.shape)
    return _sorted(jnp.where(is_dead, -jnp.inf, exponents)), growth.lost


def _by_sorted_qr(
    flat_step: FlatStep,
    basis: Float[np.ndarray, "n n"],
    plan: _Plan,
    count: int,
    with_64_bits: bool,
    closed: PyTree,
    window: PyTree,
) -> Float[Array, "W k"]:
    """The same by a QR in float64 at every step, with all vectors."""
    dtype = window[0].dtype

    def jacobian(inputs):
        h, x = inputs
        with jax.enable_x64(with_64_bits):
            lifted = lifted_jacobian(lambda h: flat_step(closed, h, x), h)
        return in_float64(lifted)

    end = plan.transient + plan.windows * plan.size
    numbers = np.arange(-plan.transient, end - plan.transient, dtype=np.int32)
    parts = np.where(numbers < 0, 0, 1 + numbers // plan.size).astype(np.int32)
    used = jax.tree.map(lambda leaf: leaf[:end], window)
    totals, unresolved, _ = grow_in_float64(jacobian, used, basis, float(jnp.finfo(dtype).eps), parts, False)
    exponents = totals[1:] / plan.size
    is_dead = jnp.broadcast_to(unresolved | (totals[0] == -jnp.inf), exponents.shape)
    return _sorted(jnp.where(is_dead, -jnp.inf, exponents))[:, :count].astype(dtype)


def _by_orthogonal_route(
    flat_step: FlatStep, basis: Float[np.ndarray, "n k"], plan: _Plan, closed: PyTree, window: PyTree
) -> tuple[Float[Array, "W k"], Bool[Array, "W k"]]:
    """The same by a QR at every step, and where it has a derivative."""
    growth, is_sure = log_growth(flat_step, closed, window, jnp.asarray(basis, window[0].dtype))
    exponents = jnp.mean(plan.counted(growth), axis=1)
    order = jnp.argsort(-lax.stop_gradient(jnp.mean(exponents, axis=0)))
    is_sure = lax.cummin(is_sure[order].astype(jnp.int32)) > 0
    return exponents[:, order], jnp.broadcast_to(is_sure, exponents.shape)


def _mean(exponents: Float[Array, "W k"]) -> Float[Array, " k"]:
    return sums.mean(exponents)


def _sorted(exponents: Float[Array, "W k"]) -> Float[Array, "W k"]:
    """The columns in descending order of their means."""
    return exponents[:, lapack.descending(_mean(exponents))]


def _summary(exponents: Float[Array, "W k"], plan: _Plan) -> FiniteTimeExponents:
    mean = _mean(exponents)
    if plan.windows == 1:
        spread = jnp.full_like(mean, jnp.nan)
    else:
        is_known = jnp.isfinite(mean)
        apart = jnp.where(is_known[None, :], exponents, 0)
        spread = jnp.where(is_known, jnp.std(apart, axis=0, ddof=1), jnp.nan)
    first = plan.transient + 1 + plan.size * jnp.arange(plan.windows, dtype=jnp.int32)
    return FiniteTimeExponents(exponents, mean, spread, first)
