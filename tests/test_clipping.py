"""Every clip rule against its own formula in NumPy, and at the places where the rules differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradient_horizon import clip_gradients, make_cell, names
from gradient_horizon.clipping import global_norm

EPS = float(np.finfo(np.float64).eps)


def tree(seed, size=1.0):
    rng = np.random.default_rng(seed)
    return {"w": size * rng.standard_normal((3, 4)), "b": size * rng.standard_normal(3)}


def device(values, dtype="float64"):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), values)


def norm(values):
    return np.sqrt(sum(np.sum(np.asarray(leaf) ** 2) for leaf in values.values()))


def book(g, c, n):
    rate = c / (n + 1e-6)
    return g * rate if rate < 1 else g


def pseudocode(g, c, n):
    return g * c / n if n >= c else g


def optax(g, c, n):
    return g if n < c else g / n * c


def pascanu(g, c, n):
    return g * c / n if n > c else g


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(-4, 2), st.floats(-4, 2))
@pytest.mark.parametrize("rule", [book, pseudocode, optax, pascanu])
def test_rules_of_the_global_norm(rule, seed, log_size, log_threshold):
    grads, c = tree(seed, 10.0**log_size), 10.0**log_threshold
    found = clip_gradients(device(grads), c, rule.__name__, params=device(grads), recurrent="w")
    for name, leaf in grads.items():
        np.testing.assert_allclose(found[name], rule(leaf, c, norm(grads)), rtol=16 * EPS)


def test_none_changes_nothing():
    grads = device(tree(0))
    assert clip_gradients(grads, 1e-9, "none") is grads


def test_value_cuts_each_entry():
    found = clip_gradients(device({"w": np.array([-2.0, 0.5, np.inf])}), 1.0, "value")
    np.testing.assert_array_equal(found["w"], [-1, 0.5, 1])


def test_adaptive_cuts_each_unit_by_its_own_weights():
    params = {"w": np.array([[3.0, 4.0], [0.0, 0.0]]), "b": np.array([1.0, 0.0])}
    grads = {"w": np.array([[30.0, 40.0], [3e-6, 4e-6]]), "b": np.array([0.01, 0.0])}
    found = clip_gradients(device(grads), 0.1, "adaptive", params=device(params))
    np.testing.assert_allclose(found["w"][0], [0.3, 0.4], rtol=1e-14)  # 0.1 · 5 of 50
    np.testing.assert_allclose(found["w"][1], grads["w"][1], rtol=1e-14)  # 0.1 · 1e-3 is more than 5e-6
    np.testing.assert_allclose(found["b"], grads["b"], rtol=1e-14)


def test_the_notes_code_and_their_formula_differ_by_what_they_say():
    grads = device({"w": np.array([0.006, 0.008])})  # n = 0.01
    code, formula = (float(clip_gradients(grads, 0.01, rule)["w"][0]) for rule in ("book", "pseudocode"))
    assert abs(code / formula - 0.01 / 0.010001) < 8 * EPS
    assert 0.9e-4 < 1 - code / formula < 1.1e-4


def test_at_the_threshold_itself():
    grads, c = {"w": np.array([3.0, 4.0])}, 5.0
    found = {
        rule: np.asarray(clip_gradients(device(grads), c, rule, params=device(grads), recurrent="w")["w"])
        for rule in ("book", "pseudocode", "optax", "pascanu")
    }
    np.testing.assert_allclose(found["book"], grads["w"] * 5 / 5.000001, rtol=4 * EPS)
    for rule in ("pseudocode", "optax", "pascanu"):
        np.testing.assert_allclose(found[rule], grads["w"], rtol=4 * EPS)


@pytest.mark.parametrize("rule", names.CLIP_RULES)
def test_a_gradient_of_zeros(rule):
    zeros = device({"w": np.zeros((2, 2))})
    for threshold, lost in ((1.0, False), (0.0, rule == "optax")):
        found = clip_gradients(zeros, threshold, rule, params=zeros, recurrent="w")["w"]
        assert np.isnan(found).all() if lost else not np.asarray(found).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pascanus_fallback_where_the_norm_is_not_finite(bad):
    grads, params = tree(1), tree(2)
    grads["b"][1] = bad
    found = clip_gradients(device(grads), 1.0, "pascanu", params=device(params), recurrent="w")
    np.testing.assert_allclose(found["w"], 0.02 * params["w"], rtol=2 * EPS)
    assert not np.asarray(found["b"]).any()
    for rule in ("book", "pseudocode", "optax"):
        assert np.isnan(clip_gradients(device(grads), 1.0, rule)["b"][1])


def test_the_recurrent_matrix_is_found_in_a_cells_parameters():
    cell = make_cell("gru", 3)
    params = cell.init(jax.random.key(0))
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    found = clip_gradients(grads, 1.0, "pascanu", params=params, recurrent="candidate.recurrent")
    np.testing.assert_allclose(found.candidate.recurrent, 0.02 * params.candidate.recurrent, rtol=1e-6)
    assert not np.asarray(found.update_gate.recurrent).any()


def test_a_norm_whose_squares_leave_float32():
    for size in (1e-30, 1e30):
        grads = {"w": np.array([3.0, 4.0]) * size}
        assert abs(float(global_norm(device(grads, "float32"))) / (5 * size) - 1) < 1e-6
        found = clip_gradients(device(grads, "float32"), size, "pseudocode")["w"]
        np.testing.assert_allclose(found, np.array([0.6, 0.8]) * size, rtol=1e-6)


def test_thresholds_may_differ_from_network_to_network():
    grads = device({"w": np.array([3.0, 4.0])})
    found = jax.jit(jax.vmap(lambda c: clip_gradients(grads, c, "pseudocode")["w"]))(jnp.array([1.0, 10.0]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [3, 4]], rtol=1e-14)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rule": "clip"}, "rule: 'clip' is unknown; allowed: none, book"),
        ({"rule": "adaptive"}, "params: None; rule='adaptive' needs the parameters"),
        ({"rule": "pascanu"}, "params: None; rule='pascanu' needs the parameters"),
        ({"rule": "pascanu", "params": True}, "recurrent: None; rule='pascanu' allows: the end of one of b, w"),
        ({"rule": "pascanu", "params": True, "recurrent": "v"}, "recurrent: 'v'; rule='pascanu' allows"),
    ],
)
def test_what_a_rule_lacks_is_said(settings, said):
    grads = device(tree(0))
    if settings.get("params"):
        settings = {**settings, "params": grads}
    with pytest.raises(ValueError, match=said):
        clip_gradients(grads, 1.0, **settings)
