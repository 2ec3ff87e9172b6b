"""Every clip rule against its own formula in NumPy, and at the places where the rules differ."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradient_horizon import clip_gradients, make_cell, names
from gradient_horizon.training.clipping import clipping, global_norm

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


def expected_of(rule, grads, c, params: Any = None):
    """Every rule in float64, written again, of a dict of float32 arrays; `w` is the recurrent matrix."""
    wide = {name: np.asarray(leaf, np.float64) for name, leaf in grads.items()}
    c, n = np.float64(c), np.sqrt(sum(np.sum(leaf**2) for leaf in wide.values()))

    def row_by_row(name, leaf):
        rows = {"axis": 1, "keepdims": True} if leaf.ndim == 2 else {}
        size = np.sqrt(np.sum(leaf**2, **rows))
        most = c * np.maximum(np.sqrt(np.sum(np.asarray(params[name], np.float64) ** 2, **rows)), 1e-3)
        return np.where(size > most, leaf * most / np.where(size > 0, size, 1), leaf)

    def fallback(name, _):
        return 0.02 * np.asarray(params[name], np.float64) if name == "w" else np.zeros_like(wide[name])

    formula = {
        "none": lambda _, g: g,
        "book": lambda _, g: book(g, c, n),
        "pseudocode": lambda _, g: pseudocode(g, c, n) if n else g,
        "optax": lambda _, g: optax(g, c, n),
        "pascanu": lambda name, g: pascanu(g, c, n) if n <= 1e10 else fallback(name, g),
        "value": lambda _, g: np.clip(g, -c, c),
        "adaptive": row_by_row,
    }[rule]
    return {name: formula(name, leaf) for name, leaf in wide.items()}


TINY, EPS32 = (float(getattr(np.finfo(np.float32), name)) for name in ("tiny", "eps"))
# Two leaves of four entries, a matrix of twelve and a number, the magnitudes of each: all alike, or mixed.
MAGNITUDES = [
    *((size,) * 4 for size in (1.2e-38, 1e-30, 1e-19, 1e-6, 1.0, 1e19, 1e30, 1e38)),
    (1e38, 1e-38, 1.0, 1e-20),
    (1e-38, 1e38, 1e-3, 1e10),
    (1e-30, 0.0, 1e-12, 1e-38),
    (0.0, 1e-21, 0.0, 0.0),
    (1e25, 1e20, 0.0, 1e-25),
    (0.0, 0.0, 0.0, 0.0),
]
THRESHOLDS = (0.0, 1.2e-38, 1e-30, 1e-10, 1.0, 1e10, 1e30, 1e38, np.inf)
SHAPES = {"w": (3, 4), "b": (4,), "v": (4,), "s": ()}


def drawn(seed, magnitudes):
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(np.float32(size) * rng.choice([-1, 1], shape) * rng.uniform(1, 2, shape), np.float32)
        for (name, shape), size in zip(SHAPES.items(), magnitudes, strict=True)
    }


# 21 squares, their sum, the root, two quotients or products, the product with the entry, each rounded once; what is no
# normal number may be zero
WITHIN = 30 * EPS32


def is_near(found, expected, message=""):
    assert {*found} == {*expected}
    for name, leaf in expected.items():
        assert found[name].dtype == jnp.float32
        np.testing.assert_allclose(
            np.asarray(found[name], np.float64), leaf, rtol=WITHIN, atol=TINY, err_msg=f"{message} {name}"
        )


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # 0/0 of optax
@pytest.mark.parametrize("rule", names.CLIP_RULES)
def test_every_rule_at_every_magnitude(rule):
    """float32 against float64, by itself, compiled, and over networks that differ in all."""
    cases = [
        (drawn(seed, magnitudes), drawn(seed + 1, weights), np.float32(threshold))
        for seed, magnitudes in enumerate(MAGNITUDES)
        for weights in ((1.0,) * 4, (1e30, 1e-30, 0.0, 1e38))
        for threshold in THRESHOLDS
    ]

    def clipped(grads, params, threshold):
        return clip_gradients(grads, threshold, rule, params=params, recurrent="w")

    grads, params, thresholds = jax.tree.map(lambda *leaves: np.stack(leaves), *cases)
    together = jax.jit(jax.vmap(clipped))(grads, params, thresholds)
    one = jax.jit(clipped)
    for index, case in enumerate(cases):
        expected = expected_of(rule, case[0], case[2], case[1])
        message = f"{MAGNITUDES[index // 18]} {case[2]}"
        is_near(one(*case), expected, message)
        is_near({name: leaf[index] for name, leaf in together.items()}, expected, message)
        if index % 50 == 0:  # few, as uncompiled calls are slow
            is_near(clipped(*jax.tree.map(jnp.asarray, case)), expected, message)


@pytest.mark.parametrize("rule", ["book", "pseudocode", "optax"])
def test_a_norm_beyond_the_floats_and_the_least_threshold(rule):
    largest, least = float(np.finfo(np.float32).max), 1.5 * TINY
    grads = {"w": np.full((3, 3), largest, np.float32), "s": np.float32(0.9 * largest)}
    for c in (least, 1.0, largest, np.inf):
        is_near(jax.jit(lambda c=c: clip_gradients(grads, c, rule))(), expected_of(rule, grads, c), f"{c}")
    two = {"w": np.full(2, 0.97 * largest, np.float32)}  # each of which is a normal number in the end
    found = np.asarray(clip_gradients(two, least, rule)["w"], np.float64)
    np.testing.assert_allclose(found, np.float32(least) / np.sqrt(2), rtol=8 * EPS32)


@pytest.mark.parametrize("rule", names.CLIP_RULES)
@pytest.mark.parametrize("exponent", [-100, 0, 20, 100])
def test_one_float_below_and_above_the_threshold(rule, exponent):
    """‖g‖ = 5·2^e, and ‖W‖ = 5: at c itself and above it nothing is changed, but by `book`, whose n is n + 1e-6."""
    grads, params = {"w": np.ldexp(np.array([3, 4], np.float32), exponent)}, {"w": np.array([3, 4], np.float32)}
    at = np.ldexp(np.float32(1 if rule == "adaptive" else 4 if rule == "value" else 5), exponent)
    for threshold in (np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(np.inf))):
        found = np.asarray(clip_gradients(grads, threshold, rule, params=params, recurrent="w")["w"])
        expected = expected_of(rule, grads, threshold, params)["w"]
        np.testing.assert_allclose(found, expected, rtol=4 * EPS32, atol=TINY)
        if rule == "book":  # as PyTorch does
            kept = float(threshold) / (5 * 2.0**exponent + 1e-6) >= 1 - EPS32 / 2
        else:
            kept = threshold >= at or rule == "none"
        if rule == "pascanu" and exponent == 100:
            np.testing.assert_allclose(found, 0.02 * params["w"], rtol=2 * EPS32)
        elif kept:
            np.testing.assert_array_equal(found, grads["w"])
        else:
            assert (np.abs(found) < np.abs(grads["w"])).any()


LEAVES = {
    "float64 of NumPy": np.array([5.0, 5.0]),
    "float32 of NumPy": np.array([5.0, 5.0], np.float32),
    "JAX": jnp.array([5.0, 5.0], jnp.float32),
    "numbers of Python": [5.0, 5.0],
    "numbers of NumPy": [np.float64(5.0), np.float32(5.0)],
    "arrays without axes": [np.array(5.0), jnp.float32(5.0)],
    "one each": [np.array([5.0]), np.array([[5.0]], np.float32)],
    "half precision": np.array([5.0, 5.0], np.float16),
    "with an empty one": [np.array([5.0, 5.0]), np.zeros(0)],
}


@pytest.mark.parametrize("leaves", LEAVES)
@pytest.mark.parametrize("rule", ["book", "pseudocode", "optax", "pascanu", "value", "adaptive"])
@pytest.mark.parametrize("x64", [False, True])
def test_leaves_may_be_of_any_kind(leaves, rule, x64):
    grads = {"b": LEAVES[leaves]}
    alone = all(np.size(leaf) == 1 for leaf in jax.tree.leaves(grads))
    params = jax.tree.map(lambda leaf: leaf / (5 if alone else 50**0.5), grads)  # each unit's norm is 1
    with jax.enable_x64(x64):
        found = clip_gradients(
            grads, 1.0, rule, params=params, recurrent="b.0" if isinstance(grads["b"], list) else "b"
        )
    expected = 1.0 if rule == "value" or (rule == "adaptive" and alone) else 0.5**0.5
    assert jax.tree.structure(found) == jax.tree.structure(grads)
    within = 1e-3 if leaves == "half precision" else 1e-6
    for leaf, given_leaf in zip(jax.tree.leaves(found), jax.tree.leaves(grads), strict=True):
        assert isinstance(leaf, jax.Array)
        assert leaf.shape == np.shape(given_leaf)
        wide = np.asarray(given_leaf).dtype == np.float64
        assert leaf.dtype == (np.asarray(given_leaf).dtype if not wide else np.float64 if x64 else np.float32)
        np.testing.assert_allclose(np.asarray(leaf, np.float64), expected, rtol=within)


@pytest.mark.parametrize("rule", names.CLIP_RULES)
@pytest.mark.parametrize(
    "leaf", [np.array([5, 5]), jnp.array([5, 5]), 5, np.array([True]), np.array([1j]), jnp.int8(3)]
)
def test_leaves_that_are_no_floats_are_refused_with_their_dtype(rule, leaf):
    grads = {"a": jnp.ones(2), "b": {"c": leaf}}
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    said = f"grads: leaf 'b.c' has dtype {dtype}; allowed: a floating dtype"
    with pytest.raises(ValueError, match=said):
        clip_gradients(grads, 1.0, rule, params=grads, recurrent="a")
    with pytest.raises(ValueError, match=said):
        jax.jit(lambda tree: clip_gradients(tree, 1.0, rule, params=tree, recurrent="a"))(grads)
    with pytest.raises(ValueError, match=f"tree: leaf 'b.c' has dtype {dtype}"):
        global_norm(grads)


CLIPPING = [rule for rule in names.CLIP_RULES if rule != "none"]


@pytest.mark.parametrize("rule", CLIPPING)
@pytest.mark.parametrize("threshold", [-1.0, np.nan, -np.inf, np.float64(-1e-300), jnp.float32(-2), np.array(-1), -1])
def test_a_threshold_that_is_known_to_be_negative_or_nan_is_refused(rule, threshold):
    grads = {"w": jnp.array([3.0, 4.0], jnp.float32)}
    said = r"threshold: .*; allowed: a number of at least 0"
    with pytest.raises(ValueError, match=said):
        clip_gradients(grads, threshold, rule, params=grads, recurrent="w")
    with pytest.raises(ValueError, match=said):
        jax.jit(lambda g: clip_gradients(g, threshold, rule, params=g, recurrent="w"))(grads)
    transform = clipping(rule, threshold, recurrent="w")
    with pytest.raises(ValueError, match=said):
        transform.update(grads, transform.init(grads), grads)
    assert clip_gradients(grads, threshold, "none") is grads


@pytest.mark.parametrize("rule", CLIPPING)
def test_a_threshold_must_be_a_scalar(rule):
    grads = {"w": jnp.array([3.0, 4.0], jnp.float32)}
    with pytest.raises(ValueError, match=r"threshold: an array of shape \(2,\); allowed: a number, or a scalar array"):
        clip_gradients(grads, jnp.array([1.0, 2.0]), rule, params=grads, recurrent="w")


@pytest.mark.parametrize("rule", CLIPPING)
def test_a_traced_threshold_that_is_negative_or_nan_makes_nan(rule):
    """Of gradients of every kind; and the one beside it is clipped as it should be."""
    for size in (0.0, 1.0, 1e-30, 1e20):
        grads = {"w": np.full((2, 2), size, np.float32), "b": np.float32(size)}

        def clipped(c, grads=grads):
            return clip_gradients(grads, c, rule, params=grads, recurrent="w")

        found = jax.jit(jax.vmap(clipped))(jnp.array([-1.0, jnp.nan, -jnp.inf, -1e-30, 1.0], jnp.float32))
        expected = expected_of(rule, grads, 1.0, grads)
        for name, leaf in found.items():
            assert np.isnan(leaf[:4]).all()
            np.testing.assert_allclose(leaf[4], expected[name], rtol=WITHIN, atol=TINY)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threshold", [1.0, 1e30])
def test_a_gradient_that_is_not_finite(bad, threshold):
    """NaN: all of it, or its unit's row. Infinite: NaN there and 0 elsewhere. `pascanu` falls back, `value` cuts."""
    grads, params = ({name: leaf.astype(np.float32) for name, leaf in tree(seed).items()} for seed in (1, 2))
    grads["w"][2, 1] = bad
    found = {
        rule: jax.tree.map(np.asarray, clip_gradients(grads, threshold, rule, params=params, recurrent="w"))
        for rule in names.CLIP_RULES
    }
    is_bad = ~np.isfinite(grads["w"])
    lost = {"w": np.where(np.isnan(bad) | is_bad, np.nan, 0), "b": np.full(3, np.nan if np.isnan(bad) else 0.0)}
    for rule in ("book", "pseudocode", "optax"):
        for name, leaf in lost.items():
            np.testing.assert_array_equal(found[rule][name], leaf, err_msg=rule)
    np.testing.assert_array_equal(found["adaptive"]["w"][2], lost["w"][2])
    whole = {"w": np.where(np.isfinite(grads["w"]), grads["w"], 0), "b": grads["b"]}
    kept = expected_of("adaptive", whole, threshold, params)
    np.testing.assert_allclose(found["adaptive"]["w"][:2], kept["w"][:2], rtol=8 * EPS32)
    np.testing.assert_allclose(found["adaptive"]["b"], kept["b"], rtol=8 * EPS32)
    np.testing.assert_allclose(found["pascanu"]["w"], 0.02 * params["w"], rtol=2 * EPS32)
    assert not found["pascanu"]["b"].any()
    for name, leaf in grads.items():
        np.testing.assert_array_equal(
            found["value"][name], np.clip(leaf, np.float32(-threshold), np.float32(threshold))
        )
        np.testing.assert_array_equal(found["none"][name], leaf)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite(bad):
    """`adaptive`: those of a unit that are NaN make its row NaN, and infinite ones clip nothing."""
    grads, params = device(tree(1), "float32"), {name: leaf.astype(np.float32) for name, leaf in tree(2).items()}
    params["w"][0, 0] = bad
    found = clip_gradients(grads, 1e-3, "adaptive", params=params)["w"]
    np.testing.assert_array_equal(found[0], np.full(4, np.nan) if np.isnan(bad) else grads["w"][0])
    assert np.isfinite(found[1:]).all()


