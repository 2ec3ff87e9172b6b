"""Laws that every product of Jacobians obeys. Tolerances: rounding of one step is a few eps √n, and steps add up."""

import math
from dataclasses import replace
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_families import FAMILIES, any_of, whole_rollout
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_programs import compiled

from gradient_horizon import log_jacobian_norms, make_cell, names
from gradient_horizon.measures.jacobian_norms import resolve_method, scaled_norms
from gradient_horizon.measures.states import flatten_step
from gradient_horizon.measures.trajectory import rollout, system_of
from gradient_horizon.numerics.derivatives import jvp_columns
from gradient_horizon.numerics.underflow import smallest

BOTH = ("frobenius", "spectral")


def network(cell, seed=0, scale=1.3, steps=9, dtype=jnp.float64, weights="gaussian", bias=0.2):
    key = jax.random.key(seed)
    params = cell.init(key, scale, weights, bias_scale=bias, dtype=dtype)
    xs = jax.random.normal(key, (steps, cell.input_size), jnp.float32).astype(dtype) if cell.input_size else None
    return params, cell.initial_state(key, dtype=dtype), xs


def log_norms_of(whole, anchor):
    steps = len(whole) - 1
    lags = range(1, steps + 1)
    matrices = [whole[steps, :, steps - lag] if anchor == "end" else whole[lag, :, 0] for lag in lags]
    with np.errstate(divide="ignore"):  # zero is a value
        logs = np.log([[np.linalg.norm(matrix), np.linalg.norm(matrix, 2)] for matrix in matrices])
    return dict(zip(BOTH, logs.T, strict=True))


@pytest.mark.parametrize(("family", "dtype"), [("vanilla", "float32"), *((family, "float64") for family in FAMILIES)])
def test_oracle_jacrev_of_the_whole_rollout(family, dtype):
    steps = 7
    cells, step = any_of(family, 6, 2)
    ways = [(anchor, method) for anchor in names.ANCHORS for method in ("auto", "jacrev")]

    @compiled
    def measure(chosen, h, xs):
        found = {
            (anchor, method): log_jacobian_norms(step, chosen, h, xs, anchor=anchor, norms=BOTH, method=method)
            for anchor, method in ways
        }
        return found, whole_rollout(step, chosen, h, xs)

    for place, cell in enumerate(cells.values()):
        params, h, xs = network(cell, seed=1, scale=1.3, steps=steps, dtype=jnp.dtype(dtype))
        found, whole = measure((place, params), h, xs)
        whole = np.asarray(whole, np.float64)
        for anchor, method in ways:
            expected = log_norms_of(whole, anchor)
            for norm in BOTH:
                measured = found[anchor, method][norm]
                assert measured.dtype == dtype
                # a step rounds by some √n eps; a product of random matrices cancels by ‖A‖‖B‖/‖AB‖ ≲ n
                tolerance = 30 * steps * np.finfo(dtype).eps
                np.testing.assert_allclose(measured, expected[norm], atol=tolerance, rtol=0, err_msg=cell.name)


@pytest.mark.parametrize("anchor", names.ANCHORS)
def test_auto_is_the_method_that_fits_the_anchor(anchor):
    assert resolve_method("auto", anchor) == names.METHOD_OF_ANCHOR[anchor]
    assert resolve_method("jacrev", anchor) == "jacrev"


@pytest.mark.parametrize(("n", "scale", "dtype"), [(3, 0.7, "float64"), (16, 1.0, "float32"), (48, 1.6, "float64")])
def test_orthogonal_weights_scale_every_singular_value_by_g(n, scale, dtype):
    steps = 300
    cell = make_cell("linear", n)
    params, _, _ = network(cell, scale=scale, dtype=jnp.dtype(dtype), weights="orthogonal", bias=0.0)
    h = cell.initial_state(dtype=jnp.dtype(dtype))  # zero: a linear state that grows overflows
    lag = np.arange(1, steps + 1)

    @compiled
    def measure(params, h):
        return [
            log_jacobian_norms(cell.step, params, h, steps=steps, anchor=anchor, norms=BOTH) for anchor in names.ANCHORS
        ]

    for found in measure(params, h):
        # Q is orthogonal to √n eps, and every step adds as much
        tolerance = 4 * np.sqrt(n) * steps * np.finfo(dtype).eps
        np.testing.assert_allclose(found["spectral"], lag * np.log(scale), atol=tolerance)
        np.testing.assert_allclose(found["frobenius"], 0.5 * np.log(n) + lag * np.log(scale), atol=tolerance)


