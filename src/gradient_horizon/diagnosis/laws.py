"""Checks of a watch: linear networks, with closed forms of growth and gradient, and a run broken at a known update."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon.diagnosis.watch import Watch
from gradient_horizon.verify.comparison import Check, Comparison, Item, worst

_N, _T, _S = 4, 80, 2
_SCALES = (0.5, 0.9, 1.0, 1.2)
_EPS = float(np.finfo(np.float64).eps)
_STEP = (_N + 8) * _EPS
_ORIGIN = (
    f"T (n + 8) eps: each of the {_T} steps rounds by (n + 8) eps, and a multiple of an orthogonal matrix adds none"
)
_CHAIN = "J_t = g Q: every singular value of ∂h_T/∂h_t is g^(T-t)"


def _linear(params: Any, h: Any, x: Any) -> Any:
    return params["W"] @ h + x


def _loss(params: Any, probe: Any) -> Any:
    """The mean over sequences of v · h_T."""

    def last(xs: Any) -> Any:
        return jax.lax.scan(lambda h, x: (_linear(params, h, x), None), jnp.zeros(_N), xs)[0]

    return jnp.mean(jax.vmap(last)(probe) @ params["v"])


def _params(rng: np.random.Generator, scale: float) -> Any:
    q, _ = np.linalg.qr(rng.standard_normal((_N, _N)))
    return {"W": scale * q, "v": np.ones(_N)}


def growing(full: bool) -> Iterator[Item]:
    """A linear network whose scale changes from update to update: growth, horizon, exponent and profile at each."""
    rng = np.random.default_rng(3)
    watch = Watch(_linear, rng.standard_normal((_S, _T, _N)), 1, np.zeros(_N), _loss)
    for update, scale in enumerate(_SCALES):
        watch(_params(rng, scale), update)
    table = watch.table()
    logs = np.log(_SCALES)
    for name, title in (("log_growth", "log growth per step"), ("lyapunov_exponent", "largest Lyapunov exponent")):
        yield worst(
            f"watched linear network, W = g Q, g = 0.5 .. 1.2: {title} log g",
            _CHAIN, logs, table[name].values, 2 * _STEP, "(n + 8) eps a step, and as much for the logs at both ends",
        )  # fmt: skip
    first = [min(math.floor(3 * math.log(10) / abs(log)) + 1 if log else _T + 1, _T + 1) for log in logs]
    yield worst(
        "watched linear network, W = g Q: horizon ⌊3 log 10 / |log g|⌋ + 1, at most T + 1",
        _CHAIN, first, table.horizon.values, 0.0, "exact: no lag lies within rounding of the threshold",
    )  # fmt: skip
    left = np.arange(_T - 1, -1, -1)
    profile = left * logs[:, None] + 0.5 * math.log(_N / _S)
    yield worst(
        "watched linear network, L = mean of v · h_T: log ‖∂L/∂h_t‖ = (T - t) log g + log(‖v‖ / √S), every t",
        _CHAIN, profile, table.log_state_gradient_norm.values, _T * _STEP, _ORIGIN,
    )  # fmt: skip


def breaking(full: bool) -> Iterator[Item]:
    """A run whose parameters double at every update: the first update that overflows."""
    watch = Watch(
        lambda params, h, x: h * params["quiet"] + x, np.ones((1, 2, 1), np.float32), 10**6, np.zeros(1, np.float32)
    )
    doubling, first = np.float32(1.0), 128  # 2^128 is the first power of two that float32 does not hold
    for update in range(first + 40):
        watch({"quiet": np.ones(1, np.float32), "loud": np.full(1, doubling)}, update)
        with np.errstate(over="ignore"):
            doubling = doubling * np.float32(2.0)
    named = watch.table().attrs["first_bad_parameters"] == "params['loud']"
    yield Comparison(
        "watched run whose parameter is 2^update in float32: first bad update 128, in that parameter alone",
        "the largest float32 is (2 - 2^-23) 2^127", float(first),
        float(watch.first_bad_update or 0) if named else math.nan, 0.0, "exact",
    )  # fmt: skip


SECTIONS: dict[str, tuple[Check, ...]] = {"A network on its way": (growing, breaking)}
"""A section of the verification page, beside those of `verify.suite`."""
