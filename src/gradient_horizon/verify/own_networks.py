"""Checks of ensembles of a user's own networks: closed forms, the package's own cell, and how the work is cut."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradient_horizon.cells.cell import make_cell
from gradient_horizon.cells.vanilla import VanillaParams
from gradient_horizon.experiments.own_networks import ensemble
from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.numerics.arrays import PyTree
from gradient_horizon.verify.comparison import CHAIN_RULE, ROUNDING, Comparison, Item, worst

EPS32, EPS64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)
BLOCK = 32


def _scaled(params: PyTree, h: Any, x: Any) -> Any:
    """h_t = d ⊙ x_t ⊙ h_{t-1}."""
    return params["d"] * x * h


def diagonal_networks(full: bool) -> Iterator[Item]:
    """Networks of independent units, some of which lose their largest unit at the last step."""
    many, steps, n = 100, 12, 3
    rng = np.random.default_rng(0)
    rates = (2.0 ** rng.integers(-24, 4, (many, n))).astype(np.float32)
    xs = np.ones((many, steps, n), np.float32)
    xs[::7, -1, np.argmax(rates[::7], axis=1)] = 0  # for every seventh network, of all units that are largest anywhere
    states = np.ones((many, n), np.float32)
    norms = ensemble(log_jacobian_norms, _scaled, {"d": rates}, states, xs, anchor="start", block=BLOCK)["frobenius"]
    with np.errstate(divide="ignore"):
        logs = np.cumsum(np.log(rates.astype(np.float64))[:, None] + np.log(xs.astype(np.float64)), axis=1)
    expected = 0.5 * np.logaddexp.reduce(2 * logs, axis=2)
    yield worst(
        f"{many} networks h_t = d ⊙ x_t ⊙ h_(t-1): log‖M‖ = ½ log Σ_i Π_t (d_i x_t,i)²", "a diagonal product",
        expected, norms, 2 * EPS32 * float(np.abs(expected[np.isfinite(expected)]).max()),
        "powers of two multiply exactly; the logs are rounded to float32",
    )  # fmt: skip
    part = slice(37, 71)
    again = ensemble(
        log_jacobian_norms, _scaled, {"d": rates[part]}, states[part], xs[part], anchor="start", block=BLOCK
    )["frobenius"]
    yield Comparison(
        f"{part.stop - part.start} of these networks alone: log norms with other bits", "blocks have a fixed size",
        0.0, float(np.sum(again.view(np.uint32) != norms[part].view(np.uint32))), 0.0, "the same compiled program",
    )  # fmt: skip


def _tanh_step(params: PyTree, h: Any, x: Any) -> Any:
    return jnp.tanh(params.recurrent @ h + params.bias)


def own_step_and_cell(full: bool) -> Iterator[Item]:
    """A tanh step as a user writes it, beside the package's tanh cell."""
    many, steps, n = 40, 30, 8
    rng = np.random.default_rng(0)
    w = 0.9 * np.linalg.qr(rng.standard_normal((many, n, n)))[0]
    b, states = 0.1 * rng.standard_normal((many, n)), rng.standard_normal((many, n))
    params = VanillaParams(*map(jnp.asarray, (w, np.zeros((many, n, 0)), b)))
    own, of_cell = (
        ensemble(log_jacobian_norms, step, params, states, steps=steps, block=BLOCK)["frobenius"]
        for step in (_tanh_step, make_cell("tanh", n))
    )
    amplified = max(map(_amplification, w, b, states, own))
    yield worst(
        f"h ↦ tanh(W h + b) written by hand and the tanh cell: log norms of {many} networks", CHAIN_RULE,
        of_cell, own, 2 * steps * (n + 8) * EPS64 * amplified, ROUNDING,
    )  # fmt: skip


def _amplification(w: np.ndarray, b: np.ndarray, h: np.ndarray, logs: np.ndarray) -> float:
    """The largest √n Π‖J_t‖ / ‖M‖_F over lags, times the rounding of 1 - tanh² in eps."""
    bounds, steepest = [], 1.0
    for _ in range(len(logs)):
        h = np.tanh(w @ h + b)
        bounds.append(np.log(np.linalg.norm((1 - h**2)[:, None] * w, 2)))
        steepest = max(steepest, float(np.max(1 / (1 - h**2))))
    cancelled = 0.5 * np.log(len(h)) + np.cumsum(bounds[::-1]) - logs
    return float(np.exp(cancelled.max())) * steepest
