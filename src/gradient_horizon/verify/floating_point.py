"""Checks of floating-point pitfalls, where a plausible program returns a plausible but wrong number."""

import math
from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon import experiments, names
from gradient_horizon.cells.activations import ACTIVATIONS
from gradient_horizon.cells.cell import make_cell
from gradient_horizon.cells.vanilla import VanillaParams
from gradient_horizon.experiments.notes import notes_matrix
from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.measures.lyapunov import lyapunov_exponents
from gradient_horizon.settings import validation
from gradient_horizon.training.clipping import clip_gradients, global_norm
from gradient_horizon.verify import plots
from gradient_horizon.verify.comparison import (
    CHAIN_RULE,
    ROUNDING,
    Comparison,
    Item,
    Plot,
    log_norms,
    product_rounding,
    worst,
)
from gradient_horizon.verify.samples import gaussian, linear, sech_squared

EPS32, EPS64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)
CALCULUS = "calculus"


def _sigmoid_slope(x):
    return 1.0 / (2.0 * np.cosh(0.5 * x)) ** 2


def _erf_slope(x):
    return 2.0 / math.sqrt(math.pi) * np.exp(-x * x)


SLOPES = {"tanh": (sech_squared, 40.0), "sigmoid": (_sigmoid_slope, 80.0), "erf": (_erf_slope, 9.0)}
"""φ′ in float64 by a formula other than the package's, and the |x| up to which it is a normal float32."""


def slopes_of_saturated_units(full: bool) -> Iterator[Item]:
    """φ′ in float32 where 1 - φ² has no digits left, and log φ′ where φ′ itself underflows."""
    for name, (exact, reach) in SLOPES.items():
        slope = jax.jit(jax.vmap(jax.grad(ACTIVATIONS[name].value)))
        x = np.linspace(-reach, reach, 2001).astype(np.float32)
        true = exact(x.astype(np.float64))
        # in erf′ = exp(-x²), the rounding of x² contributes x² eps/2
        relative = EPS32 * (4.0 + (x.astype(np.float64) ** 2 if name == "erf" else 0.0))
        origin = "a few roundings of exp and of the quotient: 4 eps φ′ in float32"
        if name == "erf":
            origin = "4 eps φ′ in float32, and x² eps φ′ for the rounding of x²"
        if name == "tanh":
            yield Comparison(
                "tanh′(8) in float32 (1 - tanh² gives 0)", CALCULUS, float(exact(8.0)),
                float(slope(np.array([8.0], np.float32))[0]), float(4.0 * EPS32 * exact(8.0)), origin,
            )  # fmt: skip
        yield worst(f"{name}′(x) for |x| ≤ {reach:g} in float32", CALCULUS, true, slope(x), relative * true, origin)
    predicted = [2.0 * (math.log(2.0) - 200.0), -200.0, math.log(2.0 / math.sqrt(math.pi)) - 200.0**2]
    measured = [float(ACTIVATIONS[name].log_derivative(jnp.float32(200.0))) for name in SLOPES]
    yield worst(
        "log φ′(200) of tanh, sigmoid and erf in float32, where φ′ underflows", CALCULUS, predicted, measured,
        2.0 * EPS32 * np.abs(predicted), "two roundings of the result: 2 eps |log φ′|",
    )  # fmt: skip
    yield Plot(
        "tanh′ in float32 by three programs. Right: as a multiple of the exact value.",
        plots.tanh_derivative,
    )


def kinks(full: bool) -> Iterator[Item]:
    """At a kink the gradient passes through."""
    places = {"relu": [0.0, -0.0, -1e-30], "hard_tanh": [1.0, -1.0, 1.0000001]}
    for name, x in places.items():
        slope = jax.jit(jax.vmap(jax.grad(ACTIVATIONS[name].value)))(np.array(x, np.float32))
        at = "0 and -0 pass, -1e-30 does not" if name == "relu" else "1 and -1 pass, 1 + eps does not"
        yield worst(f"{name}′: {at}", "convention: x ≥ 0 passes", [1.0, 1.0, 0.0], slope, 0.0, "exact")