@compiled
def norms_of_powers(params):
    cell = make_cell("linear", len(params.recurrent))
    h = cell.initial_state(dtype=jnp.float64)  # zero: a linear state that grows overflows
    return log_jacobian_norms(cell.step, params, h, steps=2000)["frobenius"]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.8])
def test_gelfand_powers_of_one_matrix_follow_its_eigenvalues(seed, scale):
    steps, n = 2000, 12
    params, _, _ = network(make_cell("linear", n), seed, scale, bias=0.0)
    found = norms_of_powers(params)
    matrix = np.asarray(params.recurrent)
    eigenvalues, vectors = np.linalg.eig(matrix)
    radius = np.abs(eigenvalues).max()
    inverse = np.linalg.inv(vectors)
    for lag in (1, 10, 100, 500, 2000):  # W^τ = V Λ^τ V⁻¹ exactly, not only in the limit
        power = vectors @ np.diag((eigenvalues / radius) ** lag) @ inverse
        expected = lag * np.log(radius) + np.log(np.linalg.norm(power))
        tolerance = 50 * lag * np.linalg.cond(vectors) * np.finfo(float).eps
        assert abs(found[lag - 1] - expected) < tolerance
    assert abs(found[-1] / steps - np.log(radius)) < np.log(np.linalg.cond(vectors) * n) / steps


@pytest.mark.parametrize("anchor", names.ANCHORS)
def test_a_periodic_sequence_of_matrices_is_multiplied_in_the_right_order(anchor):
    rng = np.random.default_rng(0)
    cycle = rng.standard_normal((3, 4, 4))
    xs = np.tile(cycle, (5, 1, 1))
    found = log_jacobian_norms(lambda _, h, x: x @ h, None, jnp.zeros(4), jnp.asarray(xs), anchor=anchor, norms=BOTH)
    for lag in range(1, 16):
        chosen = xs[15 - lag :] if anchor == "end" else xs[:lag]
        product = np.eye(4)
        for matrix in chosen:
            product = matrix @ product
        assert float(found["frobenius"][lag - 1]) == pytest.approx(np.log(np.linalg.norm(product)), abs=1e-12)
        assert float(found["spectral"][lag - 1]) == pytest.approx(np.log(np.linalg.norm(product, 2)), abs=1e-12)


def test_the_jacobian_is_taken_at_the_state_that_the_step_starts_from():
    # h' = h²: J_t = 2 h_{t-1}, so the product over all steps is 2^T h_0 h_1 ... h_{T-1}
    found = log_jacobian_norms(lambda p, h, x: h * h, None, jnp.array([1.1]), steps=5, anchor="start")["frobenius"]
    states = 1.1 ** (2.0 ** np.arange(5))
    np.testing.assert_allclose(found, np.cumsum(np.log(2 * states)), atol=1e-13)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_anchors_agree_at_full_lag(family):
    cells, step = any_of(family, 10, 1)

    @compiled
    def measure(chosen, h, xs):
        trajectory = rollout(step, chosen, h, xs)
        return [
            log_jacobian_norms(step, chosen, h, xs, anchor=anchor, norms=BOTH, trajectory=trajectory)
            for anchor in ("start", "end")
        ]

    for place, cell in enumerate(cells.values()):
        params, h, xs = network(cell, scale=1.1, steps=60)
        start, end = measure((place, params), h, xs)
        for norm in BOTH:
            np.testing.assert_allclose(start[norm][-1], end[norm][-1], atol=1e-13 * 60, err_msg=cell.name)


