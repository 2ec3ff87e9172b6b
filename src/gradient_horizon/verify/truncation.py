"""Checks of truncation lengths, and of the setting at which a gradient reaches a number of steps."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon.experiments.tune import tune
from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.measures.truncation import truncation_length
from gradient_horizon.verify.comparison import Comparison, Item, worst

EPS32 = float(np.finfo(np.float32).eps)
BOUND = "Aicher, Foti, Fox 2019, arXiv:1905.07473, assumption (A-2): a geometric tail"


def truncated_scaled_identity(full: bool) -> Iterator[Item]:
    """J = s I: the share of the gradient that truncation at K drops is s^K, and K = ⌈log bias / log s⌉."""
    rates, n, steps, bias = np.array([0.3, 0.8, 0.95, 0.995], np.float32), 3, 100, 0.02

    def measure(rate: Any) -> Any:
        return truncation_length(
            log_jacobian_norms(lambda s, h, x: s * h, rate, jnp.ones(n, jnp.float32), steps=steps), bias
        )

    found = jax.jit(jax.vmap(measure))(rates)
    ends, logs = np.arange(1, steps + 2), np.log(rates.astype(np.float64))
    # the slope of norms that are off by 2 eps k each is off by 2 eps; the rest is 1 / (1 - β), hence 2 eps / (1 - s)
    rounding = 4 * EPS32 * (steps + ends + np.abs(logs[:, None]) * ends + 1 / (1 - rates[:, None].astype(np.float64)))
    yield worst(
        "J = s I, s = 0.3 .. 0.995: the bound on the bias of truncation at K is s^K, every K, float32, logs",
        BOUND, logs[:, None] * ends, found.log_bounds, rounding,
        "each log norm, and each of the sums over lags, rounds by eps per step",
    )  # fmt: skip
    yield worst(
        "J = s I, s = 0.3 .. 0.995: truncation length for a bias of 2 %, in steps",
        BOUND, np.ceil(math.log(bias) / logs), found.length, 0.0, "whole numbers; no s^K is within rounding of 2 %",
    )  # fmt: skip


def truncated_gradient(full: bool) -> Iterator[Item]:
    """A linear network with a quadratic loss, in NumPy: the bias of its truncated gradient against the bound."""
    rng, steps, n, bias = np.random.default_rng(11), 150, 5, 0.01
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    matrix = (basis * rng.uniform(0.4, 0.9, n)) @ basis.T
    states = [np.zeros(n)]
    for x in rng.standard_normal((steps, n)) + 1.0:
        states.append(matrix @ states[-1] + x)
    error, terms, norms = states[-1] - rng.standard_normal(n), [], []
    for lag in range(steps):
        terms.append(np.outer(error, states[steps - lag - 1]))
        norms.append(np.linalg.norm(error))
        error = matrix.T @ error
    sums = np.cumsum(terms, axis=0)
    whole = np.linalg.norm(sums[-1])
    biases = np.linalg.norm(sums[-1] - sums, axis=(1, 2)) / whole
    cancellation = max(np.linalg.norm(state) for state in states) * np.sum(norms) / whole
    found = truncation_length(np.log(norms), bias / cancellation, first_lag=0)
    yield worst(
        "linear network, L = ½‖h_T - y‖²: bias of dL/dW truncated at K, K = 1 .. 100",
        BOUND, cancellation * np.exp(found.log_bounds[:100]), biases[:100], 1e-12,
        "rounding; the bound times M Σφ / ‖dL/dW‖, M the largest ‖h‖", bound=True,
    )  # fmt: skip
    yield Comparison(
        f"the same: bias at the length for 1 %, K = {found.length:.0f}", BOUND, bias, biases[int(found.length) - 1],
        1e-5 * bias, "the bias that the length may have beyond 1 %, relative: 1e-5", bound=True,
    )  # fmt: skip


def tuned_settings(full: bool) -> Iterator[Item]:
    """The weight scales at which an orthogonal linear network begins, and ceases, to reach T steps."""
    steps, resolution = 80, 1e-3
    rate = 3.0 * math.log(10.0) / steps
    for kind, law, predicted in (
        ("vanished", "exp(-3 log 10 / T)", math.exp(-rate)),
        ("exploded", "exp(3 log 10 / T)", math.exp(rate)),
    ):
        found = tune(
            "linear", steps, "weight_scale", kind=kind, weights="orthogonal", hidden_size=4, seeds=6,
            bounds=(0.5, 2.0), resolution=resolution,
        )  # fmt: skip
        yield Comparison(
            f"linear orthogonal network, the g at which the gradient has {kind} after T = {steps} steps: {law}",
            "‖∂h_T/∂h_0‖_F = √N g^T", predicted, found.value, resolution * predicted, "the resolution of the search",
        )  # fmt: skip
