"""Fixed and periodic points of a one-step map, found from many starts, with their linearisation.

Sussillo and Barak 2013 read a trained network from these points. They minimise ‖F(h) - h‖²; here Newton's method solves
F(h) = h to rounding, saddles included, and each point has an error (see `newton`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gradient_horizon.measures import newton
from gradient_horizon.measures.return_map import ReturnMap, divisors, return_map, runs_in_float64, widened
from gradient_horizon.measures.states import layout_of
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.names import PointKind
from gradient_horizon.names.rules import whole_number
from gradient_horizon.numerics.arrays import PyTree, RandomKey, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.keys import named_key, normal


class FixedPoints(NamedTuple):
    """The K distinct points that were found, in the order of the first start that led to each. NumPy arrays.

    - `points`: states with a leading axis K; of a periodic point, one state of its cycle.
    - `period`: (K,), the smallest number of applications of F after which the point returns.
    - `residual`: (K,), ‖F(h) - h‖₂ as computed, F applied `period` times.
    - `error`: (K,), a bound on the distance of any entry from the exact fixed point; inf if the point cannot be told
      from others or, where `kind` is `SLOW`, is none.
    - `eigenvalues`: (K, n), complex, of the Jacobian of F applied `period` times (the multipliers; Floquet multipliers
      if driven), by decreasing modulus. `eigenvalue_error`: (K, n), a bound on the error of each, to first order.
    - `unstable`: (K,), how many of them lie outside the unit circle by more than their error.
    - `kind`: (K,), of `PointKind`, as integers.
    - `starts`: (K,), how many starts Newton's method led to the point: its basin under Newton's method, which has
      nothing to do with its basin under the network.
    - `failed`: the indices of the starts that led nowhere.
    """

    points: Any
    period: np.ndarray
    residual: np.ndarray
    error: np.ndarray
    eigenvalues: np.ndarray
    eigenvalue_error: np.ndarray
    unstable: np.ndarray
    kind: np.ndarray
    starts: np.ndarray
    failed: np.ndarray

    def of_kind(self, *kinds: PointKind) -> FixedPoints:
        """Only the points of these kinds."""
        places = np.flatnonzero(np.isin(self.kind, [int(kind) for kind in kinds]))
        kept = [jax.tree.map(lambda values: values[places], part) for part in self[:-1]]
        return FixedPoints._make([*kept, self.failed])


class Found(NamedTuple):
    """What the search found from each of S starts, of fixed shape, for use inside `jax.jit` and `jax.vmap`.

    - `points`: (S, n), as vectors; NaN where the start led nowhere.
    - `period`: (S,), the minimal period, or 0 where the start led nowhere.
    - `error`: (S,), as in `FixedPoints`.
    - `is_fixed`: (S,), False for slow points and starts that led nowhere.
    - `first`: (S,), the first start that led to the same point or cycle; -1 where the start led nowhere.
    """

    points: Array
    period: Array
    error: Array
    is_fixed: Array
    first: Array

    @property
    def is_first(self) -> Array:
        """(S,), True at one start of each distinct point."""
        return self.first == jnp.arange(len(self.first), dtype=self.first.dtype)


class Point(NamedTuple):
    """The linearisation at one point: see `FixedPoints`."""

    residual: Any
    error: Any
    eigenvalues: Any
    eigenvalue_error: Any
    unstable: Any
    kind: Any


def fixed_points(
    step: Step,
    params: PyTree,
    x: PyTree,
    starts: PyTree,
    *,
    period: int = 1,
    driven: bool = False,
    slow: bool = False,
    iterations: int = 100,
) -> FixedPoints:
    """The solutions of F(h) = h, F(h) = `step(params, h, x)`, to which Newton's method leads from `starts`.

    Points to which no start leads are not found: there may be others. The starts decide; states of the network's own
    trajectories, with noise (`sample_states`), are a good choice.

    **Arguments:**

    - `step`, `params`: the network; its state may be any pytree. Entries that are not differentiated (integers, keys)
      are left as they are in each start.
    - `x`: the input, held constant; None: no input.
    - `starts`: states with a leading axis S.
    - `period`: also find the points that return after this many applications of F. Those that return earlier are
      found too, and have their own `period`.
    - `driven`: `x` holds a whole cycle of inputs along its leading axis, of length L, and F is the step at each of them
      in turn: a fixed point is then a cycle of L states, of which the first is reported, and the eigenvalues are its
      Floquet multipliers.
    - `slow`: also report points that are not fixed but at which the state moves slowly, the local minima of
      ‖F(h) - h‖ (kind `SLOW`), from the starts that lead to no fixed point.
    - `iterations`: the largest number of Newton steps (for slow points, ten times as many).

    **Returns:** `FixedPoints`. Two starts have found the same point if their results are as close as their errors allow
    (for points without an error, to eps^⅓ (1 + ‖h‖), the accuracy with which a triple zero can be known) or, for
    periodic points, if some state of one cycle is as close to the other. Where fixed points form a continuum, each
    start finds another of them, of kind `MARGINAL` and with an error of inf.

    **Accuracy:** `error` bounds rounding and what Newton's method leaves, as far as the Jacobian within the error is
    described by 8 samples of it (see `newton`). A network of 32 bits is taken as exact and computed in float64, if the
    step lets it (every operation on float64 returns float64); otherwise, and with 16-bit entries, the map is the step
    with its own rounding.

    **Complex states:** their real and imaginary parts are the state, n counts both, and the multipliers of a
    holomorphic step come in pairs λ and λ*.

    **Raises:** `ValueError` for starts without a common leading axis, for settings out of range, and inside a
    transformation such as `jax.jit`, where the number of points is unknown; `search` and `linearise` work there. Only
    on the CPU (LAPACK's general eigenvalues).
    """
    leaves = jax.tree.leaves((params, x, starts))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise ValueError(
            "fixed_points: inside a transformation, where the number of points is unknown; allowed there:"
            " measures.fixed_points.search and linearise"
        )
    _check(starts, period, iterations)
    if not driven and _is_one_state(step, params, x, starts):
        raise ValueError("starts: one state; allowed: states with a leading axis (of one: state[None] of each leaf)")
    settings: dict[str, Any] = {"period": period, "driven": driven, "slow": slow, "iterations": iterations}
    with jax.enable_x64(True):
        wide = jax.tree.map(widened, (params, x, starts))
        if runs_in_float64(step, *wide, driven=driven):
            return _found(step, *wide, **settings)
    return _found(step, params, x, starts, **settings)


def _found(step: Step, params: PyTree, x: PyTree, starts: PyTree, **settings: Any) -> FixedPoints:
    """`fixed_points` in the precision of its arguments."""
    driven = settings["driven"]
    found = jax.tree.map(np.asarray, search(step, params, x, starts, **settings))
    first = np.flatnonzero(found.first == np.arange(len(found.first)))
    one = jax.tree.map(lambda leaf: leaf[0], starts)
    layout = return_map(step, params, x, one, driven=driven)[0].layout
    states, points = [], []
    for place in first:
        start = jax.tree.map(lambda leaf, place=place: leaf[place], starts)
        state = layout.unpack(jnp.asarray(found.points[place]), layout.pack(start)[1])
        states.append(state)
        points.append(
            linearise(
                step,
                params,
                x,
                state,
                period=int(found.period[place]),
                driven=driven,
                is_fixed=jnp.asarray(found.is_fixed[place]),
            )
        )
    if not states:
        points = [_no_point(layout)]
        states = [one]
    kept = slice(None) if len(first) else slice(0, 0)
    together = jax.tree.map(lambda *values: np.stack([np.asarray(value) for value in values])[kept], *points)
    return FixedPoints._make(
        [
            jax.tree.map(lambda *values: np.stack([np.asarray(value) for value in values])[kept], *states),
            found.period[first],
            *together,
            np.array([np.sum(found.first == place) for place in first], int),
            np.flatnonzero(found.first < 0),
        ]
    )


def _no_point(layout: Any) -> Point:
    real = np.zeros((), layout.dtype)
    vector = np.zeros(layout.size, layout.dtype)
    return Point(real, real, vector + 0j, vector, np.zeros((), np.int32), np.zeros((), np.int8))


@compiled_once
def search(
    step: Step,
    params: PyTree,
    x: PyTree,
    starts: PyTree,
    *,
    period: int = 1,
    driven: bool = False,
    slow: bool = False,
    iterations: int = 100,
) -> Found:
    """`fixed_points`, without the linearisation and of fixed shape: one result per start."""
    _check(starts, period, iterations)

    def one(start: PyTree) -> tuple[Any, ...]:
        system, carried = return_map(step, params, x, start, driven=driven)
        h = newton.newton(system, system.layout.pack(start)[0], period, iterations)
        certificate = newton.certify(system, h, period)
        is_found, error, is_fixed = certificate.is_fixed, certificate.error, certificate.is_fixed
        if slow:
            most = jnp.where(is_fixed, 0, 10 * iterations).astype(jnp.int32)  # none from a fixed point
            again, is_slow = newton.slowest(system, h, period, most)
            h = jnp.where(is_fixed, h, again)
            is_found = is_fixed | (is_slow & ~system.is_misread())
        cycle, margins = _cycle(system, h, error, period)
        return h, is_found, is_fixed, error, cycle, margins, carried

    h, is_found, is_fixed, error, cycles, margins, _ = lax.map(one, starts)
    minimal = jnp.full(len(h), period, jnp.int32)
    for divisor in divisors(period)[-2::-1]:
        gap = jnp.max(jnp.abs(cycles[:, divisor] - cycles[:, 0]), axis=1)
        minimal = jnp.where(gap <= margins[:, divisor] + margins[:, 0], divisor, minimal)
    return Found(
        jnp.where(is_found[:, None], h, jnp.nan),
        jnp.where(is_found, minimal, 0),
        error,
        is_fixed,
        _first_of_each(cycles, margins, is_found, is_fixed),
    )


def _cycle(
    system: ReturnMap, h: Float[Array, " n"], error: Float[Array, ""], period: int
) -> tuple[Float[Array, "p n"], Float[Array, " p"]]:
    """The states of the cycle of `h`, and how far the exact ones may be from each, largest entries."""
    unknown = system.eps ** (1 / 3) * (1 + jnp.max(jnp.abs(h)))
    states, margins = [h], [jnp.where(jnp.isfinite(error), error, unknown)]
    for _ in range(period - 1):
        value, matrix, rounding, _ = system.linearised(states[-1])
        states.append(value)
        margins.append(margins[-1] * jnp.max(jnp.sum(jnp.abs(matrix), axis=1)) + jnp.max(rounding))
    return jnp.stack(states), jnp.stack(margins)


def _first_of_each(cycles: Array, margins: Array, is_found: Array, is_fixed: Array) -> Array:
    """For each start, the first one that found the same cycle; -1 if it found none."""
    places = jnp.arange(len(cycles), dtype=jnp.int32)

    def advance(is_first, place):
        # every state of every cycle, against the first state of this one
        gaps = jnp.max(jnp.abs(cycles - cycles[place, 0][None, None]), axis=2)
        is_same = jnp.any(gaps <= margins + margins[place, 0], axis=1)
        is_same = is_same & is_first & (is_fixed == is_fixed[place])
        label = jnp.where(jnp.any(is_same), jnp.argmax(is_same).astype(jnp.int32), place)
        label = jnp.where(is_found[place], label, -1)
        return is_first.at[place].set(label == place), label

    return lax.scan(advance, jnp.zeros(len(cycles), bool), places)[1]


@compiled_once
def linearise(
    step: Step,
    params: PyTree,
    x: PyTree,
    point: PyTree,
    *,
    period: int = 1,
    driven: bool = False,
    is_fixed: Any = True,
) -> Point:
    """The multipliers of one fixed or periodic point, their errors and its kind; of fixed shape.

    `is_fixed`: False for a slow point.
    """
    system, _ = return_map(step, params, x, point, driven=driven)
    certificate = newton.certify(system, system.layout.pack(point)[0], period)
    values, errors = newton.multipliers(certificate)
    size = jnp.abs(values)
    is_outside, is_inside = size > 1 + errors, size < 1 - errors
    unstable = jnp.sum(is_outside, dtype=jnp.int32)
    is_sure = jnp.isfinite(certificate.error) & jnp.all(is_outside | is_inside)
    kind = jnp.where(unstable == 0, int(PointKind.STABLE), int(PointKind.SADDLE))
    kind = jnp.where(unstable == len(values), int(PointKind.REPELLER), kind)
    kind = jnp.where(is_sure, kind, int(PointKind.MARGINAL))
    kind = jnp.where(certificate.is_kink, int(PointKind.KINK), kind)
    fixed = jnp.asarray(is_fixed)
    kind = jnp.where(fixed, kind, int(PointKind.SLOW)).astype(jnp.int8)
    error = jnp.where(fixed, certificate.error, jnp.inf)
    return Point(certificate.residual, error, values, errors, unstable, kind)


def sample_states(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    key: RandomKey,
    count: int,
    steps: int | None = None,
    noise: ArrayLike = 0.0,
) -> PyTree:
    """`count` states of the trajectory from `h0`, with N(0, `noise`²) added to every real entry: starts for a search.

    The states are drawn from h_0 .. h_{T-1}, each time with equal probability and with replacement. `xs` has leading
    axis T, or is None with `steps` = T. Returns states with leading axis `count`; `jax.vmap` over keys, initial states
    and inputs gives those of many trajectories. Raises `ValueError` if `count` is below 1.
    """
    count = whole_number("count", count)
    if not hasattr(key, "dtype"):
        raise ValueError(f"key: {key}; allowed: a random key, such as jax.random.key(0)")
    if not isinstance(noise, Tracer) and not np.all(np.asarray(noise) >= 0):
        raise ValueError(f"noise: {noise}; allowed: a number of at least 0")
    trajectory = rollout(step, params, h0, xs, steps=steps)
    layout = layout_of(h0)
    places = jax.random.randint(named_key(key, "times"), (count,), 0, trajectory.length)
    vectors, carried = jax.tree.map(lambda leaf: leaf[places], (trajectory.states[:-1], trajectory.carried))
    moved = vectors + jnp.asarray(noise, layout.dtype) * normal(named_key(key, "noise"), vectors.shape, layout.dtype)
    return jax.vmap(layout.unpack)(moved, list(carried))


def _is_one_state(step: Step, params: PyTree, x: PyTree, starts: PyTree) -> bool:
    """True if `step` takes `starts` as a state, and not its parts."""

    def keeps_shape(state: PyTree) -> bool:
        try:
            after = jax.eval_shape(step, params, state, x)
        except Exception:  # of whatever kind a step raises for a state that it does not take
            return False
        return [jnp.shape(leaf) for leaf in jax.tree.leaves(after)] == [
            jnp.shape(leaf) for leaf in jax.tree.leaves(state)
        ]

    return not keeps_shape(jax.tree.map(lambda leaf: leaf[0], starts)) and keeps_shape(starts)


def _check(starts: PyTree, period: int, iterations: int) -> None:
    counts = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(starts)}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"starts: leading axes {sorted(counts)}; allowed: one number of states, at least 1")
    if not any(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in jax.tree.leaves(starts)):
        raise ValueError("starts: no floats; allowed: states of floats, with a leading axis")
    for name, value in (("period", period), ("iterations", iterations)):
        whole_number(name, value)