def underflow(full: bool) -> Iterator[Item]:
    """A product far below the smallest float32, and one that only rotates and grows."""
    n, steps, g = 3, 400, 1.1
    measure = jax.jit(lambda w: log_jacobian_norms(linear, w, jnp.zeros(n, jnp.float32), steps=steps)["frobenius"])
    matrix = notes_matrix(3, n, 0.5).astype(np.float32)
    logs = np.asarray(measure(matrix))
    factors = np.repeat(matrix[None].astype(np.float64), steps, axis=0)
    lags = np.array([96, 200, 400])
    yield worst(
        "underflow: log‖W^τ‖_F at lags 96, 200, 400 of the study notes' 3 × 3 matrix, float32 (the sum of squares"
        " underflows to 0 at lag 96)",
        "float64 powers, which do not underflow", log_norms(factors, "end")[lags - 1], logs[lags - 1],
        [product_rounding(factors[:lag], np.float32) for lag in lags], ROUNDING,
    )  # fmt: skip
    eigenvalues, vectors = np.linalg.eig(factors[0])
    yield Comparison(
        "fixed W, linear: log‖W^τ‖_F / τ → log of the spectral radius, τ = 400, the same matrix", "Gelfand 1941",
        math.log(np.abs(eigenvalues).max()), float(logs[-1]) / steps,
        (math.log(math.sqrt(n) * float(np.linalg.cond(vectors))) + product_rounding(factors, np.float32)) / steps,
        "W^τ = V Λ^τ V⁻¹: at most log(√N κ(V)) / τ",
    )  # fmt: skip
    turn = (g * np.linalg.qr(np.random.default_rng(2).standard_normal((n, n)))[0]).astype(np.float32)
    lag = np.arange(1, steps + 1)
    yield worst(
        "W = gQ, Q orthogonal: ‖M‖_F = √N g^τ at every lag to 400, float32", "Q preserves lengths",
        0.5 * math.log(n) + lag * math.log(g), measure(turn), EPS32 * ((2 * n + 8) * lag + 8),
        "Q is orthogonal to n eps, a product rounds by (n + 8) eps a step, no cancellation",
    )  # fmt: skip


def order(full: bool) -> Iterator[Item]:
    """The order of the factors in the product, tested with a short cycle of different matrices."""
    xs = np.tile(np.random.default_rng(0).standard_normal((3, 4, 4)), (6, 1, 1))[:16]
    for anchor in names.ANCHORS:
        logs = jax.jit(lambda xs, anchor=anchor: log_jacobian_norms(linear, None, jnp.zeros(4), xs, anchor=anchor))(xs)
        products = [xs[-lag:] if anchor == "end" else xs[:lag] for lag in range(1, len(xs) + 1)]
        which = "∂h_T/∂h_t = J_T ⋯ J_(t+1)" if anchor == "end" else "∂h_t/∂h_0 = J_t ⋯ J_1"
        yield worst(
            f"order of the product: {which} for a cycle of three matrices, every lag",
            CHAIN_RULE, log_norms(xs, anchor), logs["frobenius"],
            [product_rounding(factors, np.float64) for factors in products],
            ROUNDING,
        )  # fmt: skip


