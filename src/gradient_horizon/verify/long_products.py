"""Checks of long products: small singular values, exact zeros, sums of logs, growth and decay at different times."""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.measures.largest_exponent import largest_lyapunov_exponent
from gradient_horizon.measures.lyapunov import lyapunov_exponents
from gradient_horizon.measures.singular_values import log_singular_values, log_singular_values_at_lags
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.verify.comparison import Comparison, Item, worst
from gradient_horizon.verify.samples import linear, sech_squared

EPS32, EPS64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)
FACTORS = "each factor is exact to n eps κ(J_t), and the steps add up"


def small_singular_values(full: bool) -> Iterator[Item]:
    """Singular values too small to be resolved in an explicitly formed product."""
    n, steps = 4, 100
    rng = np.random.default_rng(1)
    turns = [np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(steps + 1)]
    scales = np.array([1.0, 0.3, 0.02, 1e-3])
    measure = jax.jit(lambda xs: log_singular_values(linear, None, jnp.zeros(n), xs))

    xs = np.array([turns[t + 1] @ np.diag(scales) @ turns[t].T for t in range(steps)])
    yield worst(
        "all log σ_i of a product of 100 factors whose condition number is 10³⁰⁰", "M = Q_T D^T Q_0ᵀ, D diagonal",
        steps * np.log(scales), measure(xs), n * steps * EPS64 * scales[0] / scales[-1], FACTORS,
    )  # fmt: skip
    g = 1.3
    yield worst(
        "W = gQ: all singular values of M are g^τ, τ = 100", "Q preserves lengths", steps * math.log(g),
        measure(g * np.array(turns[1:])), n * steps * EPS64, FACTORS,
    )  # fmt: skip
    w, h, slopes = 1.5 * rng.standard_normal((n, n)) / math.sqrt(n), np.ones(n), []
    for _ in range(steps):
        slopes.append(sech_squared(w @ h))
        h = np.tanh(w @ h)
    jacobians = np.array(slopes)[:, :, None] * w
    yield Comparison(
        "sum of all log σ_i(M) = T log|det W| + Σ_t Σ_i log φ′(a_t,i), tanh, T = 100", "determinant of a product",
        steps * float(np.linalg.slogdet(w)[1]) + float(np.sum(np.log(slopes))), float(np.sum(measure(jacobians))),
        float(n * EPS64 * sum(np.linalg.cond(jacobian) for jacobian in jacobians)), FACTORS,
    )  # fmt: skip


def long_sums(full: bool) -> Iterator[Item]:
    """Sums of many equal logs, which a single float32 always rounds the same way."""
    steps = 1_000_000 if full else 100_000
    rates = np.array([1.3, 0.7, 0.01], np.float32)
    h = jnp.zeros(3, jnp.float32)
    measure = jax.jit(lambda w: lyapunov_exponents(linear, w, h, steps=steps + 1000, transient=1000))
    spectrum = measure(np.diag(rates))
    yield worst(
        f"λ_i of a diagonal matrix over {steps} steps in float32 are log 1.3, log 0.7, log 0.01",
        "W^T = diag(w_i^T)", np.log(rates.astype(np.float64)), spectrum.exponents,
        EPS32 * (1.0 + np.abs(np.log(rates.astype(np.float64)))),
        "the product and its log round by eps at each step, the exponent once, the sum of the logs not at all",
    )  # fmt: skip
    yield worst(
        "the standard errors of these exponents are 0, since the rates never change", "all groups of steps are equal",
        0.0, spectrum.standard_error, EPS32, "rounding of one step: eps",
    )  # fmt: skip


def exact_zeros(full: bool) -> Iterator[Item]:
    """Exact zeros: a shift register, which loses one cell at each step, and a nilpotent block matrix."""
    n, lags = 8, (3, 8, 12)
    shift = np.eye(n, k=1)
    logs = jax.jit(lambda w: log_singular_values_at_lags(linear, w, jnp.zeros(n), steps=lags[-1], lags=lags))(shift)
    predicted = [[0.0] * max(n - lag, 0) + [-math.inf] * min(n, lag) for lag in lags]
    yield worst(
        "a shift register of 8 cells: after τ = 3, 8, 12 steps log σ_i is 0 for the 8 - τ that remain, else -inf",
        "W^τ has ones on the τth superdiagonal alone", predicted, logs, 4 * EPS64,
        "rounding of the logs: 4 eps; -inf is exact",
    )  # fmt: skip
    blocks = np.kron(np.eye(3, k=1), np.ones((2, 2))) * np.random.default_rng(1).standard_normal((6, 6))
    lags = (1, 2, 3, 5)
    logs = jax.jit(lambda w: log_singular_values_at_lags(linear, w, jnp.zeros(6), steps=lags[-1], lags=lags))(blocks)
    yield worst(
        "three blocks of two units, each of which reads the next one alone: number of σ_i that are 0 after τ = 1, 2, 3,"
        " 5 steps", "W^τ has 3 - τ blocks", [min(2 * lag, 6) for lag in lags], np.isneginf(logs).sum(axis=1), 0.0,
        "exact",
    )  # fmt: skip
    spectrum = jax.jit(lambda w: lyapunov_exponents(linear, w, jnp.zeros(n), steps=20))(shift)
    yield worst(
        "all Lyapunov exponents of the shift register are -inf", "W^8 = 0", -math.inf, spectrum.exponents, 0.0, "exact",
    )  # fmt: skip


