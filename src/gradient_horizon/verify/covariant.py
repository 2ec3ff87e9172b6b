"""Checks of covariant Lyapunov vectors: the definition itself, cycles, the inverse map, and the Hénon map."""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gradient_horizon.measures.covariant_vectors import CovariantVectors, covariant_lyapunov_vectors
from gradient_horizon.measures.lyapunov import lyapunov_exponents
from gradient_horizon.verify.comparison import STANDARD_ERRORS, Comparison, Item, worst
from gradient_horizon.verify.samples import linear, sech_squared

EPS = float(np.finfo(np.float64).eps)
GINELLI = "Ginelli et al. 2007, eq. 3"
N, STEPS, SIDE = 4, 360, 90  # units; steps; steps that are discarded on either side
A, B = 1.4, 0.3  # of the Hénon map


def _vectors(factors: Float[np.ndarray, "T n n"]) -> CovariantVectors:
    """Of h ← J_t h: one compiled program for all checks of one size."""
    n = factors.shape[1]
    result = covariant_lyapunov_vectors(
        linear, None, jnp.zeros(n), jnp.asarray(factors), transient=SIDE, backward_transient=SIDE
    )
    return jax.tree.map(np.asarray, result)


def _between(ones: Any, others: Any) -> Float[np.ndarray, "..."]:
    """The angles between the lines along the last axis but one."""
    ones, others = (part / np.linalg.norm(part, axis=-2, keepdims=True) for part in (ones, others))
    inner = np.sum(ones * others, axis=-2, keepdims=True)
    return np.arctan2(np.linalg.norm(others - inner * ones, axis=-2), np.abs(inner[..., 0, :]))


@lru_cache(maxsize=1)
def _network() -> tuple[Float[np.ndarray, "T n n"], CovariantVectors]:
    """The step Jacobians of a driven tanh network, formed in NumPy, and its covariant vectors."""
    rng = np.random.default_rng(11)
    w, drive = 1.7 * rng.standard_normal((N, N)) / math.sqrt(N), rng.standard_normal((STEPS, N))
    h, factors = np.zeros(N), []
    for x in drive:
        a = w @ h + x
        factors.append(sech_squared(a)[:, None] * w)
        h = np.tanh(a)
    return np.array(factors), _vectors(np.array(factors))


def covariance(full: bool) -> Iterator[Item]:
    """Vectors under Jacobians that change from step to step are carried into each other."""
    factors, found = _network()
    at = factors[found.time]
    images = at @ found.vectors
    loss = np.linalg.norm(at, axis=(1, 2))[:, None] / np.linalg.norm(images, axis=1)
    yield worst(
        f"J_t v_i(t) is parallel to v_i(t + 1): angle, all {N} vectors of a driven tanh network, every step", GINELLI,
        0.0, _between(images[:-1], found.vectors[1:]),
        8 * N * EPS * (1 + loss[:-1]), "8 n eps for the QR and the sweep, times ‖J‖ / ‖J v‖",
    )  # fmt: skip
    back = _vectors(np.linalg.inv(factors)[::-1])
    # h_t there is h_{T-t} back
    angles = _between(found.vectors[1:], back.vectors[:0:-1, :, ::-1])
    left = [part for one in (found, back) for part in (one.forward_error, one.backward_error)]
    yield worst(
        "the inverse map, which runs backwards, has the same vectors in reverse order: angle, every step",
        "v_i grows at λ_i forwards and at -λ_i backwards (Oseledets 1968)", 0.0, angles,
        10 * float(np.sum(np.max(left, axis=1))) + 1e3 * N * EPS * float(np.linalg.cond(factors).max()),
        "ten times what the starts and ends have left, as reported; n eps κ(J), over 10³ steps",
    )  # fmt: skip