def state(full: bool) -> Iterator[Item]:
    """The state at which J_t is taken, tested with two units whose pre-activations change at every step."""
    cell = make_cell("tanh", 2, 1)
    w, u = np.array([[0.5, -1.0], [0.8, 0.3]]), np.array([[1.0], [-2.0]])
    params = VanillaParams(jnp.asarray(w), jnp.asarray(u), jnp.zeros(2))
    xs = np.array([[0.0], [1.5], [-0.7], [0.1], [1.1], [-1.4], [0.4], [0.9]])
    h, factors = np.array([0.3, -0.6]), []
    for x in xs:
        a = w @ h + u @ x
        factors.append(sech_squared(a)[:, None] * w)
        h = np.tanh(a)
    factors = np.array(factors)
    for anchor in names.ANCHORS:
        logs = jax.jit(
            lambda xs, anchor=anchor: log_jacobian_norms(cell.step, params, jnp.array([0.3, -0.6]), xs, anchor=anchor)
        )(xs)
        products = [factors[-lag:] if anchor == "end" else factors[:lag] for lag in range(1, len(xs) + 1)]
        yield worst(
            f"state of J_t: diag(φ′(W h_(t-1) + U x_t)) W, two driven tanh units, from the {anchor}, every lag",
            CHAIN_RULE, log_norms(factors, anchor), logs["frobenius"],
            [product_rounding(part, np.float64) for part in products],
            ROUNDING,
        )  # fmt: skip


def zero_is_a_value(full: bool) -> Iterator[Item]:
    """Products that are exactly zero or only appear to be, and steps without an inverse."""
    cell = make_cell("relu", 4)
    alive = gaussian(np.random.default_rng(0), 4, dtype="float32")
    dead = replace(alive, bias=jnp.full(4, -10.0, jnp.float32))
    h = np.ones(4, np.float32)
    logs = jax.jit(lambda h: log_jacobian_norms(cell.step, dead, h, steps=4)["frobenius"])(h)
    yield worst(
        "a ReLU network of dead units: log‖M‖ = -inf at every lag, never NaN", "M = 0",
        -math.inf, logs, 0.0, "exact",
    )  # fmt: skip

    fall = np.array([[1.0, 1e-20]] * 7 + [[0.0, 1.0]], np.float32)
    series = log_jacobian_norms(
        lambda _, h, x: h * x, None, jnp.ones(2, jnp.float32), jnp.asarray(fall), anchor="start"
    )
    yield Comparison(
        "a product with a part, 10⁻¹⁴⁰ of the rest, that outlives the rest but would underflow before: no false zero",
        "log of the remaining part", 7.0 * math.log(float(np.float32(1e-20))), float(series["frobenius"][-1]),
        EPS32 * 7.0 * abs(math.log(1e-20)), "rounding of the result to float32: eps |log norm|",
    )  # fmt: skip

    masks = np.full((12, 3), 0.5)
    masks[4, 2] = 0.0
    shut = jax.jit(lambda xs: lyapunov_exponents(lambda _, h, x: h * x, None, jnp.zeros(3), xs, transient=6))(masks)
    yield worst(
        "one singular J_t: its null direction has exponent -inf, all others keep log ½", "M is a projection",
        [math.log(0.5), math.log(0.5), -math.inf], shut.exponents, [4 * EPS64, 4 * EPS64, 0.0],
        "rounding of the logs: 4 eps; -inf is exact",
    )  # fmt: skip
    yield Comparison(
        "one singular J_t: both sides of the sum rule are -inf, and its violation is NaN",
        "-inf - (-inf)", math.nan, float(shut.sum_rule_error), 0.0, "exact",
    )  # fmt: skip


