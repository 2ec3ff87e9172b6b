"""Pascanu's regulariser against its formula, written with loops, and against finite differences in W alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import make_cell
from gradient_horizon.cells.activations import ACTIVATIONS
from gradient_horizon.tasks import loss_of, make_task
from gradient_horizon.training import Member, Omega, TrainSpec
from gradient_horizon.training.network import init_network, make_loss, make_sampler
from gradient_horizon.training.omega import SMALLEST_SQUARE, omega, omega_gradient

T, B, N = 10, 3, 6


def omega_by_hand(recurrent, deltas, gradients, *, squared):
    """The mean over every step and sequence whose gradient is not too small, one after the other."""
    terms = []
    for delta, gradient in zip(deltas.reshape(-1, N), gradients.reshape(-1, N), strict=True):
        if gradient @ gradient >= 1e-20:
            back = recurrent.T @ delta
            ratio = (back @ back) / (gradient @ gradient)
            terms.append(((ratio if squared else np.sqrt(ratio)) - 1) ** 2)
    return np.mean(terms) if terms else 0.0


def differences(recurrent, deltas, gradients, *, squared, width=1e-6):
    """∂Ω/∂W entry by entry, by central differences of the formula above."""
    found = np.zeros_like(recurrent)
    for place in np.ndindex(recurrent.shape):
        moved = [recurrent.copy(), recurrent.copy()]
        moved[0][place] += width
        moved[1][place] -= width
        up, down = (omega_by_hand(matrix, deltas, gradients, squared=squared) for matrix in moved)
        found[place] = (up - down) / (2 * width)
    return found


@pytest.fixture(scope="module")
def frozen():
    """W, and δ_t and d_t of four steps of three sequences, as arrays without any relation."""
    generator = np.random.default_rng(4)
    gradients = generator.standard_normal((4, B, N)) * 10.0 ** generator.uniform(-4, 1, (4, B, 1))
    return generator.standard_normal((N, N)) / N**0.5, gradients * generator.uniform(0, 1, (4, B, N)), gradients


@pytest.mark.parametrize("squared", [True, False])
def test_omega_is_the_mean_over_the_steps_and_sequences_that_count(frozen, squared):
    recurrent, deltas, gradients = frozen
    # just below and just above the bound: the mean over the rest, and over the rest and this one
    for size in (0.99, 1.01):
        gradients = gradients.copy()
        gradients[1, 2] *= np.sqrt(size * SMALLEST_SQUARE) / np.linalg.norm(gradients[1, 2])
        expected = omega_by_hand(recurrent, deltas, gradients, squared=squared)
        found = omega(*map(jnp.asarray, (recurrent, deltas, gradients)), squared=squared)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("squared", [True, False])
def test_the_derivative_is_that_of_the_formula(frozen, squared):
    found = omega_gradient(Omega(2.5, squared), *map(jnp.asarray, frozen))
    expected = 2.5 * differences(*frozen, squared=squared)
    # rounding of Ω over twice the width
    bound = 2.5 * 1e-15 * omega_by_hand(*frozen, squared=squared) / 1e-6
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=10 * float(bound))


@pytest.mark.parametrize("squared", [True, False])
def test_gradients_of_zero_count_nothing_and_give_no_nan(frozen, squared):
    recurrent, _, gradients = map(jnp.asarray, frozen)
    nothing = jnp.zeros_like(gradients)
    assert omega(recurrent, nothing, nothing, squared=squared) == 0
    np.testing.assert_array_equal(omega_gradient(Omega(1.0, squared), recurrent, nothing, nothing), 0)
    # a gradient that every slope stops: its term is 1, and no W changes that
    assert omega(recurrent, nothing, gradients, squared=squared) == 1
    np.testing.assert_array_equal(omega_gradient(Omega(1.0, squared), recurrent, nothing, gradients), 0)


@pytest.mark.parametrize(("cell", "squared"), [("tanh", True), ("sigmoid", False)])
def test_the_gradient_is_that_of_finite_differences_of_the_formula(cell, squared):
    """Of a network that learns: d_t by autodiff of the mean loss with respect to each h_t, δ_t = φ′(a_t) d_t."""
    task = make_task("temporal_order", T)
    spec = TrainSpec(make_cell(cell, N, task.input_size), task, batch_size=B, precision="float64")
    settings = Omega(4.0, squared)
    member = Member(jax.random.key(1), *(jnp.asarray(value, jnp.float64) for value in (1.1, 0.1, 1.0)))

    @jax.jit
    def both():
        params, batch = init_network(spec, member), make_sampler(spec)(jax.random.key(2), B, None)
        regularised = TrainSpec(spec.cell, task, batch_size=B, precision="float64", omega=settings)

        def loss(perturbations):
            states = jnp.zeros((B, N), jnp.float64)
            activations = []
            for x, perturbation in zip(batch.xs, perturbations, strict=True):
                a = states @ params.cell.recurrent.T + x @ params.cell.input.T + params.cell.bias[None]
                states = ACTIVATIONS[spec.cell.name].value(a) + perturbation
                activations.append(a)
            outputs = states @ params.readout.matrix.T + params.readout.bias[None]
            losses = jax.vmap(lambda o, t: loss_of(task, o[None], t))(outputs, batch.targets)
            return jnp.mean(losses), jnp.stack(activations)

        gradients, activations = jax.jacrev(loss, has_aux=True)(jnp.zeros((T, B, N), jnp.float64))
        slopes = ACTIVATIONS[spec.cell.name].derivative(activations)
        plain, more = make_loss(spec)(params, batch), make_loss(regularised)(params, batch)
        return params.cell.recurrent, slopes * gradients, gradients, plain, more

    recurrent, deltas, gradients, plain, more = both()
    added = np.asarray(more[1].cell.recurrent - plain[1].cell.recurrent)
    expected = 4.0 * differences(*map(np.asarray, (recurrent, deltas, gradients)), squared=squared)
    np.testing.assert_allclose(added, expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max())
    assert more[0] == plain[0]
    for ours, theirs in (
        (more[1].cell.input, plain[1].cell.input),
        (more[1].cell.bias, plain[1].cell.bias),
        (more[1].readout.matrix, plain[1].readout.matrix),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)
