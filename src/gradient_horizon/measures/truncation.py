"""Where backpropagation through time may be truncated: the lag beyond which little of the gradient is left."""

import math
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from gradient_horizon.names import rules
from gradient_horizon.numerics import bootstrap

SLOWEST = 1e-6  # natural log per step: a slower decay cannot be told from the rounding of a float32 product
SLACK = 1e-5  # relative: a bias that is met to within the rounding of float32 norms needs no further step
LEAST_LAGS = 4


class TruncationKind(IntEnum):
    """What a truncation length rests on (see `truncation_length`)."""

    WITHIN = 0
    EXACT = 1
    BEYOND = 2
    NEVER = 3
    NONFINITE = 4


class Truncation(NamedTuple):
    """The truncation length of a network, or of many, for a given bias.

    - `length`: K, the number of steps through which each loss is backpropagated; inf if `kind` is `NEVER`, NaN if it is
      `NONFINITE`.
    - `kind`: a `TruncationKind`, or an array of their integer values. `WITHIN`: K is at most T + 1, one more than the
      last lag measured, and only the rest beyond lag T is extrapolated. `EXACT`: the same, and nothing is extrapolated,
      as the product is exactly zero at lag T. `BEYOND`: K is an extrapolation; measure that many lags to be sure.
      `NEVER`: over the last lags the norms do not decay (by less than `SLOWEST` per step), or they grow. `NONFINITE`: a
      norm is NaN or infinite.
    - `log_decay`: log β, the natural log of the factor per step by which the norms change over the last lags; -inf if
      `EXACT`.
    - `log_bounds`: log B(K) for K = 1 .. T + 1, natural logs, shape (..., T + 1); 0 if `NEVER`, as nothing is known.
    - `lower`, `upper`: limits of `length` at 95 % confidence, if `seeds_axis` was given; else None.
    """

    length: Any
    kind: Any
    log_decay: Any
    log_bounds: Any
    lower: Any = None
    upper: Any = None


