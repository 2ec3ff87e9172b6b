"""Gradient flossing: exponents that can be differentiated, and what becomes of a network whose exponents are pushed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import lyapunov_exponents, make_cell
from gradient_horizon.ensembles.blocks import Program
from gradient_horizon.tasks import make_task
from gradient_horizon.training import Member, TrainSpec, make_init
from gradient_horizon.training.flossing import leading_exponents
from gradient_horizon.training.network import init_network, make_sampler
from gradient_horizon.training.spec import Flossing

T, N, K = 20, 8, 2


def spec_of(**settings):
    task = make_task("adding", T)
    return TrainSpec(make_cell("tanh", N, task.input_size), task, precision="float64", **settings)


def member(scale=0.5, seed=0):
    return Member(jax.random.key(seed), *(jnp.asarray(number, jnp.float64) for number in (scale, 0.1, 1.0)))


@pytest.mark.parametrize(("name", "count"), [("tanh", 2), ("tanh", 6), ("lstm", 3)])
def test_exponents_are_those_of_elimination(name, count):
    cell = make_cell(name, 6, 2)
    xs = jax.random.normal(jax.random.key(1), (T, 2), jnp.float64)

    @jax.jit
    def both():
        params = cell.init(jax.random.key(0), 1.3, dtype="float64")
        start = cell.initial_state(dtype="float64")
        spectrum = lyapunov_exponents(cell.step, params, start, xs, transient=T // 5, count=count)
        return leading_exponents(cell, params, xs, count), spectrum.exponents

    ours, reference = both()
    np.testing.assert_allclose(np.sort(ours)[::-1], reference, rtol=1e-9, atol=1e-10)


def test_the_derivative_is_that_of_differences():
    spec = spec_of()
    xs = make_sampler(spec)(jax.random.key(2), 1, None).xs[:, 0]
    params = init_network(spec, member()).cell
    direction = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(3), leaf.shape, leaf.dtype), params)

    @jax.jit
    def slope(offset):
        def loss(offset):
            moved = jax.tree.map(lambda leaf, along: leaf + offset * along, params, direction)
            return jnp.mean(jnp.square(leading_exponents(spec.cell, moved, xs, K)))

        return jax.value_and_grad(loss)(offset)

    step = 1e-5
    near, far = (slope(width)[0] - slope(-width)[0] for width in (step, 2 * step))
    # of fourth order: found to err by 6e-7 at ten times this step, so by 6e-11 here, and by eps/step from rounding
    np.testing.assert_allclose(slope(0.0)[1], (8 * near - far) / (12 * step), rtol=1e-9)


def test_flossing_brings_exponents_to_zero_and_spares_the_readout_and_the_neighbours():
    """On every device at once: two networks and, between them, one without a finite weight."""
    spec = spec_of(flossing=Flossing(updates=200, exponents=K, learning_rate=0.01))

    def measured(scale, constants):
        network = member(scale)
        before, after = init_network(spec, network), make_init(spec)(network, None).params
        xs = make_sampler(spec)(jax.random.key(9), 1, None).xs[:, 0]

        def exponents(params):
            start = spec.cell.initial_state(dtype="float64")
            return lyapunov_exponents(spec.cell.step, params, start, xs, transient=T // 5, count=K).exponents

        return exponents(before.cell), exponents(after.cell), before.readout, after.readout

    scales = jnp.asarray([0.5, jnp.nan, 0.5, 0.6] * jax.device_count(), jnp.float64)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a number to its counter, an integer
        before, after, *readouts = Program(measured)(scales, None)
    sound = np.isfinite(scales)
    assert np.isnan(after[~sound]).all()
    assert (np.abs(before[sound]) > 0.3).all()
    assert (np.abs(after[sound]) < 0.2 * np.abs(before[sound])).all()
    np.testing.assert_array_equal(after[0], after[2])
    for ours, theirs in zip(*map(jax.tree.leaves, readouts), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_update_without_a_finite_gradient_is_left_out():
    """W = 0, so that every direction dies at the first step: no update can be made."""
    task = make_task("adding", T)
    flossing = Flossing(updates=3, exponents=N, learning_rate=0.01)
    spec = TrainSpec(make_cell("relu", N, task.input_size), task, precision="float64", flossing=flossing)
    with jax.numpy_dtype_promotion("standard"):
        before, after = jax.jit(lambda: (init_network(spec, member(0.0)), make_init(spec)(member(0.0), None).params))()
    for ours, theirs in zip(*map(jax.tree.leaves, (after, before)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_more_exponents_than_the_state_has_are_refused():
    with pytest.raises(ValueError, match="flossing: 9 exponents; allowed: from 1 to 8"):
        spec_of(flossing=Flossing(updates=1, exponents=9))
