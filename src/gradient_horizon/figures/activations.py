"""The activations φ with their derivatives φ′, and the derivative of tanh in float32."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MultipleLocator

from gradient_horizon.cells.activations import ACTIVATIONS
from gradient_horizon.figures.kit import style

_ORDER = sorted(ACTIVATIONS, key=lambda name: name != "tanh")  # tanh first: the activation of the study notes


def curves_of(name: str) -> tuple[Float[np.ndarray, " X"], Float[np.ndarray, " X"], Float[np.ndarray, " X"]]:
    """Return x, φ(x) and φ′(x) as they are drawn."""
    activation, x = ACTIVATIONS[name], np.linspace(-3, 3, 601)
    return x, np.asarray(activation.value(jnp.asarray(x))), np.asarray(activation.derivative(jnp.asarray(x)))


def draw_activation(ax: Axes, name: str, colours: list[str]) -> None:
    """Draw φ and φ′, with the largest value of φ′."""
    activation, (x, value, derivative) = ACTIVATIONS[name], curves_of(name)
    jumps = np.flatnonzero(np.abs(np.diff(derivative)) > 0.5)
    ax.axhline(activation.steepest, **style.REFERENCE)
    ax.plot(x, value, color=colours[0], label=R"$\varphi$")
    # A derivative that jumps is drawn in pieces, so that no spurious slope joins them.
    ax.plot(
        np.insert(x, jumps + 1, np.nan), np.insert(derivative, jumps + 1, np.nan), color=colours[1],
        label=R"$\varphi^{\prime}$",
    )  # fmt: skip
    ax.annotate(
        Rf"max $\varphi^{{\prime}}$ = {activation.steepest:.3g}", (-3, activation.steepest), (3, 2),
        textcoords="offset points", va="bottom", fontsize=6.5, color=style.GREY,
    )  # fmt: skip
    ax.set_title(style.in_words(name))
    ax.set(xlim=(-3, 3), ylim=(-1.25, 1.6))
    ax.xaxis.set_major_locator(MultipleLocator(1))
    ax.yaxis.set_major_locator(MultipleLocator(1))


def activations() -> Figure:
    """Plot every activation φ and its derivative φ′, with the largest value of φ′."""
    with style.applied():
        figure = style.new_figure(style.DOUBLE, 3.6)
        axes = figure.subplots(-(-len(_ORDER) // 3), 3, sharex=True, sharey=True).ravel()
        for ax, name in zip(axes, _ORDER, strict=False):
            draw_activation(ax, name, [look["color"] for look in style.line_looks(2)])
        for ax in axes[-3:]:
            ax.set_xlabel("pre-activation $x$")
        style.add_key(figure, style.drawn_key(axes[0]))
    return figure


def tanh_derivatives(x: Float[np.ndarray, " X"]) -> dict[str, Float[np.ndarray, " X"]]:
    """Return tanh′ at `x` from its formula in float64 and from three float32 programs, named as in the figure."""
    single = jnp.asarray(x, jnp.float32)
    y = jnp.tanh(single)
    decay = np.exp(-2.0 * np.abs(x))
    programs = {
        "exact": 4.0 * decay / (1.0 + decay) ** 2,
        "this package": ACTIVATIONS["tanh"].derivative(single),
        "1 − tanh²": 1 - y * y,
        "JAX's derivative of tanh": jax.vmap(jax.grad(jnp.tanh))(single),
    }
    return {name: np.asarray(values, np.float64) for name, values in programs.items()}


def tanh_derivative_in_float32() -> Figure:
    """Plot tanh′ in float32 as `1 - tanh²`, as JAX's own derivative and as this package's, with the exact one.

    In the left panel the first two leave the axis where they turn a small gradient into exactly 0. The right panel
    shows each as a multiple of the exact value, in the range where digits are lost.
    """
    x = np.linspace(0, 20, 1601)
    floor = 1e-18
    derivatives = tanh_derivatives(x)
    exact = derivatives.pop("exact")
    with style.applied():
        looks = style.line_looks(3)
        figure = style.new_figure(style.DOUBLE, 2.4)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
        left.plot(x, exact, color="black", linewidth=3.2, alpha=0.25, label="exact")
        looks[2]["linestyle"] = (0, (3, 1.5))  # it nearly covers the second
        for (name, values), look in zip(derivatives.items(), looks, strict=True):
            left.plot(x, np.where(values > 0, values, floor**2), label=name, **look)
            right.plot(x, values / exact, **look)
        right.axhline(1, color="black", linewidth=3.2, alpha=0.25, zorder=1)
        left.set(yscale="log", xlim=(0, 20), ylim=(floor, 3), xlabel="$x$", ylabel=R"$\tanh^{\prime}(x)$ in float32")
        right.set(xlim=(5, 9), ylim=(-0.1, 1.5), xlabel="$x$", ylabel="relative to the exact value")
        left.yaxis.set_major_locator(LogLocator(numticks=8))
        left.xaxis.set_major_locator(MultipleLocator(5))
        style.add_key(figure, style.drawn_key(left))
    return figure