def one_bad_network(full: bool) -> Iterator[Item]:
    """A network that overflows, in one block with others that do not, in the command line's own experiment."""
    n, steps, growing, shrinking = 3, 100, 4.0, 0.5
    seeds = [0, 1]
    settings = {
        "cell": "linear", "weights": "identity", "hidden_size": n, "steps": steps, "seeds": seeds,
        "weight_scales": [shrinking, growing], "anchors": ["start"], "bias_scale": 0.1,
    }  # fmt: skip
    dataset = experiments.measure(validation.checked(settings), lambda _: None)
    cell = make_cell("linear", n)
    # h_t = 4^t (h_0 + b/3) - b/3
    starts = [cell.initial_state(key) + cell.init(key, bias_scale=0.1).bias / 3 for key in map(jax.random.key, seeds)]
    overflow = [math.ceil((128 - math.log2(float(jnp.abs(h).max()))) / math.log2(growing)) for h in starts]
    bad = dataset.first_bad_step.sel(weight_scale=growing)
    yield worst(
        "h_t = 4 h_(t-1) + b, float32: the first non-finite state is the first with 4^t max|h_0 + b/3| ≥ 2^128",
        "the range of float32", overflow, bad, 0.0, "exact",
    )  # fmt: skip
    log_norm = dataset.log_norm_from_start.isel(norm=0)
    lost = np.isnan(log_norm.sel(weight_scale=growing)).sum("lag")
    yield worst(
        "its log norm is NaN from that step on and nowhere else: number of such lags", "T - t + 1",
        steps - np.array(overflow) + 1, lost, 0.0, "exact",
    )  # fmt: skip
    lag = np.arange(1, steps + 1)
    expected = 0.5 * math.log(n) + lag * math.log(shrinking)
    yield worst(
        "the other networks of its block are unaffected: W = ½ I, log‖M‖_F = ½ log N + τ log ½",
        "M = I / 2^τ", expected, log_norm.sel(weight_scale=shrinking),
        4 * EPS32, "one root of a sum in float32 (the halving is exact): 4 eps",
    )  # fmt: skip


def dying_state(full: bool) -> Iterator[Item]:
    """A ReLU state that falls below the smallest float32, without a change of its slopes."""
    steps, g = 256, 0.25
    settings = {"cell": "relu", "hidden_size": 8, "steps": steps, "seeds": 8, "weight_scales": [g, 1.0]}
    log_norm = experiments.measure(validation.checked(settings), lambda _: None).log_norm.isel(norm=0)
    lag = np.arange(1, steps + 1)
    expected = log_norm.sel(weight_scale=1.0).values + lag * math.log(g)
    yield worst(
        f"ReLU without bias or input: log‖M‖ at g = ¼ equals that at g = 1 plus τ log ¼, every lag to {steps},"
        " while h_t falls far below the smallest float32",
        "Euler: homogeneous of degree 1", expected, log_norm.sel(weight_scale=g), 8 * EPS64 * np.abs(expected),
        "scaling by powers of two is exact; only the logs round, by eps in float64",
    )  # fmt: skip


def clip_rules(full: bool) -> Iterator[Item]:
    """Clipping rules that are meant to do the same thing but do not."""
    c, gradient = 0.01, {"w": np.array([[0.006, -0.003], [0.009, 0.001]]), "b": np.array([0.002, -0.004])}
    n = math.sqrt(sum(float(np.sum(leaf**2)) for leaf in gradient.values()))
    gradient = {name: jnp.asarray(leaf) for name, leaf in gradient.items()}
    size = {rule: float(global_norm(clip_gradients(gradient, c, rule))) for rule in ("book", "pseudocode", "optax")}
    rounding = "a few roundings of the norm and the quotient: 8 eps"
    yield Comparison(
        "clipping at c = 0.01: log ratio of the norms clipped by the study notes' code and by their formula",
        "c/(n + 1e-6) against c/n", -math.log1p(1e-6 / n), math.log(size["book"] / size["pseudocode"]), 8 * EPS64,
        rounding,
    )  # fmt: skip
    yield worst(
        "clipping by the rules of the pseudocode and of optax leaves a norm of c", "c/n if n ≥ c",
        c, [size["pseudocode"], size["optax"]], 8 * EPS64 * c, rounding,
    )  # fmt: skip
    still = jax.tree.map(jnp.zeros_like, gradient)
    norms = [float(global_norm(clip_gradients(still, 0.0, rule))) for rule in ("book", "pseudocode", "value", "optax")]
    yield worst(
        "clipping a zero gradient at c = 0: every rule gives 0 except optax's, which divides 0 by 0",
        "the definitions of the rules", [0.0, 0.0, 0.0, math.nan], norms, 0.0, "exact",
    )  # fmt: skip
