"""The traps of arithmetic: places where a plausible program returns a plausible number that is wrong."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon import config, experiments, names
from gradient_horizon.activations import ACTIVATIONS
from gradient_horizon.cells import VanillaParams, make_cell
from gradient_horizon.cells.vanilla import plain_cell
from gradient_horizon.clipping import clip_gradients, global_norm
from gradient_horizon.experiments.notes import notes_matrix
from gradient_horizon.jacobian import log_jacobian_norms
from gradient_horizon.lyapunov import cell_log_det, largest_lyapunov_exponent, lyapunov_exponents
from gradient_horizon.rollout import rollout
from gradient_horizon.spectra import log_singular_values, log_singular_values_at_lags
from gradient_horizon.verify import plots
from gradient_horizon.verify.line import CHAIN_RULE, ROUNDING, Item, Line, Plot, log_norms, product_rounding, worst
from gradient_horizon.verify.networks import gaussian, linear

EPS32, EPS64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)
CALCULUS = "calculus"
FACTORS = "each factor is exact to n eps κ(J_t), and the steps add up"


def _sech_squared(x):
    return 1.0 / np.cosh(x) ** 2


def _sigmoid_slope(x):
    return 1.0 / (2.0 * np.cosh(0.5 * x)) ** 2


def _erf_slope(x):
    return 2.0 / math.sqrt(math.pi) * np.exp(-x * x)


SLOPES = {"tanh": (_sech_squared, 40.0), "sigmoid": (_sigmoid_slope, 80.0), "erf": (_erf_slope, 9.0)}
"""φ′ in float64 by another formula than the package's, and the |x| up to which it is a normal float32."""


