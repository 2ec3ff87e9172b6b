"""GRU and LSTM against their textbook formulas, and against the closed forms of cells without weights."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cell_families import whole_rollout
from jax.flatten_util import ravel_pytree
from quick_programs import compiled

from gradient_horizon import log_jacobian_norms, make_cell, names
from gradient_horizon.cells import LSTMState
from gradient_horizon.cells.weights import unit_weights

KEY = jax.random.key(4)
GATED = ("gru", "lstm")
EPS = float(np.finfo(np.float32).eps)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def as_numpy(params):
    """W, U and b of each gate in NumPy's hands."""
    return {
        gate: SimpleNamespace(W=np.asarray(part.recurrent), U=np.asarray(part.input), b=np.asarray(part.bias))
        for gate, part in vars(params).items()
    }


def gru_step(gates, h, x):
    z, r = (sigmoid(p.W @ h + p.U @ x + p.b) for p in (gates["update_gate"], gates["reset_gate"]))
    p = gates["candidate"]
    return (1 - z) * h + z * np.tanh(p.W @ (r * h) + p.U @ x + p.b)


def lstm_step(gates, state, x):
    h, c = state
    i, f, o, g = (
        squash(gates[gate].W @ h + gates[gate].U @ x + gates[gate].b)
        for gate, squash in (
            ("input_gate", sigmoid),
            ("forget_gate", sigmoid),
            ("output_gate", sigmoid),
            ("candidate", np.tanh),
        )
    )
    c = f * c + i * g
    return o * np.tanh(c), c


@pytest.mark.parametrize("name", GATED)
def test_the_step_is_the_textbook_formula(name):
    cell = make_cell(name, 6, 2, forget_bias=0.7)
    params = cell.init(KEY, 1.4, bias_scale=0.5, input_scale=0.8, dtype=jnp.float64)
    state, x = cell.initial_state(KEY, 1.5, jnp.float64), jnp.array([0.3, -2.0])
    step = gru_step if name == "gru" else lstm_step
    expected = step(as_numpy(params), jax.tree.map(np.asarray, state), np.asarray(x))
    found = cell.step(params, state, x)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    np.testing.assert_allclose(ravel_pytree(found)[0], np.ravel(expected), rtol=1e-13)
    still = cell.step(params, state, jnp.zeros(2, jnp.float64))
    np.testing.assert_array_equal(ravel_pytree(cell.step(params, state))[0], ravel_pytree(still)[0])


def test_an_lstm_state_is_raveled_h_first():
    cell = make_cell("lstm", 3)
    state = LSTMState(h=jnp.arange(3.0), c=10 + jnp.arange(3.0))
    np.testing.assert_array_equal(ravel_pytree(state)[0], [0, 1, 2, 10, 11, 12])
    assert cell.state_size == ravel_pytree(cell.initial_state())[0].size == 6
    assert make_cell("gru", 3).state_size == 3


@pytest.mark.parametrize("name", GATED)
def test_initial_states(name):
    cell = make_cell(name, 500)
    drawn, _ = ravel_pytree(cell.initial_state(KEY, 3.0, jnp.float64))
    assert not np.any(ravel_pytree(cell.initial_state())[0])
    assert float(jnp.std(drawn)) == pytest.approx(3.0, rel=5 / np.sqrt(2 * 500))
    if name == "lstm":
        assert abs(np.corrcoef(drawn[:500], drawn[500:])[0, 1]) < 5 / np.sqrt(500)


@pytest.mark.parametrize(("name", "weights"), [("gru", "sparse"), ("lstm", "gaussian"), ("lstm", "orthogonal")])
def test_every_recurrent_matrix_is_of_the_ensemble_and_has_its_own_key(name, weights):
    n = 30
    cell = make_cell(name, n, 2)
    plain = cell.init(KEY, 1.0, weights, dtype=jnp.float64)
    scaled = cell.init(KEY, 2.5, weights, bias_scale=2.0, input_scale=3.0, dtype=jnp.float64)
    parts = list(vars(plain).values())
    np.testing.assert_array_equal(plain.recurrent, plain.candidate.recurrent)
    reference = np.linalg.norm(unit_weights(weights, jax.random.key(99), n, jnp.float64))
    for k, part in enumerate(parts):
        # the sum of at least 450 squares of Gaussians, at most rescaled to radius 1, which strays some n^-1/2
        assert np.linalg.norm(part.recurrent) == pytest.approx(reference, rel=5 / np.sqrt(n))
        for other in parts[k + 1 :]:
            assert not np.allclose(part.recurrent, other.recurrent)
            assert not np.allclose(part.input, other.input)
    for part, big in zip(parts, vars(scaled).values(), strict=True):
        np.testing.assert_allclose(big.recurrent, 2.5 * part.recurrent, rtol=1e-15)
        np.testing.assert_allclose(big.input, 3.0 * part.input, rtol=1e-15)
        assert not np.any(part.bias)
    assert float(jnp.std(scaled.candidate.bias)) == pytest.approx(2.0, rel=5 / np.sqrt(2 * n))


