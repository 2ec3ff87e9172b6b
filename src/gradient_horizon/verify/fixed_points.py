"""Checks of fixed and periodic points, and of their multipliers, against closed forms."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from gradient_horizon.measures.fixed_points import FixedPoints, fixed_points, linearise, search
from gradient_horizon.names import PointKind
from gradient_horizon.verify.comparison import Comparison, Item, worst

EPS = float(np.finfo(np.float64).eps)
PITCHFORK = "the pitchfork of h = tanh(w h): Strogatz, section 3.4"
BOUND = "the error that the search reports, and that of the root by bisection"
_GRID = np.stack(np.meshgrid(np.linspace(-1.1, 1.3, 7), np.linspace(-0.7, 0.9, 5)), axis=-1).reshape(-1, 2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Planar:
    """h ← c + L h + tanh(W h) + Q h², of two entries, so that all maps of the plane here share compiled programs."""

    constant: Any
    linear: Any
    weights: Any
    squares: Any


def _step(map_: _Planar, h: Any, x: Any) -> Any:
    return map_.constant + map_.linear @ h + jnp.tanh(map_.weights @ h) + map_.squares @ (h * h)


def _planar(**parts: Any) -> _Planar:
    zeros = {"constant": np.zeros(2), "linear": np.zeros((2, 2)), "weights": np.zeros((2, 2))}
    every = {**zeros, "squares": np.zeros((2, 2)), **parts}
    return _Planar(**{name: jnp.asarray(value, jnp.float64) for name, value in every.items()})


def _sorted(map_: _Planar, starts: Any = _GRID, period: int = 1) -> FixedPoints:
    """The points whose period divides `period`, by their first entry."""
    found = fixed_points(_step, map_, None, jnp.asarray(starts), period=period)
    order = np.argsort(found.points[:, 0])
    kept = [jax.tree.map(lambda values: values[order], part) for part in found[:-1]]
    return FixedPoints._make([*kept, found.failed])


def _one_unit(w: float, period: int = 1) -> FixedPoints:
    """Of h ← tanh(w h), in the first of two entries; the second is 0 after one step."""
    return _sorted(_planar(weights=np.diag([w, 0.0])), period=period)


def _root(w: float) -> float:
    """The positive solution of h = tanh(w h), w > 1, by bisection."""
    found = optimize.root_scalar(
        lambda h: math.tanh(w * h) - h, method="brentq", bracket=(1e-3, 1.0), xtol=4 * EPS, rtol=4 * EPS
    )
    return float(found.root)


def one_unit(full: bool) -> Iterator[Item]:
    """h = tanh(w h): one fixed point up to w = 1, three above; below w = -1 a cycle of two."""
    weights = (-1.5, 0.8, 1.1, 1.5, 3.0)
    by_weight = {w: _one_unit(w) for w in weights}
    yield worst(
        "one tanh unit: number of fixed points, w = -1.5 .. 3", PITCHFORK,
        [3 if w > 1 else 1 for w in weights], [len(found.period) for found in by_weight.values()], 0.0, "exact",
    )  # fmt: skip
    expected, measured, allowed = [], [], []
    slopes, multipliers, errors = [], [], []
    for w in (1.1, 1.5, 3.0):
        found, root = by_weight[w], _root(w)
        slope = w * (1 - root * root)
        expected += [-root, 0.0, root]
        measured += found.points[:, 0].tolist()
        allowed += (found.error + 8 * EPS).tolist()
        slopes += [slope, w, slope]
        multipliers += np.real(found.eigenvalues[:, 0]).tolist()
        errors += (found.eigenvalue_error[:, 0] + 16 * w * EPS).tolist()
    yield worst("one tanh unit, w > 1: the three fixed points", PITCHFORK, expected, measured, allowed, BOUND)
    yield worst(
        "one tanh unit, w > 1: multipliers w (1 - h*²) of the stable points, w of the saddle at 0", PITCHFORK,
        slopes, multipliers, errors, "the errors that the search reports, and 16 eps of the closed form",
    )  # fmt: skip
    w = -1.5
    found, root = _one_unit(w, period=2), _root(-w)
    cycle = found.period == 2
    yield worst(
        "one tanh unit, w = -1.5: the number of its 2-cycles, beside its fixed point", "tanh is odd",
        1, int(np.sum(cycle)), 0.0, "exact",
    )  # fmt: skip
    yield worst(
        "one tanh unit, w = -1.5: the 2-cycle ±h*, and its multiplier (w (1 - h*²))²", "tanh is odd",
        [root, (w * (1 - root * root)) ** 2],
        [float(np.abs(found.points[cycle, 0][0])), float(found.eigenvalues[cycle, 0][0].real)],
        [float(found.error[cycle][0]) + 8 * EPS, float(found.eigenvalue_error[cycle, 0][0]) + 64 * EPS], BOUND,
    )  # fmt: skip
    marginal = _one_unit(1.0)
    yield worst(
        "one tanh unit, w = 1: the triple zero has no error bound, and is marginal", "tanh h = h - h³/3 + ...",
        [math.inf, float(PointKind.MARGINAL)], [float(marginal.error.max()), float(marginal.kind.min())], 0.0, "exact",
    )  # fmt: skip


def _tanh_step(weights: Any, h: Any, x: Any) -> Any:
    return jnp.tanh(weights @ h)


def contractions(full: bool) -> Iterator[Item]:
    """h = tanh(W h) with ‖W‖₂ < 1: one fixed point, 0, however small the numbers in which the starts end."""
    rng = np.random.default_rng(0)
    weights, starts = rng.standard_normal((3, 8, 8)), jnp.asarray(rng.standard_normal((32, 8)))
    contracting = [jnp.asarray(0.85 * matrix / np.linalg.norm(matrix, 2)) for matrix in weights]
    found = [search(_tanh_step, matrix, None, starts) for matrix in contracting]
    yield worst(
        "contractions h = tanh(W h), ‖W‖₂ = 0.85, n = 8: number of fixed points", "Banach's fixed-point theorem",
        1, [int(one.is_first.sum()) for one in found], 0.0, "exact",
    )  # fmt: skip
    yield worst(
        "contractions h = tanh(W h): their fixed point is 0", "tanh 0 = 0", 0.0,
        [float(np.abs(one.points).max()) for one in found], [float(one.error.min()) for one in found],
        "the errors that the search reports, which are of the size of the smallest normal number over eps",
    )  # fmt: skip


def maps_of_the_plane(full: bool) -> Iterator[Item]:
    """The Hénon map, the logistic map at r = 3.83, a linear network."""
    a, b = 1.4, 0.3
    henon = _planar(constant=[1.0, 0.0], linear=[[0.0, 1.0], [b, 0.0]], squares=[[-a, 0.0], [0.0, 0.0]])
    found = _sorted(henon)
    root = math.sqrt((1 - b) ** 2 + 4 * a)
    x = np.array([(-(1 - b) - root) / (2 * a), (-(1 - b) + root) / (2 * a)])
    pairs = np.stack([-a * x - np.sqrt(a * a * x * x + b), -a * x + np.sqrt(a * a * x * x + b)], axis=1)
    pairs = np.take_along_axis(pairs, np.argsort(-np.abs(pairs), axis=1), axis=1)
    source = "Hénon 1976, x² a + (1 - b) x - 1 = 0"
    yield worst(
        "Hénon map: its two fixed points", source, x, found.points[:, 0], found.error + 4 * EPS,
        "the error that the search reports, and 4 eps of the closed form",
    )  # fmt: skip
    yield worst(
        "Hénon map: the multipliers -a x ± √(a² x² + b) of both saddles", source, pairs,
        np.real(found.eigenvalues), found.eigenvalue_error + 16 * EPS,
        "the errors that the search reports, and 16 eps of the closed form",
    )  # fmt: skip

    r = 3.83
    logistic = _planar(linear=[[r, 0.0], [0.0, 0.0]], squares=[[-r, 0.0], [0.0, 0.0]])
    starts = np.stack([np.linspace(-0.05, 1.05, len(_GRID)), np.zeros(len(_GRID))], axis=1)
    found = _sorted(logistic, starts, period=3)
    c = r / 2 - r * r / 4
    u = (-c + np.array([1.0, -1.0]) * math.sqrt(-7 * c * c - 4 * c**3)) / 2
    predicted = np.array([2 - r, r, *np.sort(8 * (1 - u))])
    values = np.real(found.eigenvalues[:, 0])
    order = np.lexsort((values, found.period))
    yield worst(
        "logistic map, r = 3.83: multipliers of both fixed points and of both 3-cycles",
        "2 - r, r; z ← z² + c: c³ + 2c² + u c + u² = 0, u = 1 - λ/8 (Giarrusso and Fisher 1995)",
        predicted, values[order], found.eigenvalue_error[order, 0] + 500 * EPS,
        "the errors that the search reports, and 500 eps of the closed form, in which c³ nearly cancels",
    )  # fmt: skip

    matrix, constant = np.array([[0.9, -0.7], [0.4, 0.3]]), np.array([0.3, -1.0])
    found = _sorted(_planar(linear=matrix, constant=constant))
    exact = np.linalg.solve(np.eye(2) - matrix, constant)
    yield worst(
        "linear network: its only fixed point (I - W)⁻¹ (U x + b)", "linear algebra",
        [*exact, 1.0], [*found.points[0], float(len(found.period))], [*[found.error[0] + 32 * EPS] * 2, 0.0],
        "the error that the search reports, and 32 eps of the closed form",
    )  # fmt: skip


def driven_cycle(full: bool) -> Iterator[Item]:
    """A linear network that is driven by a cycle of inputs: the multipliers are the eigenvalues of W^p."""
    length, n = 5, 3
    rng = np.random.default_rng(3)
    # eigenvalues are known, and their vectors are not orthogonal
    triangle = np.diag([0.95, -0.8, 1.1]) + np.triu(rng.standard_normal((n, n)), 1)
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    matrix, drive = q @ triangle @ q.T, rng.standard_normal((length, n))
    total = sum(np.linalg.matrix_power(matrix, length - 1 - k) @ x for k, x in enumerate(drive))
    whole = np.linalg.matrix_power(matrix, length)
    exact = np.linalg.solve(np.eye(n) - whole, total)
    point = linearise(
        lambda w, h, x: w @ h + x, jnp.asarray(matrix), jnp.asarray(drive), jnp.asarray(exact), driven=True
    )
    yield Comparison(
        "linear network, driven with period 5: its cycle returns", "h = Σ_k W^(5-k) x_k + W⁵ h",
        0.0, float(point.residual), 64 * EPS * np.linalg.cond(np.eye(n) - whole) * np.linalg.norm(exact),
        "64 eps κ(I - W⁵) of the closed form",
    )  # fmt: skip
    predicted = np.array(sorted([0.95**length, (-0.8) ** length, 1.1**length], key=abs, reverse=True))
    yield worst(
        "linear network, driven with period 5: Floquet multipliers λ_i⁵", "eigenvalues of W⁵", predicted,
        np.real(point.eigenvalues), np.asarray(point.eigenvalue_error) + 64 * EPS * np.linalg.norm(matrix) ** length,
        "the errors that the search reports, and 64 eps of W, which is formed from its eigenvalues",
    )  # fmt: skip