def slopes_of_saturated_units(full: bool) -> Iterator[Item]:
    """φ′ in float32, where 1 - φ² has no digit left; and log φ′ where φ′ itself underflows."""
    for name, (exact, reach) in SLOPES.items():
        slope = jax.jit(jax.vmap(jax.grad(ACTIVATIONS[name].value)))
        x = np.linspace(-reach, reach, 2001).astype(np.float32)
        true = exact(x.astype(np.float64))
        # of erf′ = exp(-x²), the rounding of x² is worth x² eps/2
        relative = EPS32 * (4.0 + (x.astype(np.float64) ** 2 if name == "erf" else 0.0))
        origin = "a few roundings of exp and of the quotient: 4 eps φ′ in float32"
        if name == "erf":
            origin = "4 eps φ′ in float32, and x² eps φ′ for the rounding of x²"
        if name == "tanh":
            yield Line(
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
    """At a kink the gradient passes."""
    places = {"relu": [0.0, -0.0, -1e-30], "hard_tanh": [1.0, -1.0, 1.0000001]}
    for name, x in places.items():
        slope = jax.jit(jax.vmap(jax.grad(ACTIVATIONS[name].value)))(np.array(x, np.float32))
        at = "0 and -0 pass, -1e-30 does not" if name == "relu" else "1 and -1 pass, 1 + eps does not"
        yield worst(f"{name}′: {at}", "the convention that x ≥ 0 passes", [1.0, 1.0, 0.0], slope, 0.0, "exact")


def underflow(full: bool) -> Iterator[Item]:
    """A product far below the smallest float32, and one that only rotates and grows."""
    n, steps, g = 3, 400, 1.1
    measure = jax.jit(lambda w: log_jacobian_norms(linear, w, jnp.zeros(n, jnp.float32), steps=steps)["frobenius"])
    matrix = notes_matrix(3, n, 0.5).astype(np.float32)
    found = np.asarray(measure(matrix))
    factors = np.repeat(matrix[None].astype(np.float64), steps, axis=0)
    lags = np.array([96, 200, 400])
    yield worst(
        "underflow: log‖W^τ‖_F at lags 96, 200, 400 of the study notes' 3 × 3 matrix, float32 (the sum of squares"
        " underflows to 0 at lag 96)",
        "float64 powers, which do not underflow", log_norms(factors, "end")[lags - 1], found[lags - 1],
        [product_rounding(factors[:lag], np.float32) for lag in lags], ROUNDING,
    )  # fmt: skip
    eigenvalues, vectors = np.linalg.eig(factors[0])
    yield Line(
        "fixed W, linear: log‖W^τ‖_F / τ → log of the spectral radius, τ = 400, the same matrix", "Gelfand 1941",
        math.log(np.abs(eigenvalues).max()), float(found[-1]) / steps,
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
    """The order of the product, shown by a short cycle of different matrices."""
    xs = np.tile(np.random.default_rng(0).standard_normal((3, 4, 4)), (6, 1, 1))[:16]
    for anchor in names.ANCHORS:
        found = jax.jit(lambda xs, anchor=anchor: log_jacobian_norms(linear, None, jnp.zeros(4), xs, anchor=anchor))(xs)
        chosen = [xs[-lag:] if anchor == "end" else xs[:lag] for lag in range(1, len(xs) + 1)]
        which = "∂h_T/∂h_t = J_T ⋯ J_(t+1)" if anchor == "end" else "∂h_t/∂h_0 = J_t ⋯ J_1"
        yield worst(
            f"order of the product: {which} for a cycle of three matrices, every lag",
            CHAIN_RULE, log_norms(xs, anchor), found["frobenius"],
            [product_rounding(factors, np.float64) for factors in chosen],
            ROUNDING,
        )  # fmt: skip


def state(full: bool) -> Iterator[Item]:
    """The state at which J_t is taken, shown by two units whose pre-activations change at every step."""
    cell = make_cell("tanh", 2, 1)
    w, u = np.array([[0.5, -1.0], [0.8, 0.3]]), np.array([[1.0], [-2.0]])
    params = VanillaParams(jnp.asarray(w), jnp.asarray(u), jnp.zeros(2))
    xs = np.array([[0.0], [1.5], [-0.7], [0.1], [1.1], [-1.4], [0.4], [0.9]])
    h, factors = np.array([0.3, -0.6]), []
    for x in xs:
        a = w @ h + u @ x
        factors.append(_sech_squared(a)[:, None] * w)
        h = np.tanh(a)
    factors = np.array(factors)
    for anchor in names.ANCHORS:
        found = jax.jit(
            lambda xs, anchor=anchor: log_jacobian_norms(cell.step, params, jnp.array([0.3, -0.6]), xs, anchor=anchor)
        )(xs)
        chosen = [factors[-lag:] if anchor == "end" else factors[:lag] for lag in range(1, len(xs) + 1)]
        yield worst(
            f"state of J_t: diag(φ′(W h_(t-1) + U x_t)) W, two driven tanh units, from the {anchor}, every lag",
            CHAIN_RULE, log_norms(factors, anchor), found["frobenius"],
            [product_rounding(part, np.float64) for part in chosen],
            ROUNDING,
        )  # fmt: skip


def zero_is_a_value(full: bool) -> Iterator[Item]:
    """Products that are exactly zero, that only look like it, and steps without an inverse."""
    cell = make_cell("relu", 4)
    alive = gaussian(np.random.default_rng(0), 4, dtype="float32")
    dead = replace(alive, bias=jnp.full(4, -10.0, jnp.float32))
    h = np.ones(4, np.float32)
    found = jax.jit(lambda h: log_jacobian_norms(cell.step, dead, h, steps=4)["frobenius"])(h)
    yield worst(
        "a ReLU network whose units are all shut: log‖M‖ = -inf at every lag, never NaN", "M = 0",
        -math.inf, found, 0.0, "a value, not a rounding",
    )  # fmt: skip

    fall = np.array([[1.0, 1e-20]] * 7 + [[0.0, 1.0]], np.float32)
    series = log_jacobian_norms(
        lambda _, h, x: h * x, None, jnp.ones(2, jnp.float32), jnp.asarray(fall), anchor="start"
    )
    yield Line(
        "a product of which float32 loses a part (10⁻¹⁴⁰ of the rest) before the rest dies: no false zero",
        "log of the part that is left", 7.0 * math.log(float(np.float32(1e-20))), float(series["frobenius"][-1]),
        EPS32 * 7.0 * abs(math.log(1e-20)), "rounding of the result to float32: eps |log norm|",
    )  # fmt: skip

    masks = np.full((12, 3), 0.5)
    masks[4, 2] = 0.0
    shut = jax.jit(lambda xs: lyapunov_exponents(lambda _, h, x: h * x, None, jnp.zeros(3), xs, transient=6))(masks)
    yield worst(
        "one J_t singular: its direction has the exponent -inf, the others keep theirs (log ½)", "M is a projection",
        [math.log(0.5), math.log(0.5), -math.inf], shut.exponents, [4 * EPS64, 4 * EPS64, 0.0],
        "rounding of the logs: 4 eps; -inf is exact",
    )  # fmt: skip
    yield Line(
        "one J_t singular: both sides of the sum rule are -inf, and its violation is NaN",
        "-inf - (-inf)", math.nan, float(shut.sum_rule_error), 0.0, "a value, not a rounding",
    )  # fmt: skip


def one_bad_network(full: bool) -> Iterator[Item]:
    """A network that overflows, among others in one block of the command line's own experiment."""
    n, steps, growing, shrinking = 3, 100, 4.0, 0.5
    seeds = [0, 1]
    settings = {
        "cell": "linear", "weights": "identity", "hidden_size": n, "steps": steps, "seeds": seeds,
        "weight_scales": [shrinking, growing], "anchors": ["start"], "bias_scale": 0.1,
    }  # fmt: skip
    dataset = experiments.measure(config.checked(settings), lambda _: None)
    cell = make_cell("linear", n)
    # h_t = 4^t (h_0 + b/3) - b/3
    starts = [cell.initial_state(key) + cell.init(key, bias_scale=0.1).bias / 3 for key in map(jax.random.key, seeds)]
    overflow = [math.ceil((128 - math.log2(float(jnp.abs(h).max()))) / math.log2(growing)) for h in starts]
    bad = dataset.first_bad_step.sel(weight_scale=growing)
    yield worst(
        "h_t = 4 h_(t-1) + b, float32: the first state that is not finite is the first with 4^t max|h_0 + b/3| ≥ 2^128",
        "the range of float32", overflow, bad, 0.0, "exact",
    )  # fmt: skip
    log_norm = dataset.log_norm_from_start.isel(norm=0)
    lost = np.isnan(log_norm.sel(weight_scale=growing)).sum("lag")
    yield worst(
        "its log norm is NaN from that step on, and only there: number of such lags", "T - t + 1",
        steps - np.array(overflow) + 1, lost, 0.0, "exact",
    )  # fmt: skip
    lag = np.arange(1, steps + 1)
    expected = 0.5 * math.log(n) + lag * math.log(shrinking)
    yield worst(
        "networks beside it in the same block are untouched: W = ½ I, log‖M‖_F = ½ log N + τ log ½",
        "M = I / 2^τ", expected, log_norm.sel(weight_scale=shrinking),
        4 * EPS32, "one root of a sum in float32 (the halving is exact): 4 eps",
    )  # fmt: skip


def dying_state(full: bool) -> Iterator[Item]:
    """A ReLU state that falls below the smallest float32, and its slopes, which must not change there."""
    steps, g = 256, 0.25
    settings = {"cell": "relu", "hidden_size": 8, "steps": steps, "seeds": 8, "weight_scales": [g, 1.0]}
    log_norm = experiments.measure(config.checked(settings), lambda _: None).log_norm.isel(norm=0)
    lag = np.arange(1, steps + 1)
    expected = log_norm.sel(weight_scale=1.0).values + lag * math.log(g)
    yield worst(
        f"ReLU without bias and input: log‖M‖ at g = ¼ is that at g = 1 plus τ log ¼, every lag to {steps}, while h_t"
        " falls far below the smallest float32",
        "Euler: homogeneous of degree 1", expected, log_norm.sel(weight_scale=g), 8 * EPS64 * np.abs(expected),
        "powers of two are exact, so both sides have the same digits; the logs round by eps in float64",
    )  # fmt: skip


def lost_tail(full: bool) -> Iterator[Item]:
    """The sum of all exponents, which a spectrum that has lost its tail does not have."""
    n, steps = (128, 2000) if full else (48, 1000)
    gains = np.array([0.8, 1.5, 3.0, 6.0])
    cell = plain_cell("tanh", n, 0)
    largest, error = [], []
    for dtype, eps in (("float32", EPS32), ("float64", EPS64)):
        unit = gaussian(np.random.default_rng(1), n, dtype=dtype)
        h = jnp.asarray(np.random.default_rng(2).standard_normal(n), dtype)

        def measure(g, unit, h, cell=cell):
            params = replace(unit, recurrent=g * unit.recurrent)
            spectrum = lyapunov_exponents(cell.step, params, h, steps=steps, log_det=cell_log_det(cell))
            states = rollout(cell.step, params, h, steps=steps).states
            return spectrum, jax.vmap(partial(cell.preactivation, params))(states[:-1])

        spectrum, a = jax.jit(jax.vmap(measure, (0, None, None)))(gains.astype(dtype), unit, h)
        w, a = np.asarray(unit.recurrent, np.float64), np.asarray(a, np.float64)
        slopes = np.mean(2 * (math.log(2) - np.logaddexp(a, -a)), axis=(1, 2))
        yield worst(
            f"sum rule in {dtype}: Σ_i λ_i / N = mean log|det J_t| / N, tanh, N = {n}, g = 0.8, 1.5, 3, 6",
            "log|det J_t| = log|det W| + Σ_i log φ′(a_i)",
            np.linalg.slogdet(w)[1] / n + np.log(gains) + slopes,
            np.mean(np.asarray(spectrum.exponents, np.float64), axis=1), eps * float(np.linalg.cond(w)),
            "backward error of an elimination: n eps κ(W) a step, over n units (Higham 2002, section 9.3)",
        )  # fmt: skip
        chaotic = list(gains).index(3.0)
        largest.append(float(spectrum.exponents[chaotic, 0]))
        error.append(float(spectrum.standard_error[chaotic, 0]))
    yield Line(
        f"chaos parts the float32 and the float64 trajectory, not their largest exponents: T = {steps}",
        "Oseledets 1968: one exponent for almost every trajectory", largest[1], largest[0], 6.5 * math.hypot(*error),
        "6.5 standard errors from 10 blocks of steps each: t of 9 degrees of freedom exceeds it once in 10⁴",
    )  # fmt: skip


def clip_rules(full: bool) -> Iterator[Item]:
    """Rules for one thing that do not do the same thing."""
    c, gradient = 0.01, {"w": np.array([[0.006, -0.003], [0.009, 0.001]]), "b": np.array([0.002, -0.004])}
    n = math.sqrt(sum(float(np.sum(leaf**2)) for leaf in gradient.values()))
    gradient = {name: jnp.asarray(leaf) for name, leaf in gradient.items()}
    size = {rule: float(global_norm(clip_gradients(gradient, c, rule))) for rule in ("book", "pseudocode", "optax")}
    rounding = "a few roundings of the norm and the quotient: 8 eps"
    yield Line(
        "clipping at c = 0.01: the notes' code over their formula, log of the clipped norms",
        "c/(n + 1e-6) against c/n", -math.log1p(1e-6 / n), math.log(size["book"] / size["pseudocode"]), 8 * EPS64,
        rounding,
    )  # fmt: skip
    yield worst(
        "clipping: the pseudo-code's and optax's rule leave the norm c", "c/n if n ≥ c",
        c, [size["pseudocode"], size["optax"]], 8 * EPS64 * c, rounding,
    )  # fmt: skip
    still = jax.tree.map(jnp.zeros_like, gradient)
    norms = [float(global_norm(clip_gradients(still, 0.0, rule))) for rule in ("book", "pseudocode", "value", "optax")]
    yield worst(
        "clipping a gradient of zeros at c = 0: 0 by every rule but optax's, which divides 0 by 0",
        "the rules themselves", [0.0, 0.0, 0.0, math.nan], norms, 0.0, "values, not roundings",
    )  # fmt: skip


def small_singular_values(full: bool) -> Iterator[Item]:
    """Singular values that no formed product holds."""
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
        slopes.append(_sech_squared(w @ h))
        h = np.tanh(w @ h)
    jacobians = np.array(slopes)[:, :, None] * w
    yield Line(
        "sum of all log σ_i(M) = T log|det W| + Σ_t Σ_i log φ′(a_t,i), tanh, T = 100", "determinant of a product",
        steps * float(np.linalg.slogdet(w)[1]) + float(np.sum(np.log(slopes))), float(np.sum(measure(jacobians))),
        float(n * EPS64 * sum(np.linalg.cond(jacobian) for jacobian in jacobians)), FACTORS,
    )  # fmt: skip


def long_sums(full: bool) -> Iterator[Item]:
    """Sums of many equal logs, which one float32 rounds always the same way."""
    steps = 1_000_000 if full else 100_000
    rates = np.array([1.3, 0.7, 0.01], np.float32)
    h = jnp.zeros(3, jnp.float32)
    measure = jax.jit(lambda w: lyapunov_exponents(linear, w, h, steps=steps + 1000, transient=1000))
    spectrum = measure(np.diag(rates))
    yield worst(
        f"λ_i of a diagonal matrix over {steps} steps in float32 are log 1.3, log 0.7, log 0.01",
        "W^T = diag(w_i^T)", np.log(rates.astype(np.float64)), spectrum.exponents,
        EPS32 * (1.0 + np.abs(np.log(rates.astype(np.float64)))),
        "a product and a log round by eps each step, the exponent once; the sum of the logs by nothing",
    )  # fmt: skip
    yield worst(
        "and their standard errors, of rates that never change, are 0", "the blocks are equal", 0.0,
        spectrum.standard_error, EPS32, "rounding of one step: eps",
    )  # fmt: skip


def exact_zeros(full: bool) -> Iterator[Item]:
    """A shift register, which forgets its first cell at each step and nothing else."""
    n, lags = 8, (3, 8, 12)
    shift = np.eye(n, k=1)
    found = jax.jit(lambda w: log_singular_values_at_lags(linear, w, jnp.zeros(n), steps=lags[-1], lags=lags))(shift)
    predicted = [[0.0] * max(n - lag, 0) + [-math.inf] * min(n, lag) for lag in lags]
    yield worst(
        "a shift register of 8 cells: after τ = 3, 8, 12 steps log σ_i is 0 for the 8 - τ that are left, else -inf",
        "W^τ has ones on the τth superdiagonal alone", predicted, found, 4 * EPS64,
        "rounding of the logs: 4 eps; -inf is exact",
    )  # fmt: skip
    blocks = np.kron(np.eye(3, k=1), np.ones((2, 2))) * np.random.default_rng(1).standard_normal((6, 6))
    lags = (1, 2, 3, 5)
    found = jax.jit(lambda w: log_singular_values_at_lags(linear, w, jnp.zeros(6), steps=lags[-1], lags=lags))(blocks)
    yield worst(
        "three blocks of two units, each of which reads the next one alone: number of σ_i that are 0 after τ = 1, 2, 3,"
        " 5 steps", "W^τ has 3 - τ blocks", [min(2 * lag, 6) for lag in lags], np.isneginf(found).sum(axis=1), 0.0,
        "exact",
    )  # fmt: skip
    spectrum = jax.jit(lambda w: lyapunov_exponents(linear, w, jnp.zeros(n), steps=20))(shift)
    yield worst(
        "all Lyapunov exponents of the shift register are -inf", "W^8 = 0", -math.inf, spectrum.exponents, 0.0, "exact",
    )  # fmt: skip


def hand_over(full: bool) -> Iterator[Item]:
    """Parts that shrink and grow at different times, further than floats reach."""
    s = np.float32(2.0**-10)
    xs = np.array([[s, 1.0]] * 40 + [[1.0, s]] * 60, np.float32)
    h, lags = jnp.zeros(2, jnp.float32), (40, 80, 100)

    def step(_, h, x):
        return h * x

    found = jax.jit(lambda xs: log_singular_values_at_lags(step, None, h, xs, lags=lags))(xs)
    bits = [np.sort(np.log2(xs[-lag:].astype(np.float64)).sum(axis=0))[::-1] for lag in lags]
    yield worst(
        "two units, one 2⁻⁴⁰⁰ before the other falls to 2⁻⁶⁰⁰: both log σ_i at lags 40, 80, 100, float32",
        "M is diagonal", np.array(bits) * math.log(2), found, EPS32 * np.abs(bits),
        "rounding of the result: eps |log σ|",
    )  # fmt: skip
    trajectory = rollout(step, None, h, xs)
    one = jax.jit(lambda xs: lyapunov_exponents(step, None, h, xs, count=1).exponents[0])(xs)
    vector = jax.jit(lambda xs: largest_lyapunov_exponent(step, None, h, trajectory, xs))(xs)
    yield worst(
        "their largest exponent, by one vector: that of the first, 2⁻⁴ a step, 2⁻⁴⁰⁰ of the second at step 40",
        "M is diagonal", -4 * math.log(2), [one, vector], 3.0 / len(xs),
        "the start's share of either unit: at least e⁻³",
    )  # fmt: skip


def products_that_hand_over(full: bool) -> Iterator[Item]:
    """Tangent vectors, and entries of one vector, that grow and decay at different times."""
    for dtype in (np.float32, np.float64):
        for n in (2, 5, 16, 64) if full else (2, 16):
            steps, rng = (60, np.random.default_rng(n)) if n > 2 else (350, np.random.default_rng(n))
            # A unit falls by 2^-7 a step (float64: 2^-60) up to a time of its own and rises from there on, the next one
            # the other way round: the lead changes when the one lies further below than floats reach.
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
                found = measure(factors, jnp.zeros(n, dtype))
                running = np.cumsum(bits if anchor == "start" else bits[::-1], axis=0)
                sizes = np.square(mix.astype(np.float64)) if factors is mixed else np.eye(n)
                exact = _log_norms_of_rows(running, sizes)
                rounding = np.finfo(dtype).eps * (np.abs(exact) + n + 8.0)
                yield worst(
                    f"{n} {what} that hand over, ‖M‖_F at every lag from the {anchor}, float{digits}",
                    "M is a diagonal matrix" + (" times a fixed one" if factors is mixed else ""), exact,
                    found["frobenius"][-len(exact):], rounding, "rounding of the first factor and of the result",
                )  # fmt: skip
                if factors is xs:
                    yield worst(
                        f"and their spectral norms, N = {n}, from the {anchor}, float{digits}", "M is diagonal",
                        running.max(axis=1) * math.log(2), found["spectral"],
                        np.finfo(dtype).eps * (np.abs(exact) + 16.0), "the search's: 16 eps",
                    )  # fmt: skip


def _log_norms_of_rows(bits: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """log ‖diag(2^`bits`) R‖_F at every lag, `squares` the squares of R's entries."""
    logs = 2.0 * math.log(2.0) * bits + np.log(squares.sum(axis=1))
    return 0.5 * np.logaddexp.reduce(logs, axis=1)
