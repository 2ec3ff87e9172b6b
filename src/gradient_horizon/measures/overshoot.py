"""Transient growth: how far a Jacobian product rises above its asymptotic rate before it follows it.

The Lyapunov exponents say how ‖M_k‖, M_k = J_k ⋯ J_1, grows or decays in the long run, and nothing about the first
steps: where the J_t are not normal, gradients may grow a hundredfold before they vanish.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.measures.jacobian_products import resolve_method
from gradient_horizon.measures.lyapunov import lyapunov_exponents
from gradient_horizon.measures.normality import henrici_departure
from gradient_horizon.measures.trajectory import System, Trajectory, sequence_length, system_of
from gradient_horizon.measures.wide import sized_jacobian
from gradient_horizon.names import Parallelisable
from gradient_horizon.names.rules import whole_number
from gradient_horizon.numerics.arrays import PyTree, Scalar, Series, Step
from gradient_horizon.numerics.compiled import compiled_once

ALIGNING = 300  # the usual number of steps before λ₁ is measured, or a quarter of all, if that is less


class TransientGrowth(NamedTuple):
    """Growth of the Jacobian products M_k = ∂h_k/∂h_0, k = 0 .. T, from the start; natural logs.

    - `log_overshoot`: max_k log(‖M_k‖₂ e^(-λ₁ k)), at least 0 (k = 0), from the search for ‖M_k‖₂, which is a lower
      bound on it. inf if λ₁ = -inf and ‖M_1‖₂ > 0: no exponential to be compared with.
    - `log_overshoot_bound`: the same from an upper bound on ‖M_k‖₂: ‖M_k‖_F, or, with `method="jacrev"`, LAPACK's
      value and its rounding.
    - `log_overshoot_error`: the standard error that λ₁ leaves in `log_overshoot`: that of λ₁ times the lag.
    - `overshoot_lag`: the first k at which `log_overshoot` is reached, to within the rounding of the logs; -1 if NaN.
    - `log_peak`, `log_peak_bound`, `peak_lag`: the same of ‖M_k‖₂ itself, without e^(-λ₁ k).
    - `exponent`, `standard_error`: λ₁, per step, and its standard error.
    - `parallelisable`: the verdict of `is_parallelisable`; inside a transformation its integer.
    - `henrici_mean`, `henrici_max`: over the sampled J_t, Henrici's departure from normality relative to ‖J_t‖_F.
    - `log_norm`: (T,), log ‖M_k‖₂ for k = 1 .. T.
    """

    log_overshoot: Array
    log_overshoot_bound: Array
    log_overshoot_error: Array
    overshoot_lag: Array
    log_peak: Array
    log_peak_bound: Array
    peak_lag: Array
    exponent: Array
    standard_error: Array
    parallelisable: Any
    henrici_mean: Array
    henrici_max: Array
    log_norm: Array


def is_parallelisable(exponent: Any, standard_error: Any, standard_errors: float = 3.0, rounding: float = 0.0) -> Any:
    """Whether a recurrence can be evaluated in parallel over time: λ₁ < 0.

    Newton's method on the whole trajectory at once (DEER, ELK) converges fast, in O((log T)²) parallel time, if λ₁ < 0;
    if λ₁ > 0, the problem that it solves is conditioned exponentially badly in T (Gonzalez et al. 2025).

    `YES` if λ₁ + `standard_errors` · `standard_error` + `rounding` < 0, `NO` if λ₁ - (…) > 0, otherwise `UNDECIDED`; so
    is an exponent or an error that is NaN. λ₁ = -inf is `YES`. With the errors of `lyapunov_exponents`, 10 groups of
    steps, Student's t exceeds 3 on one side in 0.7 % of all cases.

    **Returns:** a `Parallelisable`; for arrays, or inside a transformation, an array of its integers.

    **Source:** Lim, Zhu, Selfridge and Kasim 2024 (DEER, ICLR); Gonzalez, Warrington, Smith and Linderman 2024 (ELK,
    NeurIPS); Gonzalez, Kozachkov, Zoltowski, Clarkson and Linderman 2025 (NeurIPS, arXiv:2508.16817).
    """
    if not isinstance(standard_errors, Tracer) and not standard_errors > 0:
        raise ValueError(f"standard_errors: {standard_errors}; allowed: a number above 0")
    is_traced = any(isinstance(value, Tracer) for value in (exponent, standard_error, standard_errors, rounding))
    xp: Any = jnp if is_traced else np
    for name, value in (("standard_error", standard_error), ("rounding", rounding)):
        if not isinstance(value, Tracer) and np.any(np.asarray(value) < 0):
            raise ValueError(f"{name}: {np.min(np.asarray(value))}; allowed: numbers of at least 0, or NaN")
    exponent, standard_error = xp.asarray(exponent), xp.asarray(standard_error)
    standard_error = xp.where(standard_error < 0, xp.nan, standard_error)  # traced: decides nothing
    margin = standard_errors * standard_error + rounding
    is_below = (exponent + margin < 0) | (exponent == -np.inf)
    verdict = xp.where(exponent - margin > 0, int(Parallelisable.NO), int(Parallelisable.UNDECIDED))
    verdict = xp.where(is_below, int(Parallelisable.YES), verdict).astype(np.int8)
    return verdict if is_traced or verdict.ndim else Parallelisable(int(verdict))


def transient_growth(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    steps: int | None = None,
    transient: int | None = None,
    method: str = "auto",
    standard_errors: float = 3.0,
    samples: int = 32,
    trajectory: Trajectory | None = None,
) -> TransientGrowth:
    """How far the Jacobian products from the start rise above e^(λ₁ k), and at which lag k.

    **Arguments:**

    - `step`, `xs`, `steps`, `trajectory`: as for `log_jacobian_norms`; autonomous or driven, any pytree as the state.
    - `transient`: the number of steps before λ₁ is measured (see `lyapunov_exponents`). None: 300, but at most a
      quarter of all. The products themselves start at h_0.
    - `method`: `"auto"`: ‖M_k‖₂ is tracked from lag to lag, and bounded from above by ‖M_k‖_F, at most √n times as
      large; `"jacrev"`: LAPACK's singular values, which bound it from both sides, to rounding, at several times the
      cost.
    - `standard_errors`: how many of them decide the verdict (see `is_parallelisable`), beyond n eps for the rounding of
      a step.
    - `samples`: the number of J_t, evenly spread over the steps, whose departure from normality is measured. 0: none
      (NaN). Each costs a Schur decomposition.

    The overshoot of normal J_t with common eigenvectors (W symmetric or orthogonal, at a fixed point) is 1, and of a
    diagonalisable constant J at most κ(V), V its eigenvectors. It refers to the exponent of these T steps: along a
    chaotic trajectory, log ‖M_k‖ - λ₁ k fluctuates as a random walk does, and its maximum grows as √T without any
    transient; `log_overshoot_error` is of that size.

    **Returns:** `TransientGrowth`, in the vector's dtype. NaN, lags of -1 and `UNDECIDED` if a state is not finite.

    **Accuracy:** logs round by eps times their size, which is λ₁ T: 1e-3 for log ‖M_k‖ = -7000 in float32, but 1e-12 in
    float64. The bounds hold for the product as computed: where its parts cancel, it rounds by eps T ‖A‖ ‖B‖ / ‖A B‖
    of itself (see `log_jacobian_norms`), and `log_norm` may exceed the exact log ‖M_k‖₂ by as much.

    **Derivatives:** of the logs and λ₁, as of the norms and exponents that they consist of; NaN for the departures.

    **Raises:** `ValueError` for a setting out of range.

    **Source:** Trefethen and Embree, Spectra and Pseudospectra, 2005, chapters 14 to 18.
    """
    result = _transient_growth(
        step,
        params,
        h0,
        xs,
        steps=steps,
        transient=transient,
        method=method,
        standard_errors=standard_errors,
        samples=samples,
        trajectory=trajectory,
    )
    if isinstance(result.parallelisable, Tracer):
        return result
    return result._replace(parallelisable=Parallelisable(int(result.parallelisable)))


@compiled_once
def _transient_growth(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree,
    *,
    steps: int | None,
    transient: int | None,
    method: str,
    standard_errors: float,
    samples: int,
    trajectory: Trajectory | None,
) -> TransientGrowth:
    length = sequence_length(xs, steps)
    samples = whole_number("samples", samples, 0)
    transient = min(ALIGNING, length // 4) if transient is None else whole_number("transient", transient, None)
    method = resolve_method(method, "start")
    system = system_of(step, params, h0, xs, steps=steps, trajectory=trajectory)
    trajectory, n = system.trajectory, system.layout.size
    norms = log_jacobian_norms(
        step, params, h0, xs, anchor="start", norms=("frobenius", "spectral"), method=method, steps=steps,
        trajectory=trajectory,
    )  # fmt: skip
    spectrum = lyapunov_exponents(
        step, params, h0, xs, steps=steps, transient=transient, count=1, trajectory=trajectory
    )
    exponent, error = spectrum.exponents[0], spectrum.standard_error[0]
    eps = float(jnp.finfo(system.layout.dtype).eps)
    logs = norms["spectral"]
    bounds = logs + n * eps if method == "jacrev" else norms["frobenius"]

    lags = jnp.arange(1, length + 1).astype(logs.dtype)
    rounding = 4 * eps * (1 + length * _size_of(exponent) + jnp.max(_size_of(logs)))
    overshoot, at = _first_maximum(_relative_to(logs, exponent * lags), rounding)
    bound, _ = _first_maximum(_relative_to(bounds, exponent * lags), 0.0)
    peak, peak_at = _first_maximum(logs, rounding)
    peak_bound, _ = _first_maximum(bounds, 0.0)
    mean, largest = _departures(system, samples)
    verdict = is_parallelisable(lax.stop_gradient(exponent), lax.stop_gradient(error), standard_errors, n * eps)
    return TransientGrowth(
        overshoot, bound, error * jnp.maximum(at, 0).astype(error.dtype), at, peak, peak_bound, peak_at, exponent,
        error, jnp.asarray(verdict), mean, largest, logs,
    )  # fmt: skip


def _size_of(logs: Array) -> Array:
    return jnp.where(jnp.isfinite(logs), jnp.abs(lax.stop_gradient(logs)), 0)


def _relative_to(logs: Series, rates: Series) -> Series:
    """`logs` - `rates`; -inf for the log of a product that is exactly zero, whatever the rate."""
    is_zero = logs == -jnp.inf
    return jnp.where(is_zero, -jnp.inf, jnp.where(is_zero, 0, logs) - rates)


def _first_maximum(logs: Series, rounding: Float[Array, ""] | float) -> tuple[Scalar, Array]:
    """The maximum of 0, at lag 0, and of `logs`, at lags 1 .. T: the first value within `rounding` of it, and its lag.

    NaN and -1 if a log is NaN.
    """
    logs = jnp.concatenate([jnp.zeros_like(logs[:1]), logs])
    largest = jnp.max(lax.stop_gradient(logs))
    first = jnp.argmax(logs >= largest - rounding).astype(jnp.int32)
    is_known = ~jnp.isnan(largest)
    return jnp.where(is_known, logs[first], jnp.nan), jnp.where(is_known, first, -1)


def _departures(system: System, samples: int) -> tuple[Scalar, Scalar]:
    """The mean and the largest relative departure from normality of `samples` of the J_t."""
    states, inputs = system.window
    length, dtype = len(states), states.dtype
    if samples == 0:
        return jnp.asarray(jnp.nan, dtype), jnp.asarray(jnp.nan, dtype)
    times = np.unique(np.linspace(0, length - 1, min(samples, length)).round().astype(int))

    def departure(inputs: PyTree) -> Scalar:
        h, x = inputs
        jacobian, _, _ = sized_jacobian(lambda h: system.step(system.params, h, x), h)
        return henrici_departure(jacobian).relative

    each = lax.map(departure, jax.tree.map(lambda leaf: leaf[times], (states, inputs)))
    is_known = jnp.all(system.trajectory.finite)
    return jnp.where(is_known, jnp.mean(each), jnp.nan), jnp.where(is_known, jnp.max(each), jnp.nan)
