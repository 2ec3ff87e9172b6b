"""Gradients of inputs against automatic differentiation of the whole rollout, and against exact products."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_families import FAMILIES, any_of
from jax import lax
from jax.flatten_util import ravel_pytree
from quick_programs import compiled

from gradient_horizon import InputGradients, log_input_gradients, make_cell
from gradient_horizon.measures import pulled_rows

KEY = jax.random.key(3)
BOTH = ("frobenius", "spectral")
STEPS, D = 7, 2


def normal(*shape, dtype="float64"):
    return jax.random.normal(KEY, shape, jnp.float32).astype(dtype)


def last_state(step, params, h0, xs):
    return lax.scan(lambda h, x: (step(params, h, x), None), h0, xs)[0]


def logs_of(jacobian):
    """Log norms of (k, T, d), for every input."""
    with np.errstate(divide="ignore"):  # zero is a value
        return {
            name: np.log([np.linalg.norm(jacobian[:, t], order) for t in range(jacobian.shape[1])])
            for name, order in (("frobenius", None), ("spectral", 2))
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_oracle_jacrev_of_the_whole_rollout(family):
    cells, step = any_of(family, 5, D)
    at = 4

    @compiled
    def measure(chosen, h, xs):
        def output(state):  # as every cell of the family has it
            return next(iter(cells.values())).output(state)[:2]

        def state(xs):
            return ravel_pytree(last_state(step, chosen, h, xs))[0]

        def readout(xs):
            return output(last_state(step, chosen, h, xs))

        found = (
            log_input_gradients(step, chosen, h, xs, norms=BOTH),
            log_input_gradients(step, chosen, h, xs, norms=BOTH, output=output),
            log_input_gradients(step, chosen, h, xs, norms=BOTH, at=at),
        )
        return found, (jax.jacrev(state)(xs), jax.jacrev(readout)(xs), jax.jacrev(state)(xs[:at]))

    for place, cell in enumerate(cells.values()):
        params = cell.init(KEY, 1.3, bias_scale=0.2, dtype=jnp.float64)
        found, expected = measure((place, params), cell.initial_state(KEY, dtype=jnp.float64), normal(STEPS, D))
        for measured, jacobian in zip(found, expected, strict=True):
            length = jacobian.shape[1]
            for norm in BOTH:
                # a step rounds by some √n eps; the product cancels by ‖A‖‖B‖/‖AB‖ ≲ n
                np.testing.assert_allclose(
                    measured[norm][:length], logs_of(jacobian)[norm], atol=30 * STEPS * np.finfo(float).eps, rtol=0
                )
                assert np.all(measured[norm][length:] == -np.inf)
                assert len(measured[norm]) == STEPS


def own_step(params, state, x):
    """A state of several parts, a counter and a key among them; inputs with a token among them."""
    h = jnp.tanh(params["W"] @ state["h"] + x["a"] + params["E"][x["token"]] * x["b"] + state["slow"])
    noise = jax.random.normal(jax.random.fold_in(state["key"], state["count"]), (3,), jnp.float32).astype(h.dtype)
    return {
        "count": state["count"] + 1,
        "h": h + 0.1 * noise,
        "key": state["key"],
        "slow": 0.9 * state["slow"] + 0.1 * h * h,
    }


def own_network():
    params = {"W": normal(3, 3), "E": normal(5, 3)}
    state = {"count": jnp.int32(0), "h": normal(3), "key": KEY, "slow": jnp.zeros(3, jnp.float64)}
    xs = {"a": normal(STEPS, 3), "b": normal(STEPS), "token": jnp.arange(STEPS, dtype=jnp.int32) % 5}
    return params, state, xs


@pytest.mark.parametrize("at", [None, 3])
def test_pytrees_with_counters_keys_and_tokens(at):
    params, state, xs = own_network()
    length = STEPS if at is None else at

    def output(state):
        return {"one": state["h"][0] * state["slow"], "count": state["count"]}

    def readout(floats):
        first = {name: leaf[:length] for name, leaf in {**xs, **floats}.items()}
        end = last_state(own_step, params, state, first)
        return end["h"][0] * end["slow"]

    found = log_input_gradients(own_step, params, state, xs, output=output, at=at)["frobenius"]
    jacobian = jax.jit(jax.jacrev(readout))({"a": xs["a"], "b": xs["b"]})
    expected = logs_of(np.concatenate([jacobian["a"], np.asarray(jacobian["b"])[..., None]], axis=2))
    np.testing.assert_allclose(found, expected["frobenius"], atol=30 * STEPS * np.finfo(float).eps)


@pytest.mark.parametrize(("scale", "dtype"), [(0.3, "float32"), (1.7, "float64")])
def test_ten_thousand_steps_neither_vanish_nor_explode_in_the_arithmetic(scale, dtype):
    """∂h_T/∂x_t = (gQ)^(T-t) U: the norm is g^(T-t) ‖U‖_F, far outside the range of floats."""
    n, steps = 8, 10_000
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    matrices = jnp.asarray(scale * q, dtype), normal(n, D, dtype=dtype)

    def step(params, h, x):
        return params[0] @ h + params[1] @ x

    # the states of the linear network that grows would overflow: at zero input they do not
    found = log_input_gradients(step, matrices, jnp.zeros(n, dtype), jnp.zeros((steps, D), dtype))
    lag = found.lag
    assert lag[0] == steps - 1
    expected = lag * math.log(scale) + math.log(np.linalg.norm(np.asarray(matrices[1], np.float64)))
    eps = float(np.finfo(dtype).eps)
    # gQ is orthogonal to √n eps, which adds up over the steps; the log rounds by eps of its size
    np.testing.assert_allclose(
        found["frobenius"], expected, atol=4 * eps * (np.sqrt(n) * steps + np.abs(expected).max())
    )
    assert np.all(np.abs(found["frobenius"][: steps // 2]) > 1000)


def exact_logs(factors, last):
    """log of the root of the sum of squares of `last` Π factors over later steps, by fractions, at every step."""
    row, logs = [Fraction(float(one)) for one in last], []
    for factor in factors[::-1]:
        square = sum(one * one for one in row)
        size = square.numerator.bit_length() - square.denominator.bit_length()
        logs.append(0.5 * (math.log(float(square / Fraction(2) ** size)) + size * math.log(2)))
        row = [one * Fraction(float(x)) for one, x in zip(row, factor, strict=True)]
    return np.array(logs[::-1])


def unit_step(_, h, x):
    """Units that never meet: h ← a h + u, with a the first part of the input and not differentiated."""
    return lax.stop_gradient(x["a"]) * h + x["u"]


SMALL = 2.0**-10
HAND_OVER = np.array([[SMALL, 1.0]] * 40 + [[1.0, SMALL]] * 20)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", [1, -1])
def test_entries_of_one_row_that_hand_over_to_each_other(order, dtype, jitted):
    factors = HAND_OVER[::order]
    sizes = factors if dtype == "float32" else factors**8  # wider floats, wider gaps
    xs = {"a": jnp.asarray(sizes, dtype), "u": jnp.zeros(sizes.shape, dtype)}

    def measure(xs):
        return log_input_gradients(unit_step, None, jnp.zeros(2, dtype), xs, output=lambda h: h[0] + 3 * h[1])

    found = (jax.jit(measure) if jitted else measure)(xs)["frobenius"]
    expected = exact_logs(sizes, [1, 3])
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, expected, rtol=4 * eps, atol=8 * eps)


def test_rows_with_an_exponent_each_need_no_exponent_for_each_entry(monkeypatch):
    """Units of a diagonal network decay at their own rates, and no entry is next to another."""

    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(pulled_rows, "_careful", never)
    rates = np.array([2.0**-1, 2.0**-3])
    xs = {"a": jnp.asarray(np.tile(rates, (500, 1)), jnp.float32), "u": jnp.zeros((500, 2), jnp.float32)}
    found = compiled(lambda xs: log_input_gradients(unit_step, None, jnp.zeros(2, jnp.float32), xs))(xs)
    lag = np.arange(499, -1, -1)
    expected = -lag * np.log(2.0) + 0.5 * np.log1p(2.0 ** (-4.0 * lag))
    np.testing.assert_allclose(found["frobenius"], expected, rtol=4 * float(np.finfo(np.float32).eps), atol=1e-6)


def test_what_is_not_read_is_exactly_zero():
    def step(keep, h, x):
        return jnp.where(keep, h, jnp.zeros_like(h)) + jnp.where(x > 0, x, jnp.zeros_like(x))

    xs = jnp.asarray([1.0, -1.0, 2.0, -3.0, 4.0], jnp.float32)[:, None]
    found = log_input_gradients(step, jnp.asarray(True), jnp.zeros(1, jnp.float32), xs)["frobenius"]
    np.testing.assert_array_equal(found, [0, -np.inf, 0, -np.inf, 0])
    forgets = log_input_gradients(step, jnp.asarray(False), jnp.zeros(1, jnp.float32), xs)
    np.testing.assert_array_equal(forgets["frobenius"], [-np.inf] * 4 + [0])
    assert float(forgets.reach()) == 0


def test_states_that_are_not_finite_are_flagged_from_there_back():
    cell = make_cell("linear", 2, 2)
    xs = jnp.zeros((5, 2), jnp.float32).at[1].set(jnp.inf)  # h_2 and all later states
    found = log_input_gradients(cell.step, cell.init(KEY), cell.initial_state(), xs)
    assert np.all(np.isnan(found["frobenius"]))
    assert not np.any(found.finite)
    assert np.isnan(found.reach())
    before = log_input_gradients(cell.step, cell.init(KEY), cell.initial_state(), xs, at=1)
    np.testing.assert_array_equal(before.finite, [True] * 5)
    assert np.isfinite(before["frobenius"][0])


def test_complex_states_and_inputs():
    rates = np.array([0.9, 0.7]) * np.exp([0.3j, 1.1j])
    b, c = np.asarray(normal(2, D)) + 0.5j, np.asarray(normal(3, 2)) - 1j
    lags = np.arange(STEPS - 1, -1, -1)
    states = np.stack([np.diag(rates**lag) @ b for lag in lags], axis=1)
    h0 = jnp.zeros(2, jnp.complex128)

    def step(params, h, x):
        return params[0] * h + params[1] @ x.astype(jnp.complex128)

    def measure(xs, output=None, step=step):
        return log_input_gradients(step, (jnp.asarray(rates), jnp.asarray(b)), h0, xs, norms=BOTH, output=output)

    real = normal(STEPS, D)
    eps = 30 * STEPS * np.finfo(float).eps
    found = measure(real.astype(jnp.complex128))
    for norm in BOTH:  # a holomorphic map: the complex Jacobian
        np.testing.assert_allclose(found[norm], logs_of(states)[norm], atol=eps)
    # a real input: both parts of the state with respect to it
    np.testing.assert_allclose(measure(real)["frobenius"], logs_of(states)["frobenius"], atol=eps)
    read = np.einsum("kn,ntd->ktd", c, states)
    found = measure(real.astype(jnp.complex128), lambda h: jnp.asarray(c) @ h)
    np.testing.assert_allclose(found["spectral"], logs_of(read)["spectral"], atol=eps)
    np.testing.assert_allclose(found["frobenius"], logs_of(read)["frobenius"], atol=eps)
    found = measure(real, lambda h: (jnp.asarray(c) @ h).real)
    for norm in BOTH:
        np.testing.assert_allclose(found[norm], logs_of(read.real)[norm], atol=eps)
    # the real part of a complex input: a real Jacobian, of half the columns
    found = measure(real.astype(jnp.complex128), step=lambda params, h, x: step(params, h, x.real))
    np.testing.assert_allclose(found["frobenius"], logs_of(states)["frobenius"], atol=eps)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_step_in_their_own_precision(dtype):
    """|∂h_T/∂x_t| = 2^-(T-t) exactly, whatever the bits, where those of a float16 would have ended at 2^-24."""
    xs = jnp.zeros((60, 1), dtype)
    found = log_input_gradients(lambda w, h, x: w * h + x, jnp.asarray(0.5, dtype), jnp.zeros(1, dtype), xs)
    assert found["frobenius"].dtype == jnp.float32
    np.testing.assert_allclose(found["frobenius"], -found.lag * np.log(2.0), rtol=1e-6)


def test_steps_with_one_mode_of_differentiation():
    xs = normal(STEPS, 2)

    def plain(w, h, x):
        return jnp.tanh(w * jnp.tanh(w * h + x) + x)

    def with_loop(w, h, x):
        return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.tanh(w * c[1] + x)), (0, h))[1]

    @jax.custom_vjp
    def own(a):
        return jnp.tanh(a)

    own.defvjp(lambda a: (own(a), own(a)), lambda y, g: (g * (1 - y * y),))

    def with_rule(w, h, x):
        return own(w * own(w * h + x) + x)

    logs = [
        log_input_gradients(step, jnp.float64(0.7), jnp.zeros(2, jnp.float64), xs)["frobenius"]
        for step in (plain, with_loop, with_rule)
    ]
    for other in logs[1:]:
        np.testing.assert_allclose(other, logs[0], atol=30 * STEPS * np.finfo(float).eps)


def test_networks_are_batched_and_differentiated():
    cell = make_cell("tanh", 4, D)
    xs, h0 = normal(STEPS, D), jnp.zeros(4, jnp.float64)

    def measure(w):
        params = cell.init(KEY, 1.2, dtype=jnp.float64)
        return log_input_gradients(cell.step, type(params)(w, params.input, params.bias), h0, xs)

    ws = jax.random.normal(KEY, (3, 4, 4), jnp.float64) / 2
    together = jax.jit(jax.vmap(measure))(ws)
    assert isinstance(together, InputGradients)
    for k, w in enumerate(ws):
        np.testing.assert_allclose(together["frobenius"][k], measure(w)["frobenius"], atol=1e-13)
    assert together.reach(1.0).shape == (3,)

    def first(w):
        return measure(w)["frobenius"][0]

    direction, small = jax.random.normal(jax.random.key(1), (4, 4), jnp.float64), 1e-5
    slope = (first(ws[0] + small * direction) - first(ws[0] - small * direction)) / (2 * small)
    found = jnp.sum(jax.jit(jax.grad(first))(ws[0]) * direction)
    # central differences: small² of the third derivative, eps / small of rounding
    assert float(found) == pytest.approx(float(slope), rel=1e-7)


def test_the_reach_is_the_largest_lag_within_the_threshold():
    def of(logs, at):
        return InputGradients({"frobenius": jnp.asarray(logs, jnp.float64)}, at)

    decades = np.array([-9.0, -2.9, -4.0, 0.0, -1.0]) * np.log(10)
    assert float(of(decades, 5).reach()) == 3
    assert float(of(decades, 5).reach(0.5)) == 1
    assert float(of(decades, 5).reach(20.0)) == 4  # a lower bound
    assert float(of([0.0, -1.0, -np.inf, -np.inf], 2).reach()) == 1
    assert np.isnan(of([-np.inf] * 3, 3).reach())
    assert np.isnan(of([0, np.nan], 2).reach())
    np.testing.assert_array_equal(of(decades, 4).lag, [3, 2, 1, 0, -1])
    with pytest.raises(ValueError, match=r"threshold: 0; allowed: a number above 0"):
        of(decades, 5).reach(0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"norms": ("nuclear",)}, r"norms: \['nuclear'\]; allowed: one or more of frobenius, spectral"),
        ({"norms": ()}, r"norms: \[\]; allowed: one or more of"),
        ({"at": 0}, r"at: 0; allowed: a whole number from 1 to T = 7"),
        ({"at": 8}, r"at: 8; allowed"),
        ({"xs": None}, r"xs: None; allowed: a pytree of arrays with leading axis T"),
        ({"xs": np.arange(7, dtype=np.int32)}, r"xs: \['int32'\] cannot be differentiated; .*embed tokens outside"),
        ({"xs": [np.zeros((7, 2), np.float32), np.zeros(6, np.float32)]}, r"xs: leading axes \[6, 7\] differ"),
        ({"output": lambda h: jnp.int32(0)}, r"output: dtypes \['int32'\]; allowed: float32"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(changed, message):
    cell = make_cell("tanh", 3, D)
    arguments = {"xs": np.zeros((STEPS, D), np.float32), **changed}
    with pytest.raises(ValueError, match=message):
        log_input_gradients(cell.step, cell.init(KEY), cell.initial_state(), **arguments)
