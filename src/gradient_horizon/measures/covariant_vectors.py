"""Covariant Lyapunov vectors: the directions that grow at each Lyapunov exponent, carried into each other by the steps.

A QR at every step turns an orthonormal basis into J_t Q_{t-1} = Q_t R_t. The first i columns of Q_t span the directions
that have grown most in the past, but only the first of them is carried into itself: the others are made orthogonal at
every step. Ginelli et al. 2007 find the covariant vectors in that basis, v_i(t) = Q_t c_i(t) with c_i a column of an
upper triangular matrix, by running R_t c(t-1) ∝ c(t) backwards in time: whatever triangular matrix is put in at the
end, its i-th column turns into the one direction of the first i that decays fastest backwards, at the rate of λ_i.

Any choice at the end gives vectors that are carried into each other. That they are the right ones is shown by a second
computation, from another start and another end: where the two agree, neither matters any more.

Everything runs in float64, on Jacobians in the precision of the state, since the sweep divides by every R_t,ii.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.measures.trajectory import Trajectory, sequence_length, system_of
from gradient_horizon.measures.wide import in_float64, lifted_jacobian
from gradient_horizon.names.rules import whole_number
from gradient_horizon.numerics import lapack
from gradient_horizon.numerics.angles import angle, angles_of_columns, angles_of_spans, smallest_angle
from gradient_horizon.numerics.arrays import PyTree, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.exponents import LOG_2, normalise
from gradient_horizon.numerics.fallback import held, step_of_arrays
from gradient_horizon.numerics.keys import fixed_normal, fixed_orthogonal

_log = logging.getLogger(__name__)
_UNSURE = 0.01  # radians: a larger difference between two computations is worth a warning
_EPS = float(np.finfo(np.float64).eps)


class CovariantVectors(NamedTuple):
    """The first k covariant Lyapunov vectors of a map with n state entries, at L times.

    - `vectors`: (L, n, k); `vectors[j, :, i]` is v_{i+1} at the state h_t with t = `time[j]`, of unit length, its sign
      arbitrary. The next step carries it into a multiple of the vector at t + 1.
    - `rates`: (L, k), log‖J_{t+1} v_i(t)‖, by how much the next step stretches it (natural log).
    - `exponents`: (k,), the means of the rates over the L times: Lyapunov exponents, per step.
    - `time`: (L,), the numbers t of the states.
    - `covariance_error`: (k,), the largest angle, in radians, between J_{t+1} v_i(t) and v_i(t + 1), both in float64.
      It shows rounding, including that of v itself if a step shortens it to a small part of its length: vectors that
      have not converged are covariant too.
    - `forward_error`: (k,), the largest angle, at the first time, between the spans of the first i tangent vectors from
      two starts; from then on it falls as e^{-(λ_i - λ_{i+1}) t}. A longer `transient` reduces it.
    - `backward_error`: (k,), the largest angle, over all times, between the vectors from two ends. A longer
      `backward_transient` reduces it. If λ_i = λ_{i+1}, such as for a pair of complex eigenvalues of a fixed W, only
      the plane of both is defined and not the two vectors: then the forward error of v_i and the backward error of
      v_{i+1} stay large, however long the transients.

    NaN for a direction that dies, together with all that follow it (see `covariant_lyapunov_vectors`).
    """

    vectors: Array
    rates: Array
    exponents: Array
    time: Array
    covariance_error: Array
    forward_error: Array
    backward_error: Array

    @property
    def angles(self) -> Float[Array, "*networks L k k"]:
        """The angle between each two vectors at each time, in radians from 0 to π/2; axes of `jax.vmap` in front."""

        def at(vectors):
            rows = vectors.T
            return jax.vmap(lambda one: jax.vmap(lambda other: angle(one, other))(rows))(rows)

        *leading, n, k = self.vectors.shape
        return lax.map(at, self.vectors.reshape(-1, n, k)).reshape(*leading, k, k)

    def smallest_angle(self, dimension: Int[Array, ""] | int | None = None) -> Float[Array, "*networks L"]:
        """The smallest angle between the span of the first `dimension` vectors and that of the others, at each time.

        In radians: the first principal angle (Björck and Golub 1973). `dimension` may be traced; None: the number of
        positive exponents, that is, between the unstable directions and the rest. Axes of `jax.vmap` stay in front, and
        `dimension` may differ from network to network. Angles near 0 at some times mean that
        the two come close to a tangency; a hyperbolic map has none. NaN if either group is empty, or holds a dead
        direction.
        """
        *leading, n, k = self.vectors.shape
        dimension = jnp.sum(self.exponents > 0, axis=-1) if dimension is None else dimension
        each = jnp.broadcast_to(jnp.asarray(dimension, jnp.int32)[..., None], leading).reshape(-1)
        by_time = self.vectors.reshape(-1, n, k), each
        return lax.map(lambda pair: smallest_angle(*pair), by_time).reshape(*leading)


def covariant_lyapunov_vectors(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    steps: int | None = None,
    count: int | None = None,
    transient: int | None = None,
    backward_transient: int | None = None,
    trajectory: Trajectory | None = None,
) -> CovariantVectors:
    """Covariant Lyapunov vectors of a one-step map along the trajectory from `h0` (Ginelli et al. 2007 and 2013).

    v_1(t), ..., v_k(t) are the directions with J_{t+1} v_i(t) ∝ v_i(t + 1) that grow at the rates λ_1 ≥ ... ≥ λ_k both
    forwards and backwards in time. For a fixed Jacobian they are its eigenvectors, for a periodic one the eigenvectors
    of the product over a period.

    **Arguments:**

    - `step`: `step(params, h, x) -> h`; the state may be any pytree of arrays, n entries in all (see `states`).
    - `xs`: a pytree with leading axis T, or None with `steps` = T.
    - `count`: k, the number of vectors, from the fastest growing (None: all n).
    - `transient`, `backward_transient`: the numbers of steps to discard at the start and at the end (None: a quarter of
      T each). The errors of v_i fall within them as e^{-(λ_i - λ_{i+1}) t} and e^{-(λ_{i-1} - λ_i) t}, and what is left
      is returned as `forward_error` and `backward_error`. L = T - `transient` - `backward_transient` is left.
    - `trajectory`: the result of `rollout` for the same arguments, if available; by default it is computed.

    **Returns:** `CovariantVectors`, in the state's dtype; the entries of a vector are those of the raveled state.

    **Directions that die:** if a step maps one exactly to zero (dead ReLU units), or to less than rounding leaves of
    it (W of lower rank), nothing remains from which to go backwards: its vector, its rate and all that follow are NaN.
    Everything is NaN if a state is not finite.

    **Complex states:** for a holomorphic step every exponent of the real and imaginary parts occurs twice, and the two
    vectors are not defined: `ValueError`. For any other step, the vectors of the real and imaginary parts, in pairs of
    entries.

    **Accuracy:** the vectors are covariant to about n eps κ, eps that of float64 and κ the condition number of R_t
    after its rows are scaled, and are then rounded to the state's dtype. Directions that take turns in growing, one
    ahead of the other by more than 1/eps on the way, are resolved only to rounding.

    **Memory:** 8 L n k bytes for the Qs and 8 (L + `backward_transient`) k² for the triangular factors, in addition to
    the vectors. Time: every J_t is formed twice, with one QR of n × k and one triangular solve.

    Logs a warning if either error exceeds 0.01 (except inside a transformation such as `jax.jit`, where values are not
    known).

    **Derivatives:** none; differentiating raises `TypeError` (`lyapunov_exponents` can be differentiated).

    **Raises:** `ValueError` for a setting out of range, and for a holomorphic step of a complex state.
    """
    settings = {"steps": steps, "count": count, "transient": transient, "backward_transient": backward_transient}
    result = _vectors(step, params, h0, xs, trajectory=trajectory, **settings)
    errors = result.forward_error, result.backward_error
    if not any(isinstance(error, Tracer) for error in errors):
        forward, backward = (np.asarray(error) > _UNSURE for error in errors)
        if (forward | backward).any():
            _log.warning(
                "vectors %s differ by more than %g between two computations: their exponents are equal or close, or the"
                " transients too short (see forward_error, backward_error)",
                (np.flatnonzero(forward | backward) + 1).tolist(),
                _UNSURE,
            )
    return result


class _Schedule(NamedTuple):
    """How the T steps are used: `transient` to align the basis, `length` counted, `backward` to align the sweep."""

    transient: int
    length: int
    backward: int

    def parts(self, window: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        """The window cut into these three."""
        first, last = self.transient, self.transient + self.length

        def cut(start: int, stop: int | None) -> PyTree:
            return jax.tree.map(lambda leaf: leaf[start:stop], window)

        return cut(0, first), cut(first, last), cut(last, None)


@compiled_once
def _vectors(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree,
    *,
    steps: int | None,
    count: int | None,
    transient: int | None,
    backward_transient: int | None,
    trajectory: Trajectory | None,
) -> CovariantVectors:
    total = sequence_length(xs, steps)
    system = system_of(step, params, h0, xs, steps=steps, trajectory=trajectory)
    n, dtype = system.layout.size, system.layout.dtype
    if system.is_holomorphic:
        raise ValueError(
            "h0: complex, and the step is holomorphic, so that each exponent occurs twice and its vectors are not"
            " defined; allowed: a real state"
        )
    count = n if count is None else whole_number("count", count, None)
    schedule = _schedule(total, n, count, transient, backward_transient)
    window = jax.tree.map(jnp.asarray, system.window)
    with_64_bits = jnp.result_type(float) == jnp.float64
    # traced values held by `params` and the step become an argument, `closed`
    flat_step, closed = step_of_arrays(lambda h, x: system.step(params, h, x), *window)
    constants = held(closed)

    def jacobian(inputs):
        with jax.enable_x64(with_64_bits):  # run the step under the caller's setting
            h, x = inputs
            lifted = lifted_jacobian(lambda h: flat_step(constants, h, x), h)
        matrix, exponent = in_float64(lifted)
        matrix, gained = normalise(matrix)
        return matrix, exponent + gained

    with jax.enable_x64(True):
        eps = float(jnp.finfo(dtype).eps)
        result = _by_sweep(jacobian, schedule.parts(held(window)), n, count, eps, dtype)
    time = jnp.arange(schedule.transient, schedule.transient + schedule.length, dtype=jnp.int32)
    all_finite = jnp.all(system.trajectory.finite)
    numbers = tuple(jnp.where(all_finite, part.astype(dtype), jnp.nan) for part in result)
    vectors, rates, exponents, *errors = _without_derivative(numbers, closed, window)
    return CovariantVectors(vectors, rates, exponents, time, *errors)


class _Factor(NamedTuple):
    """J Q = `basis` · `r`, and of which columns rounding leaves nothing, that of float64 and that of the step."""

    basis: Array
    r: Array
    is_gone: Array
    is_unresolved: Array


def _factor(matrix: Float[Array, "n n"], basis: Float[Array, "n k"], eps: float) -> _Factor:
    stretched = jnp.matmul(matrix, basis, precision="highest")
    basis, r = lapack.graded_qr(stretched)
    pivots = jnp.abs(jnp.diagonal(r))
    n, k = stretched.shape
    sizes = -jnp.sort(-jnp.max(jnp.abs(stretched), axis=1))[:k]
    return _Factor(basis, r, pivots <= sizes * (n * _EPS), pivots <= sizes * (n * eps))


def _by_sweep(
    jacobian: Callable[[PyTree], tuple[Float[Array, "n n"], Int[Array, ""]]],
    parts: tuple[PyTree, PyTree, PyTree],
    n: int,
    count: int,
    eps: float,
    dtype: Any,
) -> tuple[Array, ...]:
    """Vectors, rates, exponents and the three errors, in float64. 64 bits must be enabled.

    `jacobian((h, x))` is J_t as a matrix in float64 and the exponent of a power of two; `eps` is that of its entries.
    """
    early, counted, late = parts

    def align(carry, inputs):
        (basis, other), flags = carry
        matrix, _ = jacobian(inputs)
        factor = _factor(matrix, basis, eps)
        return ((factor.basis, _factor(matrix, other, eps).basis), _seen(flags, factor)), None

    def advance(carry, inputs):
        basis, flags = carry
        factor = _factor(jacobian(inputs)[0], basis, eps)
        return (factor.basis, _seen(flags, factor)), (basis, factor.r)

    def advance_only(carry, inputs):
        carry, (_, r) = advance(carry, inputs)
        return carry, r

    start = jnp.asarray(fixed_orthogonal(n)[:, :count])
    other = jnp.asarray(np.linalg.qr(fixed_normal(n + 1, n)[1:])[0][:, :count])
    none = jnp.zeros(count, bool), jnp.ones(count, bool)
    ((basis, other), flags), _ = lax.scan(align, ((start, other), none), early)
    forward_error = angles_of_spans(basis, other)
    (basis, flags), (bases, factors) = lax.scan(advance, (basis, flags), counted)
    (_, flags), late_factors = lax.scan(advance_only, (basis, flags), late)
    is_dead = lax.cummax((flags[0] | flags[1]).astype(jnp.int32)) > 0

    def back(r, coefficients):
        """The unit columns of both sets before a step, from those after it, and by how much the step shortens them."""
        sound = r + jnp.diag(jnp.where(is_dead, 1 - jnp.diagonal(r), 0))
        return _to_unit_columns(lapack.solve_upper_triangular(sound, coefficients))

    def retreat(carry, inputs):
        coefficients, after, worst = carry
        basis, r, at = inputs
        coefficients, log_shortening = back(r, coefficients)
        both = jnp.matmul(basis, coefficients, precision="highest")
        vectors, others = both[:, :count], both[:, count:]
        matrix, exponent = jacobian(at)
        # of a step that shortens v to less than eps, only the sweep gives the rate: J v is rounding
        rates = exponent.astype(jnp.float64) * LOG_2 - log_shortening[:count]
        image, _ = _to_unit_columns(jnp.matmul(matrix, vectors, precision="highest"))
        errors = angles_of_columns(image, after), angles_of_columns(vectors, others)
        worst = tuple(jnp.maximum(*pair) for pair in zip(worst, errors, strict=True))
        return (coefficients, vectors, worst), (vectors.astype(dtype), rates)

    # two ends: each column orthogonal to those before it, and as far from that as from all of them
    ends = np.eye(count), np.triu(np.sign(fixed_normal(count, count)))
    end, _ = _to_unit_columns(jnp.asarray(np.concatenate(ends, axis=1)))
    end, _ = lax.scan(lambda columns, r: back(r, columns), end, late_factors, reverse=True)
    last = jnp.matmul(basis, end[:, :count], precision="highest")
    nothing = jnp.zeros(count), jnp.zeros(count)
    (_, _, (covariance_error, backward_error)), (vectors, rates) = lax.scan(
        retreat, (end, last, nothing), (bases, factors, counted), reverse=True
    )
    results = vectors, rates, jnp.mean(rates, axis=0), covariance_error, forward_error, backward_error
    return tuple(jnp.where(is_dead.reshape(*(1,) * (part.ndim - 1), count), jnp.nan, part) for part in results)


def _seen(flags: tuple[Bool[Array, " k"], Bool[Array, " k"]], factor: _Factor) -> tuple[Any, Any]:
    """Columns that are gone after any step, and those that no step has resolved."""
    return flags[0] | factor.is_gone, flags[1] & factor.is_unresolved


def _to_unit_columns(matrix: Float[Array, "n k"]) -> tuple[Float[Array, "n k"], Float[Array, " k"]]:
    """The columns divided by their lengths, and the logs of these."""
    largest = jnp.max(jnp.abs(matrix), axis=0, keepdims=True)
    scaled = matrix / largest  # the squares of very long or short columns would over- or underflow
    lengths = jnp.sqrt(jnp.sum(scaled * scaled, axis=0, keepdims=True))
    return scaled / lengths, (jnp.log(largest) + jnp.log(lengths))[0]


@jax.custom_jvp
def _without_derivative(value: PyTree, *arguments: PyTree) -> PyTree:
    return value


@_without_derivative.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise TypeError("covariant_lyapunov_vectors: has no derivative; lyapunov_exponents can be differentiated")


def _schedule(total: int, n: int, count: int, transient: int | None, backward_transient: int | None) -> _Schedule:
    usual = total // 4
    transient = usual if transient is None else whole_number("transient", transient, None)
    backward = usual if backward_transient is None else whole_number("backward_transient", backward_transient, None)
    if not 1 <= count <= n:
        raise ValueError(f"count: {count}; allowed: from 1 to {n}, the size of the state")
    if not 0 <= transient < total:
        raise ValueError(f"transient: {transient}; allowed: from 0 to {total - 1}, one less than the number of steps")
    if not 0 <= backward < total - transient:
        raise ValueError(
            f"backward_transient: {backward}; allowed: from 0 to {total - transient - 1}, one less than the steps after"
            f" the transient"
        )
    return _Schedule(transient, total - transient - backward, backward)