@compiled
def factors_and_norms(seed, scale):
    """J_1 .. J_12 of a tanh network, and the norms of their products from the start."""
    cell = make_cell("tanh", 8)
    params, h, _ = network(cell, seed, scale)
    flat_step, _ = flatten_step(cell.step, h)
    trajectory = rollout(cell.step, params, h, steps=12)
    eye = jnp.eye(8, dtype=jnp.float64)
    factors = jax.vmap(lambda h: jvp_columns(flat_step, params, h, None, eye))(trajectory.states[:-1])
    norms = log_jacobian_norms(
        cell.step, params, h, steps=12, anchor="start", norms=BOTH, trajectory=trajectory, method="pushforward"
    )
    return factors, norms


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 2.5), st.integers(1, 11))
@settings(deadline=None, max_examples=15)
def test_cocycle(seed, scale, split):
    steps = 12
    factors, found = factors_and_norms(np.uint32(seed), scale)
    factors = np.asarray(factors)

    def product(first, last):
        matrix = np.eye(8)
        for factor in factors[first:last]:
            matrix = factor @ matrix
        return matrix

    late, early = product(split, steps), product(0, split)
    whole = late @ early
    lost = np.linalg.norm(late) * np.linalg.norm(early) / np.linalg.norm(whole)  # cancellation
    assert float(found["frobenius"][-1]) == pytest.approx(
        np.log(np.linalg.norm(whole)), abs=float(1e-13 * steps * lost)
    )
    assert np.log(np.linalg.norm(early, 2)) == pytest.approx(float(found["spectral"][split - 1]), abs=1e-12)
    bound = sum(np.log(np.linalg.norm(product(t, t + 1), 2)) for t in range(steps))
    assert float(found["spectral"][-1]) <= bound + 1e-12


@pytest.mark.parametrize("scale", [0.8, 1.5])
def test_relu_without_bias_and_input_is_homogeneous(scale):
    steps = 40
    cell = make_cell("relu", 20)
    params, h, _ = network(cell, 3, scale, bias=0.0)
    states = rollout(cell.step, params, h, steps=steps).states
    flat_step, _ = flatten_step(cell.step, h)
    vector = h[:, None]
    for t in range(steps):
        vector = jvp_columns(flat_step, params, states[t], None, vector)
    np.testing.assert_allclose(vector[:, 0], states[-1], rtol=1e-13 * steps, atol=0)
    assert bool(jnp.any(states[-1] > 0))


def test_the_notes_halved_matrix_does_not_vanish_in_float32():
    matrix = np.random.RandomState(3).randn(3, 3) * 0.5

    @compiled
    def measure(matrix):
        return log_jacobian_norms(lambda p, h, x: p @ h, matrix, jnp.zeros(3, matrix.dtype), steps=400)

    found, exact = measure(jnp.asarray(matrix, jnp.float32)), measure(jnp.asarray(matrix))
    assert np.all(np.isfinite(found["frobenius"]))
    # the float32 matrix is another one by eps: its exponent differs by some eps a step
    np.testing.assert_allclose(found["frobenius"], exact["frobenius"], atol=400 * 10 * float(np.finfo(np.float32).eps))
    assert float(exact["frobenius"][95]) == pytest.approx(-43.6, abs=1.5)


def test_thousands_of_steps_lose_nothing():
    steps = 20000
    measure = jax.jit(lambda p, h: log_jacobian_norms(lambda p, h, x: h * p, p, h, steps=steps))
    found = measure(jnp.float32(0.75), jnp.ones(2, jnp.float32))
    expected = 0.5 * np.log(2) + np.arange(1, steps + 1) * np.log(0.75)
    np.testing.assert_allclose(found["frobenius"], expected, rtol=2 * float(np.finfo(np.float32).eps), atol=1e-5)


@partial(jax.jit, static_argnums=(2, 3))
def along(h, xs, anchor, norms):
    """Of h ← x h, entry by entry."""
    return log_jacobian_norms(lambda _, h, x: h * x, None, h, xs, anchor=anchor, norms=norms)


def test_a_step_that_shrinks_by_eighty_decades_is_measured():
    factors = jnp.array([1.0, 1e-30, 1.0, 1e-37, 1e30], jnp.float32)
    found = along(jnp.ones(3, jnp.float32), factors, "start", ("frobenius",))
    expected = 0.5 * np.log(3) + np.cumsum(np.log(np.asarray(factors, np.float64)))
    np.testing.assert_allclose(found["frobenius"], expected, rtol=1e-6)


