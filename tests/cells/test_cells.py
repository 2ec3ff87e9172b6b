from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gradient_horizon import make_cell, names
from gradient_horizon.cells.activations import ACTIVATIONS
from gradient_horizon.cells.vanilla import plain_cell

KEY = jax.random.key(1)


@pytest.mark.parametrize("name", names.VANILLA_CELLS)
def test_the_step_is_the_textbook_formula(name):
    cell = make_cell(name, 6, 2, leak=0.3)
    params = cell.init(KEY, 1.4, bias_scale=0.5, input_scale=0.7, dtype=jnp.float64)
    h, x = jnp.linspace(-1, 1, 6, dtype=jnp.float64), jnp.array([0.3, -2.0])
    a = np.asarray(params.recurrent) @ np.asarray(h) + np.asarray(params.input) @ np.asarray(x) + params.bias
    activation = ACTIVATIONS["tanh" if name == "leaky_tanh" else name]
    expected, slope, leak = activation.value(a), activation.derivative(a), 0.3 if name == "leaky_tanh" else 1.0
    np.testing.assert_allclose(cell.step(params, h, x), (1 - leak) * h + leak * expected, rtol=1e-14)
    jacobian = (1 - leak) * np.eye(6) + leak * np.asarray(slope)[:, None] * np.asarray(params.recurrent)
    np.testing.assert_allclose(jax.jacrev(cell.step, argnums=1)(params, h, x), jacobian, atol=1e-14)


def test_each_source_of_randomness_has_its_own_key():
    cell = make_cell("tanh", 50, 3)
    plain, other = cell.init(KEY), cell.init(KEY, 2.5, weights="sparse", bias_scale=2.0, input_scale=3.0)
    np.testing.assert_allclose(other.input, 3 * plain.input, rtol=1e-6)
    assert not np.any(np.asarray(plain.bias))
    drawn = [plain.recurrent[0], other.bias, plain.input.ravel()[:50], cell.initial_state(KEY)]
    for index, one in enumerate(drawn):
        for another in drawn[index + 1 :]:  # five standard errors of a correlation of 50 pairs
            assert abs(np.corrcoef(one, another)[0, 1]) < 5 / np.sqrt(50)


def test_the_same_seed_has_the_same_weights_at_every_scale():
    cell = make_cell("relu", 16)
    np.testing.assert_array_equal(cell.init(KEY, 2.0).recurrent, 2 * cell.init(KEY, 1.0).recurrent)


def test_input_weights_keep_the_current_at_the_input_scale():
    params = make_cell("tanh", 400, 100).init(KEY, input_scale=0.5)
    assert float(jnp.sum(params.input**2)) / 400 == pytest.approx(0.25, rel=5 * np.sqrt(2 / 40000))


def test_initial_state():
    cell = make_cell("tanh", 10)
    assert not np.any(cell.initial_state())
    np.testing.assert_allclose(cell.initial_state(KEY, 3.0), 3 * cell.initial_state(KEY, 1.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tahn", 3), "cell: 'tahn' is unknown; allowed: linear, tanh"),
        (("tanh", 0), "hidden_size, input_size: 0, 0; allowed"),
        (("tanh", 3, -1), "hidden_size, input_size: 3, -1; allowed"),
    ],
)
def test_impossible_cells_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_cell(*arguments)


def test_an_impossible_leak_is_refused():
    with pytest.raises(ValueError, match=r"leak: 0\.0; allowed: a number above 0 and at most 1"):
        make_cell("leaky_tanh", 3, leak=0.0)


@pytest.mark.parametrize("name", names.CELLS)
def test_a_homogeneous_cell_is_one_whose_step_scales_with_the_state(name):
    cell = make_cell(name, 6)
    params, h = cell.init(KEY, 1.4, dtype=jnp.float64), cell.initial_state(KEY, dtype=jnp.float64)
    # powers of two are exact
    step, larger = (ravel_pytree(cell.step(params, jax.tree.map(lambda leaf, c=c: c * leaf, h)))[0] for c in (1.0, 4.0))
    assert np.array_equal(larger, 4 * step) == cell.is_homogeneous == (name in names.HOMOGENEOUS_CELLS)


def test_a_leak_leaves_a_cell_homogeneous():
    leaky = replace(plain_cell("relu", 6, 0), leak=0.3)
    params, h = leaky.init(KEY, dtype=jnp.float64), leaky.initial_state(KEY, dtype=jnp.float64)
    np.testing.assert_array_equal(leaky.step(params, 4 * h), 4 * leaky.step(params, h))
    assert leaky.is_homogeneous


@pytest.mark.parametrize("name", names.CELLS)
def test_without_its_matrices_only_a_second_path_brings_the_gradient_back(name):
    cell = make_cell(name, 6)
    params, h = cell.init(KEY, 0.0, bias_scale=0.3, dtype=jnp.float64), cell.initial_state(KEY, dtype=jnp.float64)
    flat, restored = ravel_pytree(h)
    jacobian = jax.jacrev(lambda flat: ravel_pytree(cell.step(params, restored(flat)))[0])(flat)
    assert (not np.any(jacobian)) == cell.has_one_path == (name in names.ONE_PATH_CELLS)


@pytest.mark.parametrize("name", names.CELLS)
def test_a_cell_reads_its_state_if_the_new_one_depends_on_it_at_the_same_preactivations(name):
    cell = make_cell(name, 6)
    a = tuple(jnp.linspace(-1, 1, len(part.bias), dtype=jnp.float64) for part in cell.affine_maps(cell.init(KEY)))
    one, other = (cell.initial_state(key, dtype=jnp.float64) for key in jax.random.split(KEY))
    of_one, of_other = (ravel_pytree(cell.new_state(a, h))[0] for h in (one, other))
    assert np.array_equal(of_one, of_other) == (not cell.reads_state)


def test_a_leak_of_1_is_one_path_and_a_traced_one_is_not_known_to_be():
    assert make_cell("leaky_tanh", 3, leak=1.0).has_one_path
    seen = []
    jax.eval_shape(lambda leak: seen.append(make_cell("leaky_tanh", 3, leak=leak).has_one_path), jnp.float32(1))
    assert seen == [False]