def truncation_length(
    norms: Any,
    bias: Any = 0.01,
    *,
    norm: str | None = None,
    state_size: int | None = None,
    first_lag: int | None = None,
    seeds_axis: int | None = None,
) -> Truncation:
    """The smallest K for which backpropagation through K steps leaves the gradient a relative bias of at most `bias`.

    The gradient of a loss L at time T is a sum over lags, dL/dθ = Σ_k (∂h_{T-k}/∂θ)ᵀ ∂L/∂h_{T-k}, where ∂h_t/∂θ is the
    direct derivative of a single step. Backpropagation through K steps keeps the terms k = 0 .. K - 1. With φ_k =
    ‖∂L/∂h_{T-k}‖, or ‖∂h_T/∂h_{T-k}‖ in its place, the share of Σ_k φ_k that it drops is at most

        B(K) = (Σ_{k=K}^{T} φ_k + R) / (Σ_{k=0}^{T} φ_k + R),    R = C β^(T+1) / (1 - β) ≥ Σ_{k>T} φ_k.

    β and C describe the lags that were not measured: log β is the larger of the slopes of log φ_k over the last half
    and the last quarter of the lags (least squares), and C is the smallest factor for which φ_k ≤ C β^k over that half.
    For φ_k = s^k, B(K) = s^K and K = ⌈log bias / log s⌉.

    **What is assumed:** that φ_k ≤ C β^k goes on beyond lag T (assumption (A-2) of Aicher, Foti and Fox); nothing else
    is extrapolated. B bounds the bias of the gradient, ‖Σ_{k≥K} g_k‖ / ‖Σ_k g_k‖, if the direct derivatives have the
    same norm at all times and the terms g_k do not cancel. If they do, the bias may be larger by up to M Σ_k φ_k /
    ‖dL/dθ‖, with M the largest ‖∂h_t/∂θ‖: divide `bias` by that factor. A norm of the Jacobian stands for ‖∂L/∂h‖ of an
    average error (Frobenius) or of the worst one (spectral).

    **Arguments:**

    - `norms`: what `log_jacobian_norms` (from the end) returns; or natural logs with lags along the last axis and
      networks on leading ones; or an xarray DataArray of them along the dimension `lag`, which becomes the last one.
    - `bias`: a number above 0 and below 1, Python's or NumPy's.
    - `norm`: which norm of a `JacobianNorms`; by default `frobenius` if it was measured, else its first.
    - `state_size`: for an array of Frobenius norms from lag 1 on, n, which gives that of lag 0, √n; for spectral norms,
      1. Without it the term of lag 0 is left out of the sum over all lags, and K may be larger by a step or two.
    - `first_lag`: the lag of the first entry of an array, 0 or 1: 0 for ‖∂L/∂h_T‖, ‖∂L/∂h_{T-1}‖, ...; by default 1,
      or that of the DataArray's coordinate.
    - `seeds_axis`: average the norms over this axis of the array (E φ_k in the paper: sequences, or networks drawn
      alike), and give the limits of K over seeds: those of a bootstrap that draws whole seeds (`numerics.bootstrap`);
      1 and inf for a single seed.

    **Returns:** a `Truncation`: Python numbers for one network, NumPy arrays (float64) for several. Inside `jax.jit`
    or `jax.vmap`, JAX arrays in the dtype of `norms`, with zero derivative.

    **Raises:** `ValueError` for a wrong argument, fewer than `LEAST_LAGS` lags, or `seeds_axis` inside `jax.jit`.

    Aicher, Foti and Fox 2019, Adaptively truncating backpropagation through time to control gradient bias, UAI,
    arXiv:1905.07473. There ‖dL/dθ‖ is bounded from below by measured gradients instead.
    """
    if isinstance(bias, np.generic) or (isinstance(bias, np.ndarray) and not bias.ndim):
        bias = bias.item()
    if not (isinstance(bias, int | float) and 0 < bias < 1):
        raise ValueError(f"bias: {bias!r}; allowed: a number above 0 and below 1")
    if seeds_axis is not None and not rules.is_index(seeds_axis):
        raise ValueError(f"seeds_axis: {rules.shown(seeds_axis)}; allowed: a whole number, or None")
    logs, at_zero = _from_lag_one(norms, norm, state_size, first_lag)
    jax: Any = sys.modules.get("jax")  # not imported just for this: printing tables does not need it
    if jax is not None and isinstance(logs, jax.core.Tracer):
        if seeds_axis is not None:
            raise ValueError(f"seeds_axis: {seeds_axis} inside jax.jit or jax.vmap; allowed: None there, or outside")
        return _lengths(jax.numpy, jax.lax.stop_gradient(logs), at_zero, bias)
    logs = np.asarray(logs, np.float64)
    with np.errstate(invalid="ignore"):  # of infinities and NaN, whose meaning `kind` gives
        return _plain(_of_array(logs, at_zero, bias, seeds_axis))


def _of_array(
    logs: Float[np.ndarray, "*networks T"], at_zero: float, bias: float, seeds_axis: int | None
) -> Truncation:
    if seeds_axis is None:
        return _lengths(np, logs, at_zero, bias)
    axis = seeds_axis + logs.ndim if seeds_axis < 0 else seeds_axis
    if not 0 <= axis < logs.ndim - 1:
        raise ValueError(f"seeds_axis: {seeds_axis}; allowed: an axis of {logs.shape} except the last")
    by_seed = np.moveaxis(logs, axis, 0)
    if not len(by_seed):
        raise ValueError("norms: no seeds; allowed: at least one")
    found = _lengths(np, _log_mean(by_seed, np.ones((1, len(by_seed))))[0], at_zero, bias)
    lower, upper = _limits(by_seed, at_zero, bias)
    return found._replace(lower=np.fmin(lower, found.length), upper=np.fmax(upper, found.length))


