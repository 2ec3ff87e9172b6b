"""Checks of the mean field of wide networks: the growth ½ log χ, its zero, and the largest Lyapunov exponent."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate

from gradient_horizon import experiments
from gradient_horizon.cells.cell import make_cell
from gradient_horizon.cells.vanilla import VanillaParams
from gradient_horizon.ensembles.blocks import map_networks
from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.settings import validation
from gradient_horizon.theory.mean_field_theory import critical_line, mean_field
from gradient_horizon.verify import plots
from gradient_horizon.verify.comparison import Comparison, Item, Plot, extrapolated, worst
from gradient_horizon.verify.random_matrices import GAUSSIAN, ORIGIN
from gradient_horizon.verify.samples import unit_networks

STEPS = 3
SOURCE = "Poole et al. 2016; Schoenholz et al. 2017 (χ₁); Chen, Pennington, Schoenholz 2018"
EPS64 = float(np.finfo(np.float64).eps)
# weight scale g and σ_b; the first pair is compared with the law, the others are only for the figure
POINTS = {
    "tanh": ((3.0, 0.0), (1.2, 0.0), (2.0, 0.0), (5.0, 0.0), (10.0, 0.0)),
    "erf": ((1.5, 0.2), (0.5, 0.2), (3.0, 0.2), (6.0, 0.2)),
    "hard_tanh": ((2.0, 0.0), (1.2, 0.0), (4.0, 0.0)),
    "sigmoid": ((5.0, 0.5), (2.0, 0.5), (10.0, 0.5)),
    "relu": ((1.2, 0.4), (0.6, 0.4), (0.9, 0.4)),
}
EDGE_BIAS = 0.5
LYAPUNOV_SIZES = {False: (128, 256), True: (256, 512)}


def _growth(points: dict[str, list[tuple[float, float]]], networks: dict[str, Any]) -> dict[str, Any]:
    """log(‖∂h_T/∂h_0‖_F / √N) / T of stationary networks at each activation's (g, σ_b): (points, networks) each.

    h_0 ~ N(0, ⟨φ²⟩), so that the pre-activations have the variance of the fixed point from the first step on.
    """
    width = networks["state"].shape[1]
    steps_of = [make_cell(activation, width).step for activation in points]
    places = np.repeat(np.arange(len(points)), [len(own) for own in points.values()])
    scales = [
        (g, bias, math.sqrt(max(mean_field(activation, g, bias).q - bias**2, 0.0)) / g)
        for activation, own in points.items()
        for g, bias in own
    ]

    def measure(network: dict[str, Any]) -> Any:
        def one(point: Any) -> Any:
            place, (g, bias, spread) = point

            def step(params: Any, h: Any, x: Any) -> Any:  # a single program for all activations
                return jax.lax.switch(place, steps_of, params, h, x)

            params = VanillaParams(g * network["weights"], jnp.zeros((width, 0), jnp.float32), bias * network["bias"])
            h = spread * network["state"]
            logs = log_jacobian_norms(step, params, h, steps=STEPS, anchor="start")["frobenius"]
            return (logs[-1] - 0.5 * jnp.log(network["size"])) / STEPS

        return jax.lax.map(one, (jnp.asarray(places), jnp.asarray(scales, jnp.float32)))

    growths = map_networks(measure, networks, block=16).T
    return {activation: growths[places == place] for place, activation in enumerate(points)}


def growth(full: bool) -> Iterator[Item]:
    """The growth per step of stationary networks against ½ log χ, and its zero at the predicted edge."""
    seeds, (small, large) = GAUSSIAN[full]
    networks = unit_networks((small, large), seeds)
    origin = ORIGIN.format(small=small, large=large, seeds=seeds, power="1/N")
    results = {}
    edges_of = {"tanh": [(critical_line("tanh", EDGE_BIAS), EDGE_BIAS)]}
    growths = _growth({name: [*points, *edges_of.get(name, [])] for name, points in POINTS.items()}, networks)
    for activation, points in POINTS.items():
        samples = growths[activation]
        limit, tolerance = extrapolated(samples[:, :seeds], samples[:, seeds:], 1.0)
        results[activation] = (points, limit, tolerance)
        g, bias = points[0]
        yield Comparison(
            f"{activation}, g = {g:g}{f', σ_b = {bias:g}' if bias else ''}: log‖M‖_F grows by ½ log χ a step", SOURCE,
            mean_field(activation, g, bias).log_growth, limit[0], tolerance[0], origin,
        )  # fmt: skip
        for g, bias in edges_of.get(activation, []):
            yield Comparison(
                f"tanh, σ_b = {bias:g}: at the predicted edge, g = {g:.4f}, log‖M‖_F does not grow",
                "χ = 1: Schoenholz et al. 2017", 0.0, limit[-1], tolerance[-1], origin,
            )  # fmt: skip
    yield Plot(
        f"Growth of log‖M‖_F per step against the weight scale. Lines: mean field. Dots: networks of {small} and"
        f" {large} units, extrapolated to N → ∞, with the tolerance.",
        partial(plots.growth_against_scale, results),
    )


def largest_exponent(full: bool) -> Iterator[Item]:
    """The largest Lyapunov exponent of wide chaotic networks, measured by the command line's own experiment."""
    seeds, g, transient, counted = 16, 3.0, 200, 1200 if full else 600
    samples = []
    for n in LYAPUNOV_SIZES[full]:
        settings = {
            "experiment": "lyapunov", "cell": "tanh", "hidden_size": n, "steps": transient + counted,
            "transient": transient, "exponents": 1, "seeds": seeds, "weight_scales": [g],
        }  # fmt: skip
        dataset = experiments.measure(validation.checked(settings), lambda _: None)
        samples.append(dataset.lyapunov_exponent.values[0, :, 0].astype(np.float64))
    small, large = LYAPUNOV_SIZES[full]
    limit, tolerance = extrapolated(samples[0], samples[1], 1.0)
    yield Comparison(
        f"tanh, g = {g:g}: the largest Lyapunov exponent is ½ log χ, T = {counted} after {transient} steps",
        "Molgedey, Schuchhardt, Schuster 1992", mean_field("tanh", g).log_growth, float(limit), float(tolerance),
        ORIGIN.format(small=small, large=large, seeds=seeds, power="1/N"),
    )  # fmt: skip


