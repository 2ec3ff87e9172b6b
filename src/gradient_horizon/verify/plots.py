"""Figures of the verification page, in the package's style."""

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from gradient_horizon.figures import activations
from gradient_horizon.figures.kit import style
from gradient_horizon.theory.mean_field_theory import mean_field
from gradient_horizon.theory.random_matrices import gaussian_power_norms

_MEASURED: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 3}


def tanh_derivative() -> Figure:
    """tanh′ in float32 by `1 - tanh²`, by JAX's own derivative and by the package's."""
    return activations.tanh_derivative_in_float32()


def newman(
    predicted: Float[np.ndarray, " n"], measured: Float[np.ndarray, " n"], tolerance: Float[np.ndarray, " n"]
) -> Figure:
    """The spectrum next to its prediction, and the difference between them with the tolerance."""
    index = np.arange(1, len(predicted) + 1)
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 2.5)
        left, right = figure.subplots(1, 2)
        left.plot(index, predicted, color="black", linewidth=0.8, label="predicted")
        left.plot(index, measured, **_MEASURED, label="measured")
        right.fill_between(index, -tolerance, tolerance, color=style.GREY, alpha=0.2, linewidth=0, label="tolerance")
        right.axhline(0, color="black", linewidth=0.8)
        right.plot(index, measured - predicted, **_MEASURED)
        left.set_ylabel(R"Lyapunov exponent $\lambda_i$")
        right.set_ylabel("measured − predicted")
        for ax in (left, right):
            ax.set_xlabel("number $i$ of the exponent")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=style.ROUND))
        style.add_key(figure, style.drawn_key(left) + style.drawn_key(right))
    return figure


def growth_against_scale(results: dict[str, tuple[Any, Any, Any]]) -> Figure:
    """Growth against g for each activation: mean field as lines, networks as dots with tolerances."""
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 3.2)
        ax = figure.subplots()
        ax.axhline(0, **style.REFERENCE)
        for (activation, (points, limit, tolerance)), look in zip(
            results.items(), style.line_looks(len(results)), strict=True
        ):
            scales, bias = np.array([g for g, _ in points]), points[0][1]
            lines = np.geomspace(0.5, 10.0, 200)
            law = np.array([mean_field(activation, float(g), bias) for g in lines])
            stationary = np.isfinite(law[:, 0])  # a ReLU network above its edge has no fixed point
            label = style.in_words(activation) + (Rf", $\sigma_b$ = {bias:g}" if bias else "")
            ax.plot(lines[stationary], law[stationary, 2], label=label, **look)
            count = len(scales)
            ax.errorbar(
                scales, limit[:count], yerr=tolerance[:count], color=look["color"], capsize=2, elinewidth=0.8,
                **_MEASURED,
            )  # fmt: skip
        ax.set(xscale="log", xlim=(0.5, 11), xlabel="weight scale $g$")
        ax.set_ylabel(R"growth of $\log\Vert M\Vert_F$ per step")
        ax.xaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(ScalarFormatter())
        style.add_key(figure, style.drawn_key(ax))
    return figure


def powers(
    roots: dict[int, Float[np.ndarray, " t"]],
    spectral: dict[int, Float[np.ndarray, " t"]],
    limit: Float[np.ndarray, " t"],
    tolerance: Float[np.ndarray, " t"],
) -> Figure:
    """‖W^t‖_F/√N and ‖W^t‖₂ against t for each size N of W, and the large-N `limit` of the latter."""
    steps = len(next(iter(roots.values())))
    lags = np.arange(steps + 1)
    law = gaussian_power_norms(lags)
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 2.6)
        ax = figure.subplots()
        looks = style.line_looks(2)
        ax.plot(lags, law.spectral, color=looks[1]["color"], label=R"$\Vert W^t\Vert_2$")
        ax.plot(lags, law.frobenius, color=looks[0]["color"], label=R"$\Vert W^t\Vert_F/\sqrt{N}$")
        key = style.drawn_key(ax)
        for n, marker in zip(roots, ("s", "o"), strict=True):
            look = {**_MEASURED, "marker": marker, "markersize": 4}
            ax.plot(lags[1:], roots[n], color=looks[0]["color"], **look)
            ax.plot(lags[1:], spectral[n], color=looks[1]["color"], **look)
            key.append((Line2D([], [], color=style.GREY, **look), f"$N$ = {n}"))
        hollow = {**_MEASURED, "marker": "D", "markersize": 5, "markerfacecolor": "none"}
        ax.errorbar(lags[1:], limit, yerr=tolerance, color=looks[1]["color"], capsize=2, elinewidth=0.8, **hollow)
        key.append((Line2D([], [], color=style.GREY, **hollow), R"extrapolated to $N \to \infty$"))
        ax.set(xlabel="power $t$", ylabel="norm", ylim=(0, None), xlim=(-0.1, steps + 0.1))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        style.add_key(figure, key)
    return figure