@pytest.mark.parametrize("anchor", names.ANCHORS)
def test_what_float32_flushed_is_found_again_when_it_matters(anchor):
    # one coordinate falls to 1e-100 of the other; then the other one dies
    fall = np.array([[1.0, 1e-20]] * 5 + [[0.0, 1.0]], np.float32)
    xs = jnp.asarray(fall if anchor == "start" else fall[::-1])
    found = along(jnp.ones(2, jnp.float32), xs, anchor, ("frobenius",))
    assert float(found["frobenius"][-1]) == pytest.approx(5 * np.log(np.float64(np.float32(1e-20))), rel=1e-6)
    assert found["frobenius"].dtype == jnp.float32


def linear(w, h, _):
    return w @ h


def diagonal(_, h, x):
    return x * h


def of_diagonal(xs, anchor):
    """Exact log norms of products of diagonal matrices: sums of logs."""
    logs = np.cumsum(np.log(np.asarray(xs, np.float64)) if anchor == "start" else np.log(xs[::-1], dtype=float), axis=0)
    return {"frobenius": 0.5 * np.logaddexp.reduce(2 * logs, axis=1), "spectral": logs.max(axis=1)}


def first_rise_then_fall():
    xs = np.ones((350, 2), np.float32)
    xs[:150, 0], xs[150:, 0] = 2, 0.5
    return xs


s = 2.0**-10
HAND_OVERS = {
    "one grows and shrinks again": first_rise_then_fall(),
    "one dies after the other": np.array([[s, 1]] * 40 + [[1, s]] * 20, np.float32),
    "at once": np.array([[1, 1e-20]] * 7 + [[1e-30, 1]] * 8, np.float32),
    "periodic": np.array(([[s, 1]] * 30 + [[1, s]] * 30) * 5, np.float32),
}


def hand_over_norms(xs, anchor, method="auto"):
    return log_jacobian_norms(diagonal, None, jnp.zeros(2, jnp.float32), xs, anchor=anchor, method=method, norms=BOTH)


def assert_those_of_diagonal(found, xs, anchor, steps=None):
    """`steps`: how many of them round."""
    for norm, expected in of_diagonal(xs, anchor).items():
        # a step rounds by eps if its factor is no power of two, a result by eps of its size
        tolerance = float(np.finfo(np.float32).eps) * (np.abs(expected) + (steps or len(xs)) + 16)
        np.testing.assert_array_less(np.abs(np.asarray(found[norm], float) - expected), tolerance)


hand_over_norms_jitted = jax.jit(hand_over_norms, static_argnums=(1, 2))


@pytest.mark.parametrize("case", HAND_OVERS)
@pytest.mark.parametrize("method", ["auto", "jacrev"])
def test_vectors_that_grow_and_decay_at_different_times(case, method):
    xs = np.ones((350, 2), np.float32)  # one length, one program: steps that change nothing follow
    xs[: len(HAND_OVERS[case])] = HAND_OVERS[case]
    for anchor in names.ANCHORS:
        for order in (xs, xs[::-1]):
            found = hand_over_norms_jitted(order, anchor, method)
            assert_those_of_diagonal(found, order, anchor, steps=len(HAND_OVERS[case]))


def test_eager_and_batched_calls_hand_over_as_well():
    xs = HAND_OVERS["one dies after the other"]
    assert_those_of_diagonal(hand_over_norms(jnp.asarray(xs), "end"), xs, "end")
    both = np.stack([np.ones_like(xs), xs])  # one network of two needs the care
    found = jax.vmap(lambda xs: hand_over_norms(xs, "end"))(both)
    for place, one in enumerate(both):
        assert_those_of_diagonal({norm: values[place] for norm, values in found.items()}, one, "end")


def test_forget_gates_that_hand_over():
    cell = make_cell("lstm", 2, 2)
    params = cell.init(jax.random.key(0), 0.0, input_scale=0.0)
    params = replace(params, forget_gate=replace(params.forget_gate, input=jnp.eye(2, dtype=jnp.float32)))
    xs = np.full((60, 2), 30.0, np.float32)
    xs[:30, 1], xs[30:, 0] = -3.5, -6.0
    found = log_jacobian_norms(
        cell.step,
        params,
        cell.initial_state(),
        jnp.asarray(xs),
        anchor="start",
        norms=BOTH,
        block=lambda state: state.c,
    )
    gates = of_diagonal(1 / (1 + np.exp(-xs.astype(np.float64))), "start")
    assert gates["frobenius"][-1] == pytest.approx(-105.89, abs=0.01)
    for norm in BOTH:  # each σ(x) rounds by some eps
        np.testing.assert_allclose(found[norm], gates[norm], atol=60 * 8 * float(np.finfo(np.float32).eps))