def test_the_forget_bias_is_added_to_the_forget_gate_alone():
    biased, plain = (make_cell("lstm", 8, forget_bias=b).init(KEY, bias_scale=0.3) for b in (1.5, 0.0))
    np.testing.assert_array_equal(biased.forget_gate.bias, plain.forget_gate.bias + 1.5)
    for gate in ("input_gate", "output_gate", "candidate"):
        np.testing.assert_array_equal(getattr(biased, gate).bias, getattr(plain, gate).bias)


@pytest.mark.parametrize("bias", [float("nan"), float("inf")])
def test_an_impossible_forget_bias_is_refused(bias):
    with pytest.raises(ValueError, match=r"forget_bias: (nan|inf); allowed: a finite number"):
        make_cell("lstm", 3, forget_bias=bias)


@pytest.mark.parametrize(("anchor", "dtype"), [("end", "float32"), ("end", "float64"), ("start", "float32")])
def test_an_lstm_without_weights_forgets_by_its_gate(anchor, dtype):
    steps, n = 2000, 5
    state = make_cell("lstm", n).initial_state(KEY, dtype=jnp.dtype(dtype))
    blocks = {"h": lambda state: state.h, "c": lambda state: state.c}

    @jax.jit
    def measured(params):
        step = make_cell("lstm", n).step
        return {
            part: log_jacobian_norms(step, params, state, steps=steps, anchor=anchor, norms=names.NORMS, block=block)
            for part, block in blocks.items()
        }

    lag = np.arange(1, steps + 1)
    for bias in (-20.0, -1.0, 0.0, 3.0, 12.0):
        params = make_cell("lstm", n, forget_bias=bias).init(KEY, 0.0, dtype=jnp.dtype(dtype))
        found = jax.tree.map(lambda logs: np.asarray(logs, np.float64), measured(params))
        expected = -lag * np.log1p(np.exp(-bias))  # ∂c_T/∂c_0 = σ(b)^T
        # every step rounds σ(b) and the product once each, and the log of a number of that size is rounded too
        tolerance = np.finfo(dtype).eps * (4 * lag + np.abs(expected) + 10)
        assert np.all(np.abs(found["c"]["spectral"] - expected) <= tolerance)
        assert np.all(np.abs(found["c"]["frobenius"] - 0.5 * np.log(n) - expected) <= tolerance)
        assert all(np.all(logs == -np.inf) for logs in found["h"].values())  # nothing reads h


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gru_without_weights_halves_its_state(dtype):
    steps, n = 2000, 7
    cell = make_cell("gru", n)
    params, state = cell.init(KEY, 0.0, dtype=jnp.dtype(dtype)), cell.initial_state(KEY, dtype=jnp.dtype(dtype))
    measure = compiled(lambda params: log_jacobian_norms(cell.step, params, state, steps=steps, norms=names.NORMS))
    found = measure(params)
    expected = -np.arange(1, steps + 1) * np.log(2)
    tolerance = 2 * np.finfo(dtype).eps * (np.abs(expected) + 2)  # halving is exact; only the log rounds
    frobenius, spectral = (np.asarray(found[norm], np.float64) for norm in names.NORMS)
    assert np.all(np.abs(spectral - expected) <= tolerance)
    assert np.all(np.abs(frobenius - 0.5 * np.log(n) - expected) <= tolerance)


@pytest.mark.parametrize("name", GATED)
def test_closed_gates_have_a_small_derivative_and_not_none(name):
    # float32's y(1 - y) is exactly 0 from a = 17 on
    cell = make_cell(name, 1)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY))
    gate = "update_gate" if name == "gru" else "forget_gate"
    part = getattr(params, gate)

    def slope(bias):
        shifted = type(params)(**{**vars(params), gate: type(part)(part.recurrent, part.input, part.bias + bias)})
        new = cell.step(shifted, jax.tree.map(jnp.ones_like, cell.initial_state()))
        return new[0] if name == "gru" else new.c[0]

    for bias in (-80.0, 20.0, 80.0):
        assert abs(float(jax.grad(slope)(jnp.float32(bias)))) == pytest.approx(np.exp(-abs(bias)), rel=1e-5)


