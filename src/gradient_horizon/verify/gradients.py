"""Checks of the gradients of inputs, of parameters and of a loss through time, in closed form where there is one."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon.cells.cell import make_cell
from gradient_horizon.cells.lstm import LSTMParams, LSTMState
from gradient_horizon.measures.causality import CausalityError, check_causality
from gradient_horizon.measures.input_gradients import log_input_gradients
from gradient_horizon.measures.loss_gradients import log_state_gradients
from gradient_horizon.measures.parameter_gradients import log_parameter_gradients
from gradient_horizon.measures.parameter_sensitivity import log_parameter_sensitivity
from gradient_horizon.verify.comparison import CHAIN_RULE, STANDARD_ERRORS, Comparison, Item, standard_error, worst
from gradient_horizon.verify.samples import gaussian

EPS32, EPS64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)
MEMORY = "Zucchet, Orvieto 2024, section 2; the sum of the geometric series"


def _driven(params: Any, h: Any, x: Any) -> Any:
    return params[0] @ h + params[1] @ x


def inputs(full: bool) -> Iterator[Item]:
    """The inputs of a linear network, by powers of its matrix; none after the state that is read."""
    steps, at = 3000, 2000
    w = np.array([[0.5, 0.25], [0.0, 0.5]])  # 0.5^k (1, k/2; 0, 1): exact powers
    u = np.array([[1.0], [2.0]])
    arrays = tuple(jnp.asarray(array, jnp.float32) for array in (w, u))
    start, xs = jnp.zeros(2, jnp.float32), jnp.zeros((steps, 1), jnp.float32)
    logs = np.asarray(log_input_gradients(_driven, arrays, start, xs, at=at)["frobenius"])
    lag = np.arange(at - 1, -1, -1)
    predicted = 0.5 * np.log((1.0 + lag) ** 2 + 4.0) - lag * math.log(2.0)
    yield worst(
        f"linear network: ∂h_T/∂x_t = W^(T-t) U, T = {at}, every t, float32", CHAIN_RULE, predicted, logs[:at],
        EPS32 * (4 * lag + 2 * np.abs(predicted) + 4),
        "each step rounds 1 + k once and adds one product; the log rounds by eps of its size",
    )  # fmt: skip
    yield worst(
        f"no input later than T' = {at} acts on h_T': exact zeros, log norm -inf", "causality",
        -math.inf, logs[at:], 0.0, "an exact zero is not computed",
    )  # fmt: skip


def gates(full: bool) -> Iterator[Item]:
    """An LSTM with zero recurrent weights: an input enters by one candidate, and is kept by one forget gate."""
    n, steps = 2, 60
    cell = make_cell("lstm", n, n)
    still = gaussian(np.random.default_rng(0), n, n, scale=0.0)
    still = replace(still, input=jnp.zeros((n, n)))
    biases = np.array([-1.0, 0.0, 2.0])
    state, xs = LSTMState(jnp.zeros(n), jnp.zeros(n)), jnp.zeros((steps, n))

    def measure(bias: Any) -> Any:
        params = LSTMParams(still, replace(still, bias=jnp.full(n, bias)), still, replace(still, input=jnp.eye(n)))
        return log_input_gradients(cell.step, params, state, xs, output=lambda state: state.c)["frobenius"]

    logs = np.stack([measure(bias) for bias in biases])  # one program
    lag = np.arange(steps - 1, -1, -1)
    # c_t = σ(b) c_{t-1} + σ(0) tanh(x_t), with tanh′(0) = 1
    predicted = 0.5 * math.log(n) - math.log(2.0) - lag[None] * np.log1p(np.exp(-biases))[:, None]
    yield worst(
        "LSTM with zero recurrent weights, forget bias b: ∂c_T/∂x_t = σ(b)^(T-t) / 2, b = -1, 0, 2, every t",
        "Gers, Schmidhuber, Cummins 2000; σ(0) = ½", predicted, logs,
        EPS64 * (4 * lag[None] + np.abs(predicted) + 4), "σ(b) and the product round once a step, the log by its size",
    )  # fmt: skip


def steps_of_a_loss(full: bool) -> Iterator[Item]:
    """What came through each step adds up to the gradient of the whole."""
    n, d, steps = 5, 2, 12
    cell = make_cell("tanh", n, d)
    rng = np.random.default_rng(3)
    params = gaussian(rng, n, d, 1.3, 0.2)
    h0, xs, target = (jnp.asarray(rng.standard_normal(shape)) for shape in ((n,), (steps, d), (steps, n)))

    def loss(states: Any) -> Any:
        return jnp.sum((states - target) ** 2)

    def of_params(params: Any) -> Any:
        def advance(h: Any, x: Any) -> Any:
            h = cell.step(params, h, x)
            return h, h

        return loss(jax.lax.scan(advance, h0, xs)[1])

    def whole(nudges: Any) -> Any:
        def advance(h: Any, inputs: Any) -> Any:
            x, nudge = inputs
            h = cell.step(params, h, x) + nudge
            return h, h

        return loss(jax.lax.scan(advance, h0, (xs, nudges))[1])

    split = log_parameter_gradients(cell.step, params, h0, xs, loss)
    states = log_state_gradients(cell.step, params, h0, xs, loss)
    gradient, by_states = jax.jit(jax.grad(of_params))(params), jax.jit(jax.grad(whole))(jnp.zeros((steps, n)))
    norms = [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(gradient)]
    largest = [float(jnp.exp(jnp.max(leaf))) * steps for leaf in jax.tree.leaves(split.by_leaf)]
    cancellation = np.array(largest) / np.array(norms)
    yield worst(
        f"contributions of all {steps} steps to ∂L/∂θ sum to jax.grad of the whole: tanh, each of W, U, b", CHAIN_RULE,
        np.log(norms), np.array([float(leaf) for leaf in jax.tree.leaves(split.by_leaf_of_sum)]),
        (n + 8) * steps * EPS64 * cancellation, "each step rounds by (n + 8) eps, times the cancellation in the sum",
    )  # fmt: skip
    yield worst(
        "‖∂L/∂h_t‖ through all later steps equals that from jax.grad with a nudge at every state, every t", CHAIN_RULE,
        np.log(np.linalg.norm(by_states, axis=1)), np.asarray(states), (n + 8) * steps * 10 * EPS64,
        "each step rounds by (n + 8) eps; ten for the cancellation of a vector in W",
    )  # fmt: skip


def memory(full: bool) -> Iterator[Item]:
    """h_t = λ h_{t-1} + x_t: the sensitivity to λ grows faster than the state as λ approaches 1."""
    steps, networks = 400, 4000 if full else 1000
    rates = np.array([0.5, 0.9, 0.95])

    def step(rate: Any, h: Any, x: Any) -> Any:
        return rate * h + x

    @jax.jit
    @jax.vmap
    def measure(rate: Any, xs: Any) -> Any:
        return log_parameter_sensitivity(step, rate, jnp.zeros(()), xs).log_norm

    ones = np.asarray(measure(jnp.asarray(rates), jnp.ones((len(rates), steps))))
    k, r = np.arange(1, steps)[None], rates[:, None]
    t, exact = k + 1, np.cumsum(k * r ** (k - 1), axis=1)
    yield worst(
        "h_t = λ h_{t-1} + 1: dh_t/dλ = Σ_k k λ^(k-1), λ = 0.5, 0.9, 0.95, every t", MEMORY, np.log(exact),
        ones[:, 1:], 4 * t * EPS64, "two roundings a step, of terms of one sign, on both sides",
    )  # fmt: skip
    noise = np.random.default_rng(5).standard_normal((networks, steps))
    for rate in rates[1:]:
        logs = np.asarray(measure(jnp.full(networks, rate), jnp.asarray(noise)))[:, -1]
        squares = np.exp(2 * logs)
        mean = (1 + rate**2) / (1 - rate**2) ** 3
        yield Comparison(
            f"white noise of variance 1: log⟨(dh_t/dλ)²⟩ → log((1 + λ²) / (1 - λ²)³), λ = {rate:g}, t = {steps}",
            MEMORY, math.log(mean), math.log(squares.mean()),
            STANDARD_ERRORS * standard_error(squares) / mean + steps**3 * rate ** (2 * steps),
            f"{STANDARD_ERRORS:g} standard errors of the mean over {networks} sequences; the rest of the series",
        )  # fmt: skip


def looking_ahead(full: bool) -> Iterator[Item]:
    """A mask that is off by one is caught, at its pairs and at no other."""
    steps = 8
    xs = jnp.asarray(np.random.default_rng(1).standard_normal((steps, 3)))

    def attention(xs: Any, ahead: int) -> Any:
        scores = jnp.where(jnp.tril(jnp.ones((steps, steps), bool), ahead), xs @ xs.T, -jnp.inf)
        return jax.nn.softmax(scores) @ xs

    for ahead in (0, 1):
        try:
            check_causality(lambda xs, ahead=ahead: attention(xs, ahead), xs, probes=1)
            found = 0
        except CausalityError as error:
            found = len(error.pairs) if set(map(tuple, error.pairs.tolist())) == _next(steps) else -1
        yield Comparison(
            f"masked attention that looks ahead by {ahead}: pairs (t, t + 1) that are reported, of T = {steps}",
            "causality: y_t depends on x_t' for t' ≤ t alone", ahead * (steps - 1), found, 0.0, "exact zeros",
        )  # fmt: skip


def _next(steps: int) -> set[tuple[int, int]]:
    return {(t, t + 1) for t in range(steps - 1)}
