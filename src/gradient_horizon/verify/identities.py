"""Checks of identities of Jacobian products and Lyapunov exponents, which hold to rounding for every network."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gradient_horizon import names
from gradient_horizon.cells.cell import make_cell
from gradient_horizon.cells.gru import GRUParams
from gradient_horizon.cells.lstm import LSTMParams, LSTMState
from gradient_horizon.cells.vanilla import plain_cell
from gradient_horizon.measures.all_pairs import log_jacobian_norms_all_pairs
from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.measures.lyapunov import lyapunov_exponents
from gradient_horizon.measures.nodes import node_split
from gradient_horizon.measures.states import flatten_step
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.numerics.arrays import Step
from gradient_horizon.numerics.derivatives import jvp_columns, vjp_rows
from gradient_horizon.theory.bounds import pascanu_bounds
from gradient_horizon.verify.comparison import CHAIN_RULE, ROUNDING, Comparison, Item, product_rounding, worst
from gradient_horizon.verify.samples import gaussian

EPS32, EPS64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)


def _whole_rollout(step: Step, params, h, xs):
    """∂h_t/∂h_s for all t and s, (T + 1, n, T + 1, n), by differentiating the whole rollout at once.

    A perturbation is added to every state, and the derivative is taken with respect to all of them.
    """
    flat, unravel = ravel_pytree(h)

    def states(nudges):
        def advance(state, inputs):
            x, nudge = inputs
            state = ravel_pytree(step(params, unravel(state), x))[0] + nudge
            return state, state

        first = flat + nudges[0]
        return jnp.concatenate([first[None], jax.lax.scan(advance, first, (xs, nudges[1:]))[1]])

    return jax.jacrev(states)(jnp.zeros((len(xs) + 1, flat.size), flat.dtype))


def oracle(full: bool) -> Iterator[Item]:
    """Every cell against reverse-mode differentiation of the whole rollout."""
    n, d, steps = 4, 2, 16 if full else 4
    rng = np.random.default_rng(4)
    gates = [gaussian(rng, n, d, 1.3, 0.2) for _ in range(4)]
    parameters = {"gru": GRUParams(*gates[:3]), "lstm": LSTMParams(*gates)}
    xs, h0 = rng.standard_normal((steps, d)), rng.standard_normal((2, n))
    for family in (names.VANILLA_CELLS, ("gru",), ("lstm",)):
        steps_of = [make_cell(name, n, d).step for name in family]

        @jax.jit
        def measure(place, params, h, xs, steps_of=steps_of):
            def step(params, h, x):  # a single program for all cells of the family
                return jax.lax.switch(place, steps_of, params, h, x)

            return log_jacobian_norms(step, params, h, xs)["frobenius"], _whole_rollout(step, params, h, xs)

        for place, name in enumerate(family):
            h = LSTMState(*h0) if name == "lstm" else h0[0]
            logs, whole = measure(place, parameters.get(name, gates[0]), h, xs)
            yield _oracle_line(name, np.asarray(logs), np.asarray(whole))


def _oracle_line(name: str, logs, whole) -> Comparison:
    steps = len(logs)
    factors = np.stack([whole[t + 1, :, t] for t in range(steps)])
    lags = range(1, steps + 1)
    sizes = [np.linalg.norm(whole[steps, :, steps - lag]) for lag in lags]
    return worst(
        f"oracle: {name}: log‖∂h_T/∂h_t‖_F equals that from jax.jacrev of the whole rollout, every lag",
        CHAIN_RULE, np.log(sizes), logs,
        [product_rounding(factors[-lag:], np.float64) for lag in lags], ROUNDING,
    )  # fmt: skip


def products(full: bool) -> Iterator[Item]:
    """One trajectory of a tanh network: cocycle, forward and reverse mode, bounds, all pairs, node split."""
    n, steps, split = 5, 8, 3
    cell = make_cell("tanh", n)
    rng = np.random.default_rng(5)
    params, h = gaussian(rng, n, scale=1.2, bias=0.2), jnp.asarray(rng.standard_normal(n))
    flat_step, _ = flatten_step(cell.step, h)

    @jax.jit
    def measure(params, h):
        states = rollout(cell.step, params, h, steps=2 * steps).states
        eye = jnp.eye(n, dtype=jnp.float64)

        def runs(start):
            return log_jacobian_norms(
                cell.step, params, start, steps=steps, anchor="start", norms=("frobenius", "spectral")
            )

        return {
            "factors": jax.vmap(lambda h: jvp_columns(flat_step, params, h, None, eye))(states[:steps]),
            "by_vjp": jax.vmap(lambda h: vjp_rows(flat_step, params, h, None, eye))(states[:steps]),
            "runs": jax.vmap(runs)(states[:steps]),
            "pairs": log_jacobian_norms_all_pairs(cell.step, params, h, steps=steps),
            "nodes": node_split(cell, params, h, steps=steps),
        }

    results = jax.tree.map(np.asarray, measure(params, h))
    factors, runs = results["factors"], results["runs"]
    late, early = (np.linalg.multi_dot(part[::-1]) for part in (factors[split:], factors[:split]))
    rounding = product_rounding(factors, np.float64)
    yield worst(
        f"cocycle: M(T,0) = M(T,s) M(s,0), T = {steps}, s = {split}", CHAIN_RULE,
        np.log(np.linalg.norm(late @ early)), runs["frobenius"][0, -1], 2 * rounding, f"{ROUNDING}, on both sides",
    )  # fmt: skip
    yield worst(
        "forward and reverse mode give the same J_t: ‖J_jvp - J_vjp‖_F relative to ‖J_t‖_F", CHAIN_RULE, 0.0,
        np.linalg.norm(factors - results["by_vjp"], axis=(1, 2)) / np.linalg.norm(factors, axis=(1, 2)),
        4 * EPS64, "each entry is one product of two numbers: 4 eps",
    )  # fmt: skip
    bound = np.cumsum([np.log(np.linalg.norm(factor, 2)) for factor in factors])
    lag = np.arange(1, steps + 1)
    yield worst(
        "bound: log σ_max(M) ≤ Σ_t log σ_max(J_t), every lag", "submultiplicative norm", bound, runs["spectral"][0],
        (n + 8) * EPS64 * lag, "(n + 8) eps a step", bound=True,
    )  # fmt: skip
    largest = float(np.linalg.norm(np.asarray(params.recurrent), 2))
    yield worst(
        "bound: log‖M‖₂ ≤ τ log(σ_max(W) max φ′), every lag", "Pascanu, Mikolov, Bengio 2013, section 2.1",
        lag * pascanu_bounds(largest, "tanh").log_bound, runs["spectral"][0], (n + 8) * EPS64 * lag,
        "(n + 8) eps a step", bound=True,
    )  # fmt: skip
    t, s = np.tril_indices(steps)
    cancellation = np.array(
        [product_rounding(factors[b : a + 1], np.float64) / EPS64 for a, b in zip(t, s, strict=True)]
    )
    yield worst(
        "all pairs: log‖∂h_t/∂h_s‖_F equals that of separate runs from each h_s, for all s < t", CHAIN_RULE,
        runs["frobenius"][s, t - s], results["pairs"][t, s], EPS64 * cancellation**2,
        "inner products of Gram matrices: eps times the square of the cancellation in the product",
    )  # fmt: skip
    vector, expected = np.ones(n), []
    for factor in factors[::-1]:
        vector = vector @ factor
        expected.append(np.log(np.linalg.norm(vector) / np.sqrt(n)))
    total = np.cumsum(results["nodes"]["activation"] + results["nodes"]["matrix"])
    of_vector = [
        product_rounding(factors[-k:], np.float64)
        * np.exp(np.log(np.linalg.norm(np.linalg.multi_dot([np.eye(n), *factors[-k:][::-1]]))) - expected[k - 1])
        for k in lag
    ]
    yield worst(
        "node split: the contributions of activations and matrices sum to log‖∂L/∂h_t‖, every lag", CHAIN_RULE,
        expected, total, of_vector, f"{ROUNDING} and the vector",
    )  # fmt: skip


def homogeneity(full: bool) -> Iterator[Item]:
    """A ReLU network without bias or input equals its own linearisation."""
    n, steps = 20, 40
    cell = make_cell("relu", n)
    rng = np.random.default_rng(6)
    params, h = gaussian(rng, n, scale=1.5), jnp.asarray(rng.standard_normal(n))
    flat_step, _ = flatten_step(cell.step, h)

    @jax.jit
    def measure(params, h):
        states = rollout(cell.step, params, h, steps=steps).states

        def advance(vector, state):
            return jvp_columns(flat_step, params, state, None, vector), None

        return jax.lax.scan(advance, h[:, None], states[:-1])[0][:, 0], states[-1]

    pushed, last = (np.asarray(values) for values in measure(params, h))
    yield worst(
        f"ReLU without bias or input: J_T ⋯ J_1 h_0 = h_T, T = {steps}, all {n} entries",
        "Euler: homogeneous of degree 1", last, pushed, n * steps * EPS64 * np.abs(last).max(),
        "both sides sum the same n terms a step: n T eps max|h_T|",
    )  # fmt: skip


def sum_rule(full: bool) -> Iterator[Item]:
    """The sum of all Lyapunov exponents, which is wrong for a spectrum that has lost its tail."""
    n, steps = (128, 2000) if full else (48, 1000)
    gains = np.array([0.8, 1.5, 3.0, 6.0])
    cell = plain_cell("tanh", n, 0)
    largest, error = [], []
    for dtype, eps in (("float32", EPS32), ("float64", EPS64)):
        unit = gaussian(np.random.default_rng(1), n, dtype=dtype)
        h = jnp.asarray(np.random.default_rng(2).standard_normal(n), dtype)

        def measure(g, unit, h, cell=cell):
            params = replace(unit, recurrent=g * unit.recurrent)
            spectrum = lyapunov_exponents(cell.step, params, h, steps=steps, log_det=cell.log_abs_det)
            states = rollout(cell.step, params, h, steps=steps).states
            return spectrum, jax.vmap(partial(cell.preactivation, params))(states[:-1])

        spectrum, a = jax.jit(jax.vmap(measure, (0, None, None)))(gains.astype(dtype), unit, h)
        w, a = np.asarray(unit.recurrent, np.float64), np.asarray(a, np.float64)
        slopes = np.mean(2 * (math.log(2) - np.logaddexp(a, -a)), axis=(1, 2))
        yield worst(
            f"sum rule in {dtype}: Σ_i λ_i / N = mean log|det J_t| / N, tanh, N = {n}, g = 0.8, 1.5, 3, 6",
            "log|det J_t| = log|det W| + Σ_i log φ′(a_i)",
            np.linalg.slogdet(w)[1] / n + np.log(gains) + slopes,
            np.mean(np.asarray(spectrum.exponents, np.float64), axis=1), eps * float(np.linalg.cond(w)),
            "backward error of an elimination: n eps κ(W) a step, over n units (Higham 2002, section 9.3)",
        )  # fmt: skip
        chaotic = list(gains).index(3.0)
        largest.append(float(spectrum.exponents[chaotic, 0]))
        error.append(float(spectrum.standard_error[chaotic, 0]))
    yield Comparison(
        f"chaos separates float32 and float64 trajectories, but their largest exponents agree: T = {steps}",
        "Oseledets 1968: one exponent for almost every trajectory", largest[1], largest[0], 6.5 * math.hypot(*error),
        "6.5 standard errors, each from 10 groups of steps: Student's t with 9 degrees of freedom exceeds it once in"
        " 10⁴",
    )  # fmt: skip
