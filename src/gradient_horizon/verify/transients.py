"""Checks of transient growth, departure from normality, Kreiss constants and finite-time exponents."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar

from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.measures.normality import henrici_departure, kreiss_lower_bound
from gradient_horizon.measures.overshoot import TransientGrowth, transient_growth
from gradient_horizon.measures.window_exponents import finite_time_exponents
from gradient_horizon.numerics.keys import fixed_orthogonal
from gradient_horizon.verify.comparison import STANDARD_ERRORS, Comparison, Item, extrapolated, worst
from gradient_horizon.verify.samples import linear

EPS64 = float(np.finfo(np.float64).eps)
TREFETHEN = "Trefethen and Embree 2005, chapters 14 to 18"
N, STEPS = 4, 60  # of all matrices here, so that one program measures them
# (a, b) of [[a, b], [0, a]], twice along the diagonal
BLOCKS = ((0.5, 3.0), (0.9, 1.0), (0.9, 1e-6), (0.97, 0.4))


def _block(diagonal: float, above: float) -> Float[np.ndarray, "4 4"]:
    return np.kron(np.eye(2), [[diagonal, above], [0.0, diagonal]])


def _growth(matrix: Float[np.ndarray, "4 4"]) -> TransientGrowth:
    return transient_growth(linear, jnp.asarray(matrix), jnp.zeros(N), steps=STEPS, transient=STEPS // 2, samples=2)


def _norm_of_triangle(ratio: Any) -> Any:
    """‖[[1, c], [0, 1]]‖₂."""
    return ratio / 2 + np.sqrt(1 + ratio**2 / 4)


def _kreiss(diagonal: float, above: float) -> float:
    """K of [[a, b], [0, a]]: by symmetry the supremum lies on z > 1, where (z - A)⁻¹ = [[1, b/d], [0, 1]] / d."""

    def negative(distance: float) -> float:
        gap = 1 + distance - diagonal
        return -distance / gap * float(_norm_of_triangle(above / gap))

    found = minimize_scalar(negative, bounds=(0.0, 20.0), method="bounded", options={"xatol": 1e-12})
    return max(-float(found.fun), 1.0)


def jordan_blocks(full: bool) -> Iterator[Item]:
    """Powers, departure and Kreiss constant of [[a, b], [0, a]]."""
    lags, logs, predicted = np.arange(1, STEPS + 1), [], []
    for diagonal, above in BLOCKS:
        logs.append(np.asarray(_growth(_block(diagonal, above)).log_norm))
        predicted.append(lags * math.log(diagonal) + np.log(_norm_of_triangle(lags * above / diagonal)))
    yield worst(
        "A = [[a, b], [0, a]]: ‖A^k‖₂ = a^k (c/2 + √(1 + c²/4)), c = k b/a, k = 1 .. 60",
        "A^k = [[a^k, k b a^(k-1)], [0, a^k]]", predicted, logs, (N + 8) * EPS64 * lags * np.ones((len(BLOCKS), 1)),
        "positive terms: (n + 8) eps a step",
    )  # fmt: skip
    matrices = [_block(*block) for block in BLOCKS]
    yield worst(
        "A = [[a, b], [0, a]]: Henrici's departure from normality is b (twice along a diagonal: b √2), b down to 1e-6",
        "Henrici 1962, Numer. Math. 4, 24", [2**0.5 * above for _, above in BLOCKS],
        [henrici_departure(matrix).absolute for matrix in matrices],
        [N * EPS64 * np.linalg.norm(matrix) for matrix in matrices], "backward error of a Schur form: n eps ‖A‖_F",
    )  # fmt: skip
    exact, bounds = [_kreiss(*block) for block in BLOCKS], [kreiss_lower_bound(matrix).bound for matrix in matrices]
    yield worst(
        "A = [[a, b], [0, a]]: the lower bound on its Kreiss constant comes close to it", TREFETHEN,
        np.log(exact), np.log(bounds), 1e-5,
        "the search's last stride in log(|z| - 1) is below 3e-3, and K is stationary there: its square",
    )  # fmt: skip
    yield worst(
        "A = [[a, b], [0, a]]: and never exceeds it", TREFETHEN, exact, bounds, 8 * EPS64 * np.array(exact),
        "rounding of the closed form: the bound itself is lowered by n eps ‖z - A‖_F", bound=True,
    )  # fmt: skip


def normal_matrices(full: bool) -> Iterator[Item]:
    """Symmetric and orthogonal matrices and rotations by different scales: overshoot 1, departure 0, Kreiss constant 1.

    The leading moduli are so far apart from the others that λ₁ is exact after 30 steps: 0.32^60.
    """
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((N, N)))[0]
    rotations = np.kron(np.diag([0.95, 0.2]), [[0.6, -0.8], [0.8, 0.6]])
    matrices = [0.9 * turn, turn @ np.diag([0.95, -0.3, 0.2, 0.1]) @ turn.T, turn @ rotations @ turn.T]
    growth = [_growth(matrix) for matrix in matrices]
    yield worst(
        "normal W (orthogonal, symmetric, scaled rotations): max_k ‖W^k‖₂ exp(-λ₁ k) = 1", TREFETHEN, 0.0,
        [one.log_overshoot for one in growth], 2 * N * STEPS * EPS64,
        "λ₁ and the logs of the norms round by n eps a step each",
    )  # fmt: skip
    yield worst(
        "normal W: departure from normality 0, relative to ‖W‖_F", "Henrici 1962, Numer. Math. 4, 24", 0.0,
        [henrici_departure(matrix).relative for matrix in matrices], N**2 * EPS64,
        "the entries of W and the Schur form round: n² eps",
    )  # fmt: skip
    yield worst(
        "normal W with ρ(W) ≤ 1: Kreiss constant 1", "‖(z - W)⁻¹‖ = 1/dist(z, eigenvalues) ≤ 1/(|z| - 1)", 1.0,
        [kreiss_lower_bound(matrix).bound for matrix in matrices], 0.0, "exact: rounding can only lower it",
    )  # fmt: skip


def nilpotent(full: bool) -> Iterator[Item]:
    """A shift register."""
    shift, lags = np.eye(N, k=1), np.arange(1, STEPS + 1)
    norms = log_jacobian_norms(
        linear, jnp.asarray(shift), jnp.zeros(N), steps=STEPS, anchor="start", norms=("spectral",)
    )
    yield worst(
        f"a shift register of {N} cells: log ‖W^k‖₂ = 0 for k < {N}, then exactly -inf",
        "W^k has ones on the kth superdiagonal alone", np.where(lags < N, 0.0, -np.inf), norms["spectral"],
        16 * EPS64, "the search for the norm ends within 16 eps; -inf is exact",
    )  # fmt: skip
    yield Comparison(
        f"a shift register of {N} cells: departure √(n - 1), all of ‖W‖_F", "no eigenvalue but 0", math.sqrt(N - 1),
        float(henrici_departure(shift).absolute), 4 * EPS64, "rounding of a root: 4 eps",
    )  # fmt: skip


def kreiss_inequality(full: bool) -> Iterator[Item]:
    """The Kreiss matrix theorem, K ≤ sup_k ‖A^k‖₂ ≤ e n K, and the conditioning of a parallel evaluation."""
    rng, bounds, suprema, growth, matrices = np.random.default_rng(4), [], [], [], []
    for _ in range(16 if full else 4):
        matrix = np.triu(rng.standard_normal((N, N)), -1)
        matrix *= 0.9 / np.abs(np.linalg.eigvals(matrix)).max()
        matrices.append(matrix)
        growth.append(_growth(matrix))
        suprema.append(float(np.exp(growth[-1].log_peak)))
        bounds.append(float(kreiss_lower_bound(matrix).bound))
    rounding = N * STEPS * EPS64
    yield worst(
        f"random A, n = {N}, ρ(A) = 0.9: lower bound on K(A) ≤ sup_k ‖A^k‖₂", f"Kreiss 1962; {TREFETHEN}", suprema,
        bounds, rounding * np.array(suprema), "rounding of the power: n eps a step", bound=True,
    )  # fmt: skip
    yield worst(
        f"random A, n = {N}, ρ(A) = 0.9: sup_k ‖A^k‖₂ ≤ e n K(A)", "Spijker 1991, BIT 31, 551; K from its lower bound",
        math.e * N * np.array(bounds), suprema, 1e-5 * np.array(suprema), "as far as the search may miss K: 1e-5 of it",
        bound=True,
    )  # fmt: skip
    block = np.eye(STEPS * N) - np.kron(np.eye(STEPS, k=-1), matrices[0])
    rate, gain = math.exp(float(growth[0].exponent)), math.exp(float(growth[0].log_overshoot_bound))
    yield Comparison(
        f"Newton over all {STEPS} steps at once: ‖L⁻¹‖₂ ≤ a (1 - e^(λ₁ T)) / (1 - e^λ₁), a the overshoot",
        "Gonzalez et al. 2025, arXiv:2508.16817: L has I on its diagonal and -J_t below",
        gain * (1 - rate**STEPS) / (1 - rate), 1 / float(np.linalg.svd(block, compute_uv=False)[-1]),
        STEPS * N * EPS64 * gain, "rounding of the singular values: T n eps", bound=True,
    )  # fmt: skip


def random_departures(full: bool) -> Iterator[Item]:
    """Departure from normality of Gaussian matrices."""
    seeds, sizes = (1000, (32, 64)) if full else (200, (16, 32))
    rng = np.random.default_rng(6)
    relative = []
    for n in sizes:
        matrices = rng.standard_normal((seeds, n, n)) / math.sqrt(n)
        found = jax.jit(lambda each: jax.lax.map(lambda one: henrici_departure(one).relative, each))(matrices)
        relative.append(np.asarray(found) ** 2)
    limit, leeway = extrapolated(np.log(2 * relative[0]), np.log(2 * relative[1]), 1.0)
    yield Comparison(
        "Gaussian W: departure² / ‖W‖_F² → ½", "circular law: Σ|λ_i|² → N/2; Girko 1984", 0.5, 0.5 * math.exp(limit),
        0.5 * float(leeway), f"N = {sizes[0]} and {sizes[1]} extrapolated with a correction of order 1/N;"
        f" {STANDARD_ERRORS:g} standard errors of {seeds} matrices each, and the square of the correction",
    )  # fmt: skip
    n = sizes[0]
    parts = rng.standard_normal((2, seeds, n, n)) / math.sqrt(2 * n)
    squares = jax.jit(lambda each: jax.lax.map(lambda one: henrici_departure(one).absolute ** 2, each))(
        parts[0] + 1j * parts[1]
    )
    variance = (n - 1) / (2 * n)
    yield Comparison(
        f"complex Gaussian W, N = {n}: mean of departure² = (N - 1)/2",
        "its Schur form has N (N - 1)/2 independent normal entries above the diagonal: Mehta 2004, appendix 35",
        (n - 1) / 2, float(np.mean(squares)), STANDARD_ERRORS * math.sqrt(variance / seeds),
        f"{STANDARD_ERRORS:g} standard errors of {seeds} matrices, of variance (N - 1)/2N each; exact at this N",
    )  # fmt: skip


def windows(full: bool) -> Iterator[Item]:
    """Finite-time exponents: their mean, and maps whose exponents and fluctuations are known."""
    count, size = 10, 40
    factors = np.random.default_rng(5).standard_normal((count * size, N, N)) / math.sqrt(N)
    found = finite_time_exponents(linear, None, jnp.zeros(N), jnp.asarray(factors), window=size)
    frame, logs = fixed_orthogonal(N), []
    for factor in factors:
        frame, r = np.linalg.qr(factor @ frame)
        logs.append(np.log(np.abs(np.diag(r))))
    parts = np.reshape(logs, (count, size, N)).mean(axis=1)
    parts = parts[:, np.argsort(-parts.mean(axis=0))]
    rounding = N * EPS64 * float(np.mean(np.linalg.cond(factors)))
    yield worst(
        f"finite-time exponents of fresh Gaussian matrices in {count} windows of {size} steps: those of a QR at every"
        f" step, N = {N}", "Benettin et al. 1980", parts, found.exponents, count * rounding,
        "n eps κ(J_t) a step, and for a window that of the frame that all steps before have left",
    )  # fmt: skip
    yield worst(
        "finite-time exponents: their mean over the windows is the whole spectrum", "log R_ii of J_T ⋯ J_1 telescopes",
        np.sort(np.mean(logs, axis=0))[::-1],
        np.mean(found.exponents, axis=0), rounding, "n eps κ(J_t) a step",
    )  # fmt: skip
    steps, window = (100_000, 10) if full else (20_000, 10)
    start = jnp.array([0.1234])
    logistic = finite_time_exponents(lambda _, x, __: 4 * x * (1 - x), None, start, steps=steps, window=window)
    yield Comparison(
        f"x → 4x(1 - x): λ = log 2, over {steps} steps", "Ulam and von Neumann 1947: conjugate to the tent map",
        math.log(2), float(logistic.mean[0]), math.log(2000.0 * steps) / steps,
        "log|f′(x)| = log 2 + g(f(x)) - g(x), g = ½ log x(1 - x), telescopes: (log 2000 T)/T, exceeded by one start in"
        " 1000",
    )  # fmt: skip
    spread = math.pi / math.sqrt(6.0) / window
    yield Comparison(
        f"x → 4x(1 - x): standard deviation of the exponent over windows of {window} steps is π/(√6 · {window})",
        "variance of g under the arcsine law: π²/12, at both ends of a window", spread, float(logistic.spread[0]),
        STANDARD_ERRORS * spread * math.sqrt(12.0 * window / steps),
        f"{STANDARD_ERRORS:g} standard errors of a standard deviation: √((κ - 1)/4W) of it, with a kurtosis κ below 12"
        " and neighbouring windows, which share an end, counted as four",
    )  # fmt: skip