def averages(full: bool) -> Iterator[Item]:
    """The fixed point and its growth by an independent integral."""
    for g in (3.0, 10.0):  # at the second, 64 Gauss-Hermite nodes yield the wrong sign
        q = g * g
        for _ in range(40):  # contracts by a factor below ½ at these gains
            q = g * g * _average(lambda a: math.tanh(a) ** 2, q)
        chi = g * g * _average(lambda a: math.cosh(min(a, 150.0)) ** -4.0, q)
        yield Comparison(
            f"tanh, g = {g:g}: ½ log χ at q = g²⟨φ²⟩, by adaptive quadrature",
            "Sompolinsky, Crisanti, Sommers 1988; Molgedey et al. 1992", 0.5 * math.log(chi),
            mean_field("tanh", g).log_growth, 1e-10, "twice the error of the quadrature, 10⁻¹¹, and its effect on q",
        )  # fmt: skip


def _average(function: Callable[[float], float], q: float) -> float:
    """⟨f(√q z)⟩ for an even f."""

    def integrand(a: float) -> float:
        return 2.0 * function(a) * math.exp(-0.5 * a * a / q) / math.sqrt(2.0 * math.pi * q)

    cuts = [0.0, 1.0, 3.0, 10.0, 30.0, max(40.0, 12.0 * math.sqrt(q))]
    pieces = itertools.pairwise(cuts)
    return sum(integrate.quad(integrand, low, high, epsabs=1e-15, epsrel=1e-11)[0] for low, high in pieces)


def edges(full: bool) -> Iterator[Item]:
    """The weight scale at which the growth is zero, without bias."""
    published = {"tanh": 1.0, "hard_tanh": 1.0, "relu": math.sqrt(2.0), "erf": 0.5 * math.sqrt(math.pi)}
    values = np.array(list(published.values()))
    yield worst(
        "critical line without bias: tanh and hard tanh 1, ReLU √2, erf √π/2",
        "Poole et al. 2016; Schoenholz et al. 2017; He et al. 2015 (ReLU)", values,
        [critical_line(name) for name in published], 2.0 * EPS64 * values, "rounding of a root: 2 eps",
    )  # fmt: skip


def below_the_edge(full: bool) -> Iterator[Item]:
    """All exponents of tanh networks at g < 1, which decay to 0 and become linear."""
    n, transient, counted, g, seeds = 20, 200, 1000, 0.7, range(8)
    settings = {
        "experiment": "lyapunov", "cell": "tanh", "hidden_size": n, "steps": transient + counted, "seeds": len(seeds),
        "weight_scales": [g], "transient": transient, "precision": "float64",
    }  # fmt: skip
    dataset = experiments.measure(validation.checked(settings), lambda _: None).isel(weight_scale=0)
    init = make_cell("tanh", n).init
    weights = [init(jax.random.key(seed), g, dtype=jnp.float64).recurrent for seed in seeds]
    conditions = np.linalg.cond(np.linalg.eig(np.array(weights))[1])
    yield worst(
        f"tanh, g = {g:g} < 1: λ_i = log|eigenvalue_i of W|, N = {n}, all exponents of {len(seeds)} networks",
        "linearisation at the fixed point 0",
        dataset.log_eigenvalue_modulus, dataset.lyapunov_exponent, np.log(conditions)[:, None] / counted,
        f"W^T = V Λ^T V⁻¹: log κ(V) / T for each network, T = {counted} after a transient of {transient}",
    )  # fmt: skip