@jax.jit
def of_factors(xs):
    h = jnp.zeros(xs.shape[1], xs.dtype)
    return log_jacobian_norms(lambda _, h, x: x @ h, None, h, xs, anchor="start")["frobenius"]


@given(st.sampled_from([(2, "float32"), (3, "float64"), (17, "float32"), (64, "float64")]), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=8)
def test_parts_of_one_vector_that_hand_over(size, seed):
    n, dtype = size
    # A dense first factor puts every part into every vector; diagonal ones follow, all powers of two.
    rng, steps = np.random.default_rng(seed), 40
    mix = rng.standard_normal((n, n)).astype(dtype)
    reach = 30 if dtype == "float32" else 200
    bits = np.where(np.arange(steps)[:, None] < rng.integers(0, steps + 1, n), 1, -1) * rng.integers(-reach, reach, n)
    factors = np.concatenate([mix[None], np.ldexp(np.ones((), dtype), bits)[:, :, None] * np.eye(n, dtype=dtype)])
    squares = [Fraction(float(row @ row)) for row in mix.astype(np.float64)]

    found = of_factors(jnp.asarray(factors))
    total = np.zeros(n, int)
    for lag in range(steps):
        total = total + bits[lag]
        largest = int(total.max())
        sum_of_squares = sum(
            square * Fraction(4) ** int(power - largest) for square, power in zip(squares, total, strict=True)
        )
        expected = 0.5 * math.log(sum_of_squares) + largest * math.log(2)
        tolerance = np.finfo(dtype).eps * (abs(expected) + n + 8)
        assert abs(float(found[lag + 1]) - expected) <= tolerance


@pytest.mark.parametrize("anchor", names.ANCHORS)
def test_a_shift_register_is_zero_from_its_length_on(anchor):
    shift = jnp.eye(8, k=1, dtype=jnp.float32)
    measure = jax.jit(lambda w, h: log_jacobian_norms(linear, w, h, steps=12, anchor=anchor, norms=BOTH))
    found = measure(shift, jnp.zeros(8, jnp.float32))
    left = np.maximum(8 - np.arange(1, 13), 0)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found["frobenius"], 0.5 * np.log(left), atol=1e-6)
        np.testing.assert_allclose(found["spectral"], np.where(left > 0, 0, -np.inf), atol=1e-6)


@pytest.mark.parametrize("params", [2.0, {"scale": 1, "more": (0.5, None)}, np.float32(3)])
def test_params_may_be_python_numbers_where_a_product_needs_more_care(params):
    xs = HAND_OVERS["one dies after the other"]

    def step(params, h, x):
        scale = sum(value for value in jax.tree.leaves(params))
        return (x * h).astype(jnp.float32) * jnp.float32(scale)

    found = log_jacobian_norms(step, params, jnp.zeros(2, jnp.float32), jnp.asarray(xs))["frobenius"]
    scale = float(sum(jax.tree.leaves(params)))
    expected = of_diagonal(xs, "end")["frobenius"] + np.arange(1, 61) * np.log(scale)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_derivatives_are_right_or_nan():
    xs = jnp.asarray(HAND_OVERS["one dies after the other"])

    @partial(jax.jit, static_argnums=2)
    def last(scale, xs, closed=False):
        step = (lambda _, h, x: scale * x * h) if closed else (lambda p, h, x: p * x * h)
        params = None if closed else scale
        return log_jacobian_norms(step, params, jnp.zeros(2, jnp.float32), xs)["frobenius"][-1]

    one, closed = jnp.float32(1.0), True  # the step itself holds the traced number
    # ten steps; and W = I, looked at again and found right: d log ‖s^T M‖ / ds = T at s = 1
    for safe in (xs[:10], jnp.ones((30, 2), jnp.float32)):
        assert float(jax.grad(last)(one, safe, closed)) == pytest.approx(len(safe), rel=1e-5)
    forward = jax.jvp(lambda s: last(s, xs[:10]), (one,), (one,))[1]
    assert float(forward) == pytest.approx(10, rel=1e-5)
    assert np.isnan(float(jax.grad(last)(one, xs)))