def eigenvectors(full: bool) -> Iterator[Item]:
    """For Jacobians that repeat, the vectors are eigenvectors of the product over a period."""
    rng = np.random.default_rng(12)
    moduli = np.array([1.8, -1.1, 0.7, 0.3])
    for period in (1, 3):
        others, basis = rng.standard_normal((period - 1, N, N)), rng.standard_normal((N, N))
        early = np.linalg.multi_dot([np.eye(N), *others[::-1], np.eye(N)])
        cycle = np.array([*others, basis @ np.diag(moduli**period) @ np.linalg.inv(basis) @ np.linalg.inv(early)])
        found = _vectors(np.tile(cycle, (STEPS // period, 1, 1)))
        # J_1 comes after the states at multiples of the period
        at = found.time % period == 0
        condition = np.linalg.cond(cycle).prod() * np.linalg.cond(basis)
        yield worst(
            "fixed W with real eigenvalues: v_i is its eigenvector: angle, all 4 vectors, every step" if period == 1
            else "a cycle of three random Jacobians: v_i is an eigenvector of their product: angle, every period",
            "J_{t+p} ⋯ J_{t+1} v_i = μ_i v_i", 0.0, _between(basis[None], found.vectors[at]),
            N * EPS * condition + math.exp(-SIDE * math.log(1.1 / 0.7)) * np.linalg.cond(basis),
            "n eps times the condition numbers of the factors and of the eigenvectors; e^{-(λ_i - λ_{i+1}) 90}",
        )  # fmt: skip
        if period == 1:
            yield worst(
                "and its rate is log|w_i| at every step", "W v_i = w_i v_i", np.log(np.abs(moduli)), found.rates,
                N * EPS * condition / np.abs(moduli), "the same, relative to |w_i|",
            )  # fmt: skip


def rates(full: bool) -> Iterator[Item]:
    """The means of the rates against the exponents of the package's own elimination."""
    factors, found = _network()
    counted = len(found.time) - 1
    spectrum = lyapunov_exponents(linear, None, jnp.zeros(N), jnp.asarray(factors[: SIDE + counted]), transient=SIDE)
    sines = np.abs(np.diagonal(np.linalg.qr(found.vectors)[1], axis1=1, axis2=2))
    yield worst(
        f"the means of the rates over {counted} steps are λ_i + log(sin θ_i(0) / sin θ_i(T)) / T, θ_i the angle between"
        " v_i and the span of those before", "‖J_T ⋯ J_1 v_i‖ = R_ii sin θ_i(0) / sin θ_i(T)",
        np.asarray(spectrum.exponents) + np.log(sines[0] / sines[-1]) / counted, found.rates[:-1].mean(axis=0),
        N * EPS * float(np.linalg.cond(factors).mean() + 1 / sines[[0, -1]].min()),
        "n eps κ(J) a step on either side; eps / sin θ at the ends",
    )  # fmt: skip


def henon(full: bool) -> Iterator[Item]:
    """The Hénon map at a = 1.4, b = 0.3, whose Jacobian has the determinant -b everywhere."""
    steps = 20000 if full else 5000
    state, factors = np.zeros(2), np.empty((steps, 2, 2))
    for _ in range(100):
        state = np.array([1 - A * state[0] ** 2 + state[1], B * state[0]])
    for t in range(steps):
        factors[t] = [[-2 * A * state[0], 1.0], [B, 0.0]]
        state = np.array([1 - A * state[0] ** 2 + state[1], B * state[0]])
    found = _vectors(factors)
    at, vectors = factors[found.time], found.vectors
    images = at @ vectors
    size = np.linalg.norm(at, axis=(1, 2))[:, None] / np.linalg.norm(images, axis=1)
    yield worst(
        "Hénon map, second vector: J_t v_2(t) is parallel to v_2(t + 1): angle, every step", GINELLI, 0.0,
        _between(images[:-1], vectors[1:])[:, 1], 16 * EPS * (1 + size[:-1, 1]),
        "8 n eps for the QR and the sweep, times ‖J‖ / ‖J v‖",
    )  # fmt: skip
    sines = np.abs(np.linalg.det(vectors))
    total = found.rates[:-1].sum(axis=1) + np.log(sines[1:] / sines[:-1])
    yield worst(
        "Hénon map: the two rates and the change of log sin of the angle between the vectors sum to log 0.3, every"
        " step", "|det J_t| = b; an area of sides v_1, v_2 and angle θ is sin θ", math.log(B), total,
        32 * EPS * (1 / sines[1:] + 1 / sines[:-1]), "rounding of the vectors, 16 eps, relative to sin θ",
    )  # fmt: skip
    groups = found.rates[: len(found.rates) // 10 * 10, 0].reshape(10, -1).mean(axis=1)
    yield Comparison(
        f"Hénon map: λ_1 = 0.41922, from the rates of the first vector over {len(found.rates)} steps",
        "Sprott 2003, Chaos and Time-Series Analysis, appendix A", 0.41922, float(found.exponents[0]),
        STANDARD_ERRORS * float(groups.std(ddof=1)) / math.sqrt(10), "5 standard errors, from 10 groups of steps",
    )  # fmt: skip