def test_the_block_of_a_product_is_that_of_the_whole_rollout():
    steps, n = 12, 6
    cell = make_cell("lstm", n, 2, forget_bias=1.0)
    params = cell.init(KEY, 1.5, bias_scale=0.3, dtype=jnp.float64)
    state = cell.initial_state(KEY, dtype=jnp.float64)
    xs = jax.random.normal(KEY, (steps, 2), jnp.float64)
    blocks = {"h": (lambda state: state.h, slice(0, n)), "c": (lambda state: state.c, slice(n, 2 * n))}

    @compiled
    def measure(params, state, xs):
        found = {
            (part, anchor): log_jacobian_norms(
                cell.step, params, state, xs, anchor=anchor, norms=names.NORMS, block=block
            )
            for part, (block, _) in blocks.items()
            for anchor in names.ANCHORS
        }
        return found, whole_rollout(cell.step, params, state, xs)

    found, whole = measure(params, state, xs)
    for part, (_, places) in blocks.items():
        for lag in range(1, steps + 1):
            for anchor, matrix in (("end", whole[steps, :, steps - lag]), ("start", whole[lag, :, 0])):
                kept, logs = np.asarray(matrix[places, places]), found[part, anchor]
                assert float(logs["frobenius"][lag - 1]) == pytest.approx(np.log(np.linalg.norm(kept)), abs=1e-12)
                assert float(logs["spectral"][lag - 1]) == pytest.approx(np.log(np.linalg.norm(kept, 2)), abs=1e-12)


def test_a_block_far_smaller_than_the_whole_is_measured():
    # the kept part shrinks by 1e-5 a step beside one that stays: squares underflow from 1e-19 on, the rest from 1e-38
    factors = jnp.array([1.0, 1e-5], jnp.float32)
    found = log_jacobian_norms(
        lambda p, h, x: h * p, factors, jnp.ones(2, jnp.float32), steps=40, block=lambda state: state[1:]
    )["frobenius"]
    expected = np.arange(1, 41) * np.log(np.float64(np.float32(1e-5)))
    np.testing.assert_allclose(found, expected, rtol=3 * EPS)


def test_a_block_that_selects_nothing_is_refused():
    cell = make_cell("lstm", 3)
    for block in (lambda state: (), lambda state: state.h[:0], lambda state: state.h + 0.5):
        with pytest.raises(ValueError, match="block: selects no differentiated entries of the state"):
            log_jacobian_norms(cell.step, cell.init(KEY), cell.initial_state(), steps=2, block=block)


@pytest.mark.parametrize("name", GATED)
def test_networks_are_batched(name):
    cell = make_cell(name, 4)
    networks = [(cell.init(key, 1.2), cell.initial_state(key)) for key in jax.random.split(KEY, 3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)

    def measured(network):
        return log_jacobian_norms(cell.step, *network, steps=6)["frobenius"]

    alone = jax.jit(measured)
    for network, one in zip(networks, jax.jit(jax.vmap(measured))(stacked), strict=True):
        np.testing.assert_allclose(one, alone(network), atol=30 * 6 * EPS)


@pytest.mark.parametrize(("dtype", "bias"), [("float32", 12.0), ("float32", 60.0), ("float64", 30.0)])
def test_a_gru_keeps_the_digits_of_a_nearly_open_update_gate(dtype, bias):
    """Without weights and input, and h̃ = 0: ∂h_T/∂h_0 = (1 - σ(b))^T = σ(-b)^T."""
    cell = make_cell("gru", 2)
    params = cell.init(KEY, 0.0, dtype=jnp.dtype(dtype))
    update = replace(params.update_gate, bias=jnp.full(2, bias, dtype))
    params = replace(params, update_gate=update)
    h = jnp.ones(2, dtype)
    found = jax.jit(lambda h: log_jacobian_norms(cell.step, params, h, steps=20, norms=("spectral",))["spectral"])(h)
    lag, eps = np.arange(1, 21), np.finfo(dtype).eps
    exact = -lag * np.logaddexp(0, bias)
    np.testing.assert_allclose(found, exact, rtol=0, atol=eps * np.max(8 * lag + np.abs(exact)))