def hand_over(full: bool) -> Iterator[Item]:
    """Parts that shrink and grow at different times, beyond the range of floats."""
    s = np.float32(2.0**-10)
    xs = np.array([[s, 1.0]] * 40 + [[1.0, s]] * 60, np.float32)
    h, lags = jnp.zeros(2, jnp.float32), (40, 80, 100)

    def step(_, h, x):
        return h * x

    logs = jax.jit(lambda xs: log_singular_values_at_lags(step, None, h, xs, lags=lags))(xs)
    bits = [np.sort(np.log2(xs[-lag:].astype(np.float64)).sum(axis=0))[::-1] for lag in lags]
    yield worst(
        "two units; one falls to 2⁻⁴⁰⁰ and then the other to 2⁻⁶⁰⁰: log σ_i at lags 40, 80, 100, float32",
        "M is diagonal", np.array(bits) * math.log(2), logs, EPS32 * np.abs(bits),
        "rounding of the result: eps |log σ|",
    )  # fmt: skip
    trajectory = rollout(step, None, h, xs)
    one = jax.jit(lambda xs: lyapunov_exponents(step, None, h, xs, count=1).exponents[0])(xs)
    vector = jax.jit(lambda xs: largest_lyapunov_exponent(step, None, h, trajectory, xs))(xs)
    yield worst(
        "their largest exponent from one vector is -4 log 2, that of the first, 2⁻⁴⁰⁰ of the second at step 40",
        "M is diagonal", -4 * math.log(2), [one, vector], 3.0 / len(xs),
        "each unit's share of the initial vector: at least e⁻³",
    )  # fmt: skip


def products_that_hand_over(full: bool) -> Iterator[Item]:
    """Tangent vectors, and entries of one vector, that grow and decay at different times."""
    for dtype, few in ((np.float32, (2, 16)), (np.float64, (16,))):
        for n in (2, 5, 16, 64) if full else few:
            steps, rng = (60, np.random.default_rng(n)) if n > 2 else (350, np.random.default_rng(n))
            # A unit falls by 2^-7 per step (float64: 2^-60) up to its own turning point and then rises; the next one
            # does the opposite. The lead changes while one is further below the other than floats reach.
            turn = rng.integers(steps // 4, steps // 3, n)
            rate = 7 if dtype == np.float32 else 60
            bits = np.where(np.arange(steps)[:, None] < turn, -rate, rate) * (-1) ** np.arange(n)
            mix = rng.standard_normal((n, n)).astype(dtype)
            xs = np.ldexp(np.ones((), dtype), bits)[:, :, None] * np.eye(n, dtype=dtype)
            mixed = np.concatenate([mix[None], xs])
            digits = np.finfo(dtype).bits
            for what, factors, anchor in (
                ("units", xs, "start"), ("units", xs, "end"), ("units in every vector", mixed, "start"),
            ):  # fmt: skip
                norms = ("frobenius", "spectral") if factors is xs else ("frobenius",)
                measure = jax.jit(
                    lambda xs, h, anchor=anchor, norms=norms: log_jacobian_norms(
                        linear, None, h, xs, anchor=anchor, norms=norms
                    )
                )
                logs = measure(factors, jnp.zeros(n, dtype))
                running = np.cumsum(bits if anchor == "start" else bits[::-1], axis=0)
                sizes = np.square(mix.astype(np.float64)) if factors is mixed else np.eye(n)
                exact = _log_norms_of_rows(running, sizes)
                rounding = np.finfo(dtype).eps * (np.abs(exact) + n + 8.0)
                yield worst(
                    f"{n} {what} that hand over, ‖M‖_F at every lag from the {anchor}, float{digits}",
                    "M is a diagonal matrix" + (" times a fixed one" if factors is mixed else ""), exact,
                    logs["frobenius"][-len(exact):], rounding, "rounding of the first factor and of the result",
                )  # fmt: skip
                if factors is xs:
                    yield worst(
                        f"their spectral norms, N = {n}, from the {anchor}, float{digits}", "M is diagonal",
                        running.max(axis=1) * math.log(2), logs["spectral"],
                        np.finfo(dtype).eps * (np.abs(exact) + 16.0), "tolerance of the search: 16 eps",
                    )  # fmt: skip


def _log_norms_of_rows(bits: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """log ‖diag(2^`bits`) R‖_F at every lag, where `squares` holds the squared entries of R."""
    logs = 2.0 * math.log(2.0) * bits + np.log(squares.sum(axis=1))
    return 0.5 * np.logaddexp.reduce(logs, axis=1)