@pytest.mark.parametrize("anchor", names.ANCHORS)
def test_dead_units_give_minus_infinity_and_never_nan(anchor):
    xs = jnp.array([1.0, 1.0, 0.0, 1.0], jnp.float32)
    found = along(jnp.ones(2, jnp.float32), xs, anchor, BOTH)
    finite = [True, True, False, False] if anchor == "start" else [True, False, False, False]
    for norm in BOTH:
        np.testing.assert_array_equal(np.isfinite(found[norm]), finite)
        assert np.all(np.asarray(found[norm])[~np.array(finite)] == -np.inf)


def test_a_state_that_overflows_gives_nan_from_there_on():
    xs = jnp.array([1.0, 1e30, 1e30, 1.0], jnp.float32)
    start = along(jnp.ones(2, jnp.float32), xs, "start", BOTH)["frobenius"]
    np.testing.assert_array_equal(np.isnan(start), [False, False, True, True])
    end = along(jnp.ones(2, jnp.float32), xs, "end", BOTH)["frobenius"]
    assert np.all(np.isnan(end))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchor": "middle"}, "anchor: 'middle' is unknown; allowed: end, start"),
        ({"method": "finite"}, "method: 'finite' is unknown; allowed: auto, jacrev"),
        ({"method": "pushforward"}, "method: 'pushforward' does not fit anchor 'end'; allowed: auto, jacrev, pullback"),
        ({"norms": ("nuclear",)}, r"norms: \['nuclear'\]; allowed: one or more of frobenius, spectral"),
        ({"norms": ()}, r"norms: \[\]; allowed"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        log_jacobian_norms(lambda p, h, x: h, None, jnp.ones(2), steps=3, **settings)


def test_results_have_names_for_one_network_and_for_many():
    """J = s I: log norms k log s + ½ log 3, and beyond a decade after the first k with k |log10 s| > 1."""
    step = lambda s, h, _: s * h  # noqa: E731
    norms = log_jacobian_norms(step, 0.5, jnp.ones(3), steps=6, norms=("frobenius", "spectral"))
    np.testing.assert_allclose(norms["spectral"], np.log(0.5) * norms.lag)
    assert list(norms) == ["frobenius", "spectral"]
    assert norms.lag.tolist() == [1, 2, 3, 4, 5, 6]
    assert norms.finite.all()
    assert norms.horizon(1.0) == (4.0, names.HorizonKind.VANISHED)
    scales = jnp.array([0.5, 1.0, 3.0, jnp.inf])
    many = jax.jit(jax.vmap(lambda s: log_jacobian_norms(step, s, jnp.ones(3), steps=6)))(scales)
    lag, kind = many.horizon(1.0)
    np.testing.assert_array_equal(lag, [4, 7, 3, np.nan])
    assert [names.HORIZON_KINDS[one] for one in kind] == ["vanished", "beyond", "exploded", "nonfinite"]
    assert many.finite.any(axis=1).tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match=r"norms: \['spectral'\]; allowed: norms that include frobenius"):
        log_jacobian_norms(step, 0.5, jnp.ones(3), steps=2, norms=("spectral",)).horizon()


def test_a_product_that_is_exactly_zero_needs_no_exponents():
    """Nilpotent W: M = W^τ is zero from lag N on, and nothing underflows on the way."""
    n, steps = 4, 12
    w = jnp.asarray(np.triu(np.full((n, n), 0.75, np.float32), 1))
    system = system_of(lambda w, h, x: w @ h, w, jnp.ones(n, jnp.float32), None, steps=steps)
    for anchor in ("start", "end"):
        looked_at = scaled_norms(system, anchor=anchor, care=1)
        assert not looked_at.suspect
        expected = [np.linalg.norm(np.linalg.matrix_power(np.asarray(w, float), lag)) for lag in range(1, steps + 1)]
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(looked_at.log()["frobenius"], np.log(expected), rtol=1e-6)


def test_the_smallest_entry_of_nothing_is_nan():
    matrices = jnp.asarray([[[0.0, -0.0], [0.0, 0.0]], [[0.0, -3.0], [2.0, 0.0]]])
    np.testing.assert_array_equal(smallest(matrices), [np.nan, 2.0])
