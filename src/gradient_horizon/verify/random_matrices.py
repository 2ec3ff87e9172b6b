"""Checks of products of random matrices: exact laws at finite N for fresh matrices, large-N laws for powers of one."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import special

from gradient_horizon import experiments
from gradient_horizon.cells.cell import Cell, make_cell
from gradient_horizon.cells.vanilla import VanillaParams
from gradient_horizon.ensembles.blocks import map_networks
from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.measures.lyapunov import lyapunov_exponents
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.settings import validation
from gradient_horizon.theory.mean_field_theory import mean_field_horizon
from gradient_horizon.theory.random_matrices import (
    gaussian_log_growth_variance,
    gaussian_lyapunov_exponents,
    gaussian_power_norms,
    relu_log_growth,
)
from gradient_horizon.verify import plots
from gradient_horizon.verify.comparison import (
    STANDARD_ERRORS,
    Comparison,
    Item,
    Plot,
    extrapolated,
    standard_error,
    worst,
)
from gradient_horizon.verify.samples import linear, unit_networks

NEWMAN = "Newman 1986, Commun. Math. Phys. 103, 121"
HANIN = "Hanin and Nica 2020, Commun. Math. Phys. 376, 287"
K = f"{STANDARD_ERRORS:g}"


def newman_spectrum(full: bool) -> Iterator[Item]:
    """All Lyapunov exponents of products of fresh Gaussian matrices, at finite N."""
    n, steps = (64, 4000) if full else (32, 2000)
    xs = np.random.default_rng(5).standard_normal((steps, n, n)).astype(np.float32) / np.float32(math.sqrt(n))
    spectrum = jax.jit(lambda xs: lyapunov_exponents(lambda _, h, x: x @ h, None, jnp.zeros(n, jnp.float32), xs))(xs)
    predicted = gaussian_lyapunov_exponents(n, 1.0)
    spread = np.sqrt(special.polygamma(1, 0.5 * np.arange(n, 0, -1)) / 4 / steps)
    yield worst(
        f"fresh Gaussian W, N = {n}: λ_i = ½ [log 2 + ψ((N - i + 1)/2) - log N], all N exponents, T = {steps}",
        NEWMAN, predicted, spectrum.exponents, STANDARD_ERRORS * spread,
        f"{K} standard errors: log R_ii² is a log chi-square of N - i + 1, independent from step to step, so"
        " √(ψ₁((N - i + 1)/2) / 4T); exact at this N",
    )  # fmt: skip
    yield Plot(
        f"Lyapunov exponents of products of fresh Gaussian matrices (N = {n}, T = {steps}), and Newman's prediction"
        f" at this N with {K} standard errors.",
        partial(plots.newman, predicted, np.asarray(spectrum.exponents), STANDARD_ERRORS * spread),
    )


def _vector_growth(n: int, steps: int, seeds: int) -> dict[str, Float[np.ndarray, " S"]]:
    """Mean log growth per step of h_0 under fresh Gaussian weights, g = 1; for both cells h_T = J_T ⋯ J_1 h_0."""
    weights = np.random.default_rng(7).standard_normal((seeds, steps, n, n), np.float32) / np.float32(math.sqrt(n))

    def measure(xs: Any) -> Any:
        still, h = jnp.zeros((n, 0), jnp.float32), jnp.ones(n, jnp.float32)

        def growth(cell: Cell) -> Any:
            def step(_: Any, h: Any, w: Any) -> Any:
                return cell.step(VanillaParams(w, still, jnp.zeros(n, jnp.float32)), h)

            states = rollout(step, None, h, xs).states
            return jnp.log(jnp.linalg.norm(states[-1]) / jnp.linalg.norm(states[0])) / steps

        return {name: growth(make_cell(name, n)) for name in ("linear", "relu")}

    return map_networks(measure, weights, block=500)


def _mean_and_variance(
    what: str, source: str, growth: Float[np.ndarray, " S"], steps: int, mean: float, variance: float, fourth: float
) -> Iterator[Comparison]:
    """Lines for the mean and the variance; `fourth` is the excess kurtosis of the growth in one step."""
    count = growth.size
    yield Comparison(
        f"{what}: mean log growth of h_0 per step", source, mean, float(growth.mean()),
        STANDARD_ERRORS * math.sqrt(variance / (steps * count)),
        f"{K} standard errors of {count} networks × {steps} steps, from the predicted variance; exact at this N",
    )  # fmt: skip
    relative = math.sqrt(2.0 / (count - 1) + fourth / (steps * count))
    yield Comparison(
        f"{what}: its variance per step", source, variance, float(growth.var(ddof=1)) * steps,
        STANDARD_ERRORS * variance * relative,
        f"{K} standard errors of a variance over {count} networks, √(2/(S-1) + kurtosis/(T S)) of it",
    )  # fmt: skip


def vector_growth(full: bool) -> Iterator[Item]:
    """Growth of a fixed vector under fresh Gaussian matrices and under fresh ReLU layers."""
    n, steps, seeds = 16, 8, 20_000 if full else 2000
    growth = _vector_growth(n, steps, seeds)
    variance = gaussian_log_growth_variance(n)
    kurtosis = float(special.polygamma(3, 0.5 * n)) / 16.0 / variance**2
    yield from _mean_and_variance(
        f"fresh Gaussian W, N = {n}", NEWMAN, growth["linear"], steps,
        float(gaussian_lyapunov_exponents(n, 1.0)[0]), variance, kurtosis,
    )  # fmt: skip
    alive = growth["relu"][np.isfinite(growth["relu"])]  # with probability 2^-N per step all units shut
    law = relu_log_growth(n, 1.0)
    yield from _mean_and_variance(
        f"ReLU with fresh weights and masks, N = {n} (a chi-square with a binomial number of degrees of freedom)",
        HANIN, alive, steps, law.mean, law.variance, _relu_kurtosis(n),
    )  # fmt: skip


def _relu_kurtosis(n: int) -> float:
    """Excess kurtosis of ½ log of a chi-square of B degrees of freedom, B ~ Binomial(n, ½) conditioned on B > 0."""
    alive = np.arange(1, n + 1)
    weights = special.binom(n, alive) / (2.0**n - 1.0)
    first, second, third, fourth = (0.5 ** (k + 1) * special.polygamma(k, 0.5 * alive) for k in range(4))
    shift = first - weights @ first
    square = weights @ (second + shift**2)
    quartic = weights @ (fourth + 3 * second**2 + 4 * third * shift + 6 * second * shift**2 + shift**4)
    return float(quartic / square**2 - 3.0)


def powers(full: bool) -> Iterator[Item]:
    """Powers of one Gaussian matrix at g = 1."""
    steps, seeds, sizes = 4, *GAUSSIAN[full]

    def measure(network: dict[str, Any]) -> Any:
        w = network["weights"]
        norms = log_jacobian_norms(
            linear, w, jnp.zeros_like(w[0]), steps=steps, anchor="start", norms=("frobenius", "spectral")
        )
        return norms["frobenius"], norms["spectral"]

    logs = np.stack(map_networks(measure, unit_networks(sizes, seeds), block=16)).reshape(2, 2, seeds, steps)
    frobenius, spectral = np.moveaxis(logs, -1, 2)  # (sizes, lags, seeds) each
    lags = np.arange(1, steps + 1)
    law = gaussian_power_norms(lags)
    small, large = sizes
    origin = ORIGIN.format(small=small, large=large, seeds=seeds, power="1/N")
    square, leeway = extrapolated(2 * frobenius[0] - math.log(small), 2 * frobenius[1] - math.log(large), 1.0)
    yield worst(
        f"one Gaussian W, g = 1: log(‖W^t‖_F² / N) → 0, t = 1 .. {steps}",
        "Alexeev, Götze, Tikhomirov 2010: mean 1 of the Fuss-Catalan law", 2 * np.log(law.frobenius),
        square, leeway, origin,
    )  # fmt: skip
    edge, allowed = extrapolated(spectral[0], spectral[1], 2.0 / 3.0)
    yield worst(
        f"one Gaussian W, g = 1: log‖W^t‖₂ → ½ log((t+1)^(t+1)/t^t), t = 1 .. {steps}",
        "upper edge of the Fuss-Catalan law: Penson and Życzkowski 2011, Phys. Rev. E 83, 061118",
        np.log(law.spectral), edge, allowed,
        ORIGIN.format(small=small, large=large, seeds=seeds, power="N^(-2/3), a soft edge"),
    )  # fmt: skip
    roots = {n: np.exp(frobenius[place]).mean(axis=-1) / math.sqrt(n) for place, n in enumerate(sizes)}
    yield Plot(
        "Powers of one Gaussian matrix at g = 1: the mean square is constant, the worst case grows. Lines: the laws at"
        f" N → ∞. Dots: means over {seeds} matrices of each size, and extrapolated, with the tolerance.",
        partial(
            plots.powers,
            roots,
            {n: np.exp(spectral[place]).mean(axis=-1) for place, n in enumerate(sizes)},
            np.exp(edge),
            np.exp(edge) * allowed,
        ),
    )


def norm_and_radius(full: bool) -> Iterator[Item]:
    """The norm and the spectral radius of one matrix, which are easily confused, and the median gradient horizon."""
    n, g, seeds = 256 if full else 128, 0.6, 32
    dataset = _small_tanh_networks(n, g, seeds)
    norm, radius = dataset.largest_singular_value / g, dataset.spectral_radius / g
    yield Comparison(
        f"norm: largest singular value of a Gaussian W at g = 1, N = {n} (the radius is 1)", "Geman 1980: 2",
        2.0, float(norm.mean()), STANDARD_ERRORS * standard_error(norm) + 2.0 * n ** (-2.0 / 3.0),
        f"{K} standard errors of {seeds} networks, and 2 N^(-2/3), the width of the edge (Johnstone 2001)",
    )  # fmt: skip
    yield Comparison(
        f"radius: largest modulus of an eigenvalue of a Gaussian W at g = 1, N = {n} (the norm is 2)", "Girko 1984: 1",
        1.0, float(radius.mean()), STANDARD_ERRORS * standard_error(radius) + math.sqrt(math.log(n) / (4 * n)),
        f"{K} standard errors of {seeds} networks, and √(log N / 4N), which bounds the shift (Rider, Sinclair 2014)",
    )  # fmt: skip
    yield Comparison(
        f"gradient horizon of tanh, g = {g:g}: median over {seeds} networks of {n} units, h_0 small",
        "first τ with τ |½ log₁₀ χ| > 3", mean_field_horizon("tanh", g), float(dataset.horizon.median()), 0.5,
        "half a step, as lags are whole numbers",
    )  # fmt: skip


def _small_tanh_networks(n: int, g: float, seeds: int) -> Any:
    """The `jacobian` experiment for tanh networks that start close to 0."""
    settings = {
        "cell": "tanh", "hidden_size": n, "steps": 20, "seeds": seeds, "weight_scales": [g], "state_scale": 1e-3,
    }  # fmt: skip
    return experiments.measure(validation.checked(settings), lambda _: None).isel(weight_scale=0)


GAUSSIAN = {False: (256, (48, 96)), True: (512, (128, 256))}
"""Number of networks, each with one Gaussian matrix, and their two sizes, without and with `--full`."""

ORIGIN = (
    "N = {small} and {large} extrapolated to N → ∞ with a correction of order {power}; {k} standard errors of"
    " {seeds} networks each, and the square of the correction for the next order"
).replace("{k}", K)