@pytest.mark.parametrize("rule", ["book", "pseudocode", "optax", "adaptive"])
def test_a_clipped_gradient_has_its_derivative(rule):
    """d(c g/n) = (c/n)(I - g gᵀ/n²), by formula, where squares are no floats too; `book`: n + 1e-6 beside n."""
    g = np.array([3.0, 4.0, -12.0])  # n = 13
    unit = {"w": np.array([1.0, 0.0, 0.0])}
    for size in (1.0, 1e-170, 1e170):
        n, c, offset = 13.0 * size, 2.0 * size, 1e-6 if rule == "book" else 0.0
        by_formula = c / (n + offset) * (np.eye(3) - np.outer(g / 13, g / 13) * n / (n + offset))
        c = c if rule != "adaptive" else 2.0 * size
        found = jax.jacrev(lambda w, c=c: clip_gradients({"w": w}, c, rule, params=unit)["w"])(jnp.asarray(size * g))
        kept = rule == "book" and c >= n + offset
        np.testing.assert_allclose(found, np.eye(3) if kept else by_formula, rtol=1e-13, atol=1e-14)


def test_the_state_remembers_norms_and_what_was_changed():
    grads = {"w": np.array([3e25, 4e25]), "b": np.array(0.0)}
    transform = clipping("pseudocode", 1e20)
    state: Any = transform.init(grads)
    with jax.enable_x64(False):
        for size, after, changed in ((1.0, 1e20, 1), (1e-6, 5e19, 1), (1e12, 1e20, 2)):
            given_grads = jax.tree.map(lambda leaf, size=size: leaf * size, grads)
            _, state = transform.update(given_grads, state, grads)
            np.testing.assert_allclose([state.norm, state.clipped_norm], [5e25 * size, after], rtol=1e-6)
            assert state.changed == changed


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
        ({"rule": "pascanu", "params": True}, "recurrent: None; allowed with rule='pascanu': the end of one of b, w"),
        ({"rule": "pascanu", "params": True, "recurrent": "v"}, "recurrent: 'v'; allowed with rule='pascanu': "),
    ],
)
def test_what_a_rule_lacks_is_said(settings, said):
    grads = device(tree(0))
    if settings.get("params"):
        settings = {**settings, "params": grads}
    with pytest.raises(ValueError, match=said):
        clip_gradients(grads, 1.0, **settings)
