"""One step of a plain recurrent network as a computation graph: forward, and what each node does to the gradient."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from gradient_horizon.figures.kit import style

FORWARD, BACKWARD = "black", "#D55E00"
_SIZE = (58.0, 23.0)  # size of the drawing, in its own units
_NODES = {"matmul": ("MatMul", 15, 12), "plus": ("+", 31, 12), "tanh": ("tanh", 45, 12), "input": ("MatMul", 22, 3)}
_HEIGHT, _WIDTH = 3.4, {"matmul": 7.4, "plus": 3.4, "tanh": 5.0, "input": 7.4}
# For each node: what the gradient becomes on its way back, and the effect on its norm.
_BACK = {
    "tanh": (R"$\delta_a = \varphi^{\prime}(a_t)\odot\delta_h$", R"shrinks: $0<\varphi^{\prime}\leq 1$"),
    "plus": (R"$\delta_a$", "unchanged"),
    "matmul": (R"$W_h^{\top}\,\delta_a$", "grows or shrinks: the\nsame matrix at every step"),
}


def draw(ax: Axes) -> None:
    """Draw h_t = tanh(W_h h_{t-1} + W_x x_t + b); δ, the gradient of the loss, runs from right to left."""
    for name, (label, x, y) in _NODES.items():
        width = _WIDTH[name]
        shape = "circle,pad=0" if name == "plus" else "round,pad=0,rounding_size=0.6"
        box = FancyBboxPatch((x - width / 2, y - _HEIGHT / 2), width, _HEIGHT, boxstyle=shape, facecolor="0.93",
                             edgecolor=FORWARD, linewidth=0.7)  # fmt: skip
        ax.add_patch(box)
        ax.text(x, y, label, ha="center", va="center", fontsize=7.5)
    _forward(ax)
    _backward(ax)
    ax.set(xlim=(0, _SIZE[0]), ylim=(0, _SIZE[1]), aspect="equal")
    ax.axis("off")


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], **look: Any) -> None:
    style_of_line = {"arrowstyle": "-|>", "mutation_scale": 6, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(start, end, **{**style_of_line, **look}))


def _edges(name: str) -> tuple[float, float]:
    """Return the left and right ends of a node."""
    _, x, _ = _NODES[name]
    return x - _WIDTH[name] / 2, x + _WIDTH[name] / 2


def _forward(ax: Axes) -> None:
    chain = [5.0, *_edges("matmul"), *_edges("plus"), *_edges("tanh"), 53.0]
    for start, end in zip(chain[::2], chain[1::2], strict=True):
        _arrow(ax, (start, 12.6), (end, 12.6), color=FORWARD)
    below = 12 - _HEIGHT / 2
    _arrow(ax, (15, 7.4), (15, below), color=FORWARD)
    _arrow(ax, (12.5, 3), (_edges("input")[0], 3), color=FORWARD)
    _arrow(ax, (_edges("input")[1], 3.6), (30.4, below), color=FORWARD)
    _arrow(ax, (34.0, 7.0), (31.9, below + 0.2), color=FORWARD)
    words = {R"$h_{t-1}$": (4.6, 12.6, "right"), R"$h_t$": (53.5, 12.8, "left"), "$W_h$": (15, 6.2, "center"),
             R"$x_t,\,W_x$": (12.1, 3, "right"), "$b$": (34.8, 6.0, "center")}  # fmt: skip
    for word, (x, y, side) in words.items():
        ax.text(x, y, word, ha=side, va="center", fontsize=8)
    ax.text(37.4, 13.0, "$a_t$", ha="center", va="bottom", fontsize=7)


def _backward(ax: Axes) -> None:
    chain = [53.0, *_edges("tanh")[::-1], *_edges("plus")[::-1], *_edges("matmul")[::-1], 5.0]
    for start, end in zip(chain[::2], chain[1::2], strict=True):
        _arrow(ax, (start, 11.4), (end, 11.4), color=BACKWARD)
    ax.text(53.5, 10.4, R"$\delta_h$", ha="left", va="center", fontsize=8, color=BACKWARD)
    for name, (becomes, does) in _BACK.items():
        _, x, y = _NODES[name]
        look: dict[str, Any] = {"ha": "center", "va": "bottom", "color": BACKWARD}
        ax.text(x, y + _HEIGHT / 2 + 0.6, becomes, fontsize=7.5, **look)
        ax.text(x, y + _HEIGHT / 2 + 3.4, does, fontsize=style.SMALL, linespacing=1.1, **look)
