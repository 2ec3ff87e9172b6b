"""Checks of networks of one unit or one gate, for which the Jacobian product has a closed form."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon.cells.cell import make_cell
from gradient_horizon.cells.gru import GRUParams
from gradient_horizon.cells.lstm import LSTMParams, LSTMState
from gradient_horizon.cells.vanilla import VanillaParams
from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.theory.one_unit import lstm_forget_log_norm, one_unit_critical_log_norm, one_unit_log_growth
from gradient_horizon.verify.comparison import Comparison, Item, worst
from gradient_horizon.verify.samples import gaussian

EPS32, EPS64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)
PITCHFORK = "the pitchfork of h = tanh(w h): Strogatz, section 3.4"


def one_unit(full: bool) -> Iterator[Item]:
    """h_t = tanh(w h_{t-1}): exponential below and above w = 1, a power law at w = 1."""
    cell = make_cell("tanh", 1)
    steps, start, half = 20_000, 0.5, 10_000
    weights = np.array([0.6, 1.0, 1.5, -2.5])

    def measure(w: Any) -> Any:
        params = VanillaParams(w.reshape(1, 1), jnp.zeros((1, 0)), jnp.zeros(1))
        return log_jacobian_norms(cell.step, params, jnp.full(1, start), steps=steps, anchor="start")["frobenius"]

    logs = np.asarray(jax.jit(jax.vmap(measure))(weights))
    settled = (logs[:, -1] - logs[:, half - 1]) / half
    for place, law in (
        (0, "0 < w < 1: log w"),
        (2, "w > 1: log(w (1 - h*²))"),
        (3, "w < -1: log(|w| (1 - h*²))"),
    ):
        w, deepest = float(weights[place]), float(np.abs(logs[place]).max())
        yield Comparison(
            f"one tanh unit, exponent at {law}; w = {w:g}", PITCHFORK, one_unit_log_growth(w), float(settled[place]),
            8 * EPS64 * (1.0 + deepest / half),
            f"8 eps a step for φ′ and the product; 8 eps of log norms up to {deepest:.0f}, over {half} steps",
        )  # fmt: skip
    t = np.arange(1, steps + 1)
    yield worst(
        "one tanh unit, w = 1: the whole power law, log|∂h_t/∂h_0| from h_0 = ½, every t",
        "stretching by the flow du/dt = f(u), u = h⁻²",
        one_unit_critical_log_norm(t, start), logs[1], 0.003 * start**6 + 8 * EPS64 * t,
        "error of the flow, 0.003 h_0⁶, and 8 eps a step",
    )  # fmt: skip
    slope = (logs[1, -1] - logs[1, half - 1]) / math.log(steps / half)
    size = 1.0 / start**2
    yield Comparison(
        f"one tanh unit, w = 1: slope of log norm against log t between t = {half} and {steps}", "-3/2: a power law",
        -1.5, slope, 1.5 * (size + math.log(half)) / (2.0 * half / 3.0),
        "h_t⁻² = h_0⁻² + 2t/3 + O(log t), so the slope is off by (h_0⁻² + log t) / (2t/3) of itself",
    )  # fmt: skip


def forget_gate(full: bool) -> Iterator[Item]:
    """An LSTM, and a GRU, with zero weights: the product depends on a single gate, even a closed one."""
    n, steps = 2, 500
    cell = make_cell("lstm", n)
    still = gaussian(np.random.default_rng(0), n, scale=0.0, dtype="float32")
    state = LSTMState(jnp.ones(n, jnp.float32), jnp.ones(n, jnp.float32))
    biases = np.array([-30.0, -1.0, 0.0, 2.0, 12.0], np.float32)

    def measure(bias: Any) -> Any:
        params = LSTMParams(still, replace(still, bias=jnp.full(n, bias)), still, still)
        return log_jacobian_norms(cell.step, params, state, steps=steps, norms=("frobenius",), block=lambda s: s.c)

    logs = np.asarray(jax.jit(jax.vmap(measure))(biases)["frobenius"])
    lag = np.arange(1, steps + 1)
    predicted = np.stack([0.5 * math.log(n) + lstm_forget_log_norm(float(b), lag) for b in biases])
    yield worst(
        "LSTM with zero weights, forget bias b: ∂c_T/∂c_0 = σ(b)^T, b = -30 .. 12, every lag, float32",
        "Gers, Schmidhuber, Cummins 2000", predicted, logs, EPS32 * (4 * lag[None] + np.abs(predicted) + 4),
        "σ(b) and the product each round once a step, and the log in proportion to its size",
    )  # fmt: skip

    gru = make_cell("gru", n)
    openings = np.array([2.0, 12.0, 30.0], np.float32)

    def measure_update(bias: Any) -> Any:
        params = GRUParams(replace(still, bias=jnp.full(n, bias)), still, still)
        return log_jacobian_norms(gru.step, params, state.h, steps=20)["frobenius"]

    logs = np.asarray(jax.jit(jax.vmap(measure_update))(openings))
    lag = np.arange(1, 21)
    predicted = np.stack([0.5 * math.log(n) - lag * math.log1p(math.exp(float(b))) for b in openings])
    yield worst(
        "GRU with zero weights, update bias b: ∂h_T/∂h_0 = (1 - σ(b))^T, b = 2 .. 30, every lag, float32",
        "Chung et al. 2014, eq. 4; 1 - σ(b) = σ(-b)", predicted, logs,
        EPS32 * (8 * lag[None] + np.abs(predicted) + 4),
        "σ(-b), the sum of both paths and the product each round once a step, and the log in proportion to its size",
    )  # fmt: skip
