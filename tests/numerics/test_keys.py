"""What a seed draws: numbers of its own at every size, the same at every scale and in either precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import names
from gradient_horizon.cells import make_cell
from gradient_horizon.experiments.networks import Draw, init_network
from gradient_horizon.numerics.keys import normal
from gradient_horizon.tasks import Task, make_task
from gradient_horizon.tasks.drives import digit_sequence
from gradient_horizon.training import Member, TrainSpec
from gradient_horizon.training.network import drawn as drawn_learner
from gradient_horizon.training.network import sequences


def draw_of(family="linear", hidden_size=64, input_size=8, weights="gaussian", steps=40) -> Draw:
    cell = make_cell(family, hidden_size, input_size)
    return Draw(cell, weights, steps, 1.0, 1.0, 1.0, "noise", 1.0, "float32")


NETWORK = {"seed": np.uint32(3), "weight_scale": np.float32(1.25)}
FAMILIES = dict.fromkeys(names.FAMILY_OF_CELL.values())


def leaves_of(values) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(values)}


def assert_unrelated(one: np.ndarray, other: np.ndarray, name: str) -> None:
    """Neither in the order in which they were drawn, nor at the same places: |correlation| < 5/√k, k numbers each."""
    corner = tuple(slice(min(sizes)) for sizes in zip(one.shape, other.shape, strict=True))
    k = min(one.size, other.size)
    for a, b in ((one.ravel()[:k], other.ravel()[:k]), (one[corner].ravel(), other[corner].ravel())):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weights", ["gaussian", "orthogonal", "unit_normal", "sparse"])
def test_networks_of_two_sizes_share_no_numbers(family, weights):
    small, large = (leaves_of(init_network(draw_of(family, n, weights=weights), NETWORK, None)[:2]) for n in (32, 64))
    assert len(small) == {"linear": 4, "gru": 10, "lstm": 14}[family]  # W, U, b of each part, and the state
    assert small.keys() == large.keys()
    for name, values in small.items():
        assert_unrelated(values, large[name], name)


@pytest.mark.parametrize("change", [{"steps": 80}, {"input_size": 16}])
def test_inputs_of_two_sizes_share_no_numbers(change):
    noise, longer = (init_network(draw, NETWORK, None)[2] for draw in (draw_of(), draw_of(**change)))
    assert_unrelated(np.asarray(noise), np.asarray(longer), "noise")
    weights, wider = (init_network(draw, NETWORK, None)[0].input for draw in (draw_of(), draw_of(input_size=16)))
    assert_unrelated(np.asarray(weights), np.asarray(wider), "U")


def test_digits_of_two_lengths_are_others():
    pixels = jnp.arange(1000, dtype=jnp.float32)[:, None]  # a pixel names its digit
    key = jax.random.key(1)
    short, long = (np.asarray(digit_sequence(key, pixels, steps))[:40, 0] for steps in (40, 41))
    assert np.mean(short == long) < 0.5


def test_a_longer_sequence_keeps_the_network():
    short, long = (leaves_of(init_network(draw_of(steps=steps), NETWORK, None)[:2]) for steps in (40, 80))
    for name, values in short.items():
        np.testing.assert_array_equal(values, long[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scale_multiplies_what_the_seed_has_drawn(family):
    one, two = (init_network(draw_of(family), {**NETWORK, "weight_scale": np.float32(g)}, None)[0] for g in (1, 2))
    for (name, first), second in zip(leaves_of(one).items(), leaves_of(two).values(), strict=True):
        np.testing.assert_array_equal(second, 2 * first if "recurrent" in name else first)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4)])
def test_both_precisions_draw_the_same(shape):
    key = jax.random.key(7)
    np.testing.assert_array_equal(normal(key, shape, jnp.float32), normal(key, shape, jnp.float64))


def spec_of(hidden_size: int, task: Task) -> TrainSpec:
    return TrainSpec(make_cell("tanh", hidden_size, task.input_size), task)


def test_readouts_and_batches_of_two_sizes_share_no_numbers():
    task = make_task("delayed_xor", 60)
    member = Member(jax.random.key(2), jnp.float32(1), jnp.float32(1), jnp.float32(1))
    small, large = (np.asarray(drawn_learner(spec_of(n, task), member).readout.matrix) for n in (60, 120))
    assert_unrelated(small, large, "V")
    few, many = (np.asarray(sequences(spec_of(8, task), jax.random.key(4), count, None).xs) for count in (10, 20))
    # sequence by sequence: of 60 fair bits two independent ones agree in all with probability 2^-60
    assert not (few == many[:, :10]).all(axis=(0, 2)).any()