def _from_lag_one(norms: Any, norm: str | None, state_size: Any, first_lag: Any) -> tuple[Any, float]:
    """The log norms with lags along the last axis, and log φ_0: -inf if it is unknown, NaN if it is the first entry."""
    if first_lag is not None and not (rules.is_index(first_lag) and first_lag in (0, 1)):
        raise ValueError(f"first_lag: {first_lag}; allowed: 0 or 1")
    if state_size is not None and not (rules.is_index(state_size) and state_size >= 1):
        raise ValueError(f"state_size: {state_size}; allowed: a whole number of at least 1, or None")
    if hasattr(norms, "log_norm") and isinstance(norms, Mapping) and not hasattr(norms, "dims"):
        if state_size is not None or first_lag is not None:
            raise ValueError("state_size, first_lag: given; allowed: for arrays, as a JacobianNorms knows its own")
        chosen = norm or ("frobenius" if "frobenius" in norms else next(iter(norms)))
        if chosen not in norms:
            raise ValueError(f"norm: {chosen!r}; allowed: {', '.join(norms)}")
        known: Any = norms
        logs = known[chosen]
        at_zero = 0.5 * math.log(known.state_size) if chosen == "frobenius" else 0.0
    else:
        if norm is not None:
            raise ValueError(f"norm: {norm!r}; allowed: None for an array, which holds a single norm")
        logs, first_lag = _array(norms, first_lag)
        if first_lag == 0 and state_size is not None:
            raise ValueError(f"state_size: {state_size}; allowed: None where lag 0 was measured")
        at_zero = math.nan if first_lag == 0 else -math.inf if state_size is None else 0.5 * math.log(state_size)
    if not getattr(logs, "ndim", 0) or logs.shape[-1] < LEAST_LAGS or logs.dtype.kind not in "fV":
        described = f"{getattr(logs, 'dtype', type(logs).__name__)} of shape {getattr(logs, 'shape', ())}"
        raise ValueError(f"norms: {described}; allowed: log norms of at least {LEAST_LAGS} lags")
    return logs, at_zero


def _array(norms: Any, first_lag: int | None) -> tuple[Any, int]:
    """`norms` with lags along the last axis, and the first lag."""
    if isinstance(norms, Mapping):
        raise ValueError("norms: a mapping; allowed: a JacobianNorms, an array, or a DataArray such as data.log_norm")
    if not hasattr(norms, "dims"):
        logs = norms if hasattr(norms, "ndim") else np.asarray(norms, np.float64)
        return logs, 1 if first_lag is None else first_lag
    if "lag" not in norms.dims:
        raise ValueError(f"norms: dimensions {tuple(norms.dims)}; allowed: lag among them")
    moved = norms.transpose(..., "lag")
    if "lag" not in moved.coords:
        return moved.values, 1 if first_lag is None else first_lag
    lags = np.asarray(moved["lag"].values)
    if lags[0] not in (0, 1) or np.any(np.diff(lags) != 1):
        raise ValueError(f"norms: lags {lags[0]} to {lags[-1]}; allowed: every lag from 0 or 1 on")
    if first_lag not in (None, lags[0]):
        raise ValueError(f"first_lag: {first_lag}; allowed: {lags[0]}, as in the coordinate lag")
    return moved.values, int(lags[0])


def _lengths(xp: Any, logs: Any, at_zero: float, bias: float) -> Truncation:
    """`Truncation` of each network, in NumPy or `jax.numpy`."""
    if not math.isnan(at_zero):
        first = xp.full_like(logs[..., :1], at_zero)
        logs = xp.concatenate([first, logs], axis=-1)
    last = logs.shape[-1] - 1  # T
    is_finite = ~xp.any(xp.isnan(logs) | (logs == math.inf), axis=-1)
    is_exact = logs[..., -1] == -math.inf
    log_decay, log_rest = _geometric(xp, logs)
    decays = log_decay < -SLOWEST
    log_rest = xp.where(is_exact, -math.inf, xp.where(decays, log_rest, math.inf))
    beyond = _log_suffix_sums(xp, logs)  # of the terms from each lag on
    total = xp.logaddexp(beyond[..., 0], log_rest)[..., None]
    dropped = xp.concatenate([xp.logaddexp(beyond[..., 1:], log_rest[..., None]), log_rest[..., None]], axis=-1)
    known = (is_exact | decays)[..., None] & (total > -math.inf)
    log_bounds = xp.where(known, dropped - xp.where(known, total, 0.0), xp.where(is_exact[..., None], -math.inf, 0.0))
    excess = log_bounds - (math.log(bias) + SLACK)
    is_within = xp.any(excess <= 0, axis=-1)
    further = xp.ceil(excess[..., -1] / xp.where(decays, -log_decay, 1.0))
    length = xp.where(is_within, xp.argmax(excess <= 0, axis=-1).astype(logs.dtype) + 1.0, last + 1.0 + further)
    kind = xp.where(is_within, int(TruncationKind.WITHIN), int(TruncationKind.BEYOND))
    kind = xp.where(is_exact, int(TruncationKind.EXACT), kind)
    never = ~(is_exact | decays)
    kind = xp.where(is_finite, xp.where(never, int(TruncationKind.NEVER), kind), int(TruncationKind.NONFINITE))
    length = xp.where(is_finite, xp.where(never, math.inf, length), math.nan).astype(logs.dtype)
    log_decay = xp.where(is_finite, xp.where(is_exact, -math.inf, log_decay), math.nan).astype(logs.dtype)
    log_bounds = xp.where(is_finite[..., None], log_bounds, math.nan).astype(logs.dtype)
    return Truncation(length, kind.astype(np.int8), log_decay, log_bounds)


def _geometric(xp: Any, logs: Any) -> tuple[Any, Any]:
    """log β and log R of the geometric continuation (see `truncation_length`); `logs` start at lag 0."""
    last = logs.shape[-1] - 1
    start = last - max(2, last // 2)
    window, lags = logs[..., start:], np.arange(start, last + 1).astype(logs.dtype)
    slopes = [_slope(xp, logs[..., since:], lags[since - start :]) for since in (start, last - max(2, last // 4))]
    log_decay = xp.maximum(*slopes)
    safe = xp.where(log_decay < -SLOWEST, log_decay, -1.0)
    height = xp.max(window - safe[..., None] * xp.broadcast_to(lags, window.shape), axis=-1)
    return log_decay, height + (last + 1) * safe - xp.log(-xp.expm1(safe))


def _slope(xp: Any, logs: Any, lags: Any) -> Any:
    """The least-squares slope through the finite entries; 0 through fewer than two."""
    counts = xp.isfinite(logs)
    weight, lags = counts.astype(logs.dtype), xp.broadcast_to(lags, logs.shape)
    number = xp.maximum(xp.sum(weight, axis=-1, keepdims=True), 1)
    values = xp.where(counts, logs, 0.0)
    apart = (lags - xp.sum(weight * lags, axis=-1, keepdims=True) / number) * weight
    values = (values - xp.sum(values, axis=-1, keepdims=True) / number) * weight
    squares = xp.sum(apart * apart, axis=-1)
    return xp.sum(apart * values, axis=-1) / xp.where(squares > 0, squares, 1.0)


def _log_suffix_sums(xp: Any, logs: Any) -> Any:
    """log Σ_{k≥K} φ_k for every K."""
    if xp is np:
        return np.logaddexp.accumulate(logs[..., ::-1], axis=-1)[..., ::-1]
    return sys.modules["jax"].lax.cumlogsumexp(logs, axis=logs.ndim - 1, reverse=True)


def _log_mean(
    by_seed: Float[np.ndarray, "S *networks T"], counts: Float[np.ndarray, "R S"]
) -> Float[np.ndarray, "R *networks T"]:
    """The log of the mean norm over seeds, each as often as `counts` says."""
    total = np.full((len(counts), *by_seed.shape[1:]), -np.inf)
    with np.errstate(divide="ignore"):
        weights = np.log(counts / len(by_seed))
    for seed, logs in enumerate(by_seed):
        weight = weights[:, seed].reshape(-1, *[1] * logs.ndim)
        total = np.logaddexp(total, np.where(weight > -np.inf, logs + weight, -np.inf))  # NaN only of drawn seeds
    return total


def _limits(
    by_seed: Float[np.ndarray, "S *networks T"], at_zero: float, bias: float
) -> Float[np.ndarray, "2 *networks"]:
    """Limits of the length over seeds; a network is resampled at a time, as each takes R T numbers."""
    seeds, *shape, lags = by_seed.shape
    if seeds == 1:
        return np.stack([np.ones(shape), np.full(shape, np.inf)])
    counts = bootstrap.resampled_counts(seeds).astype(np.float64)
    limits = []
    for logs in np.moveaxis(by_seed.reshape(seeds, -1, lags), 1, 0):
        lengths = _lengths(np, _log_mean(logs, counts), at_zero, bias).length
        # an overflow has an unknown length: the lowest for the lower limit, the highest for the upper one
        ends = [bootstrap.ordered_limits(np.where(np.isnan(lengths), end, lengths), seeds) for end in (0.0, np.inf)]
        limits.append([ends[0][0], ends[1][1]])
    return np.moveaxis(np.array(limits).reshape(*shape, 2), -1, 0)


def _plain(found: Truncation) -> Truncation:
    """Python numbers in place of arrays of a single network."""
    if found.kind.ndim:
        return found
    lower, upper = (None if limit is None else float(limit) for limit in (found.lower, found.upper))
    kind = TruncationKind(int(found.kind))
    return Truncation(float(found.length), kind, float(found.log_decay), found.log_bounds, lower, upper)
