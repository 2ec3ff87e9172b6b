"""Cells that show only the `Cell` protocol: they train, by a gradient that JAX takes of their step."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import make_cell
from gradient_horizon.cells import Cell, TrainableCell
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.tasks import loss_of, make_task
from gradient_horizon.training import Member, Omega, TrainSpec, make_train
from gradient_horizon.training.bptt import no_perturbations, states_with_bptt
from gradient_horizon.training.network import init_network, make_loss, make_sampler, readout, zero_states

T, N, B = 12, 8, 4


@dataclass(frozen=True)
class MinimalGatedUnit:
    """h_t = (1 - f) h + f tanh(W (f h) + U x + b), f = σ(W_f h + U_f x + b_f): Zhou, Wu, Zhang, Zhou 2016."""

    hidden_size: int
    input_size: int

    @property
    def name(self):
        return "minimal_gated_unit"

    @property
    def state_size(self):
        return self.hidden_size

    def init(self, key, weight_scale=1.0, weights="gaussian", bias_scale=0.0, input_scale=1.0, dtype=jnp.float32):
        plain = make_cell("tanh", self.hidden_size, self.input_size)
        drawn = {
            part: plain.init(named_key(key, part), weight_scale, weights, bias_scale, input_scale, dtype)
            for part in ("gate", "candidate")
        }
        return {part: {"W": p.recurrent, "U": p.input, "b": p.bias} for part, p in drawn.items()}

    def initial_state(self, key=None, state_scale=1.0, dtype=jnp.float32):
        return make_cell("tanh", self.hidden_size).initial_state(key, state_scale, dtype)

    def step(self, params, h, x=None):
        gate, candidate = params["gate"], params["candidate"]
        f = jax.nn.sigmoid(gate["W"] @ h + gate["U"] @ x + gate["b"])
        return (1 - f) * h + f * jnp.tanh(candidate["W"] @ (f * h) + candidate["U"] @ x + candidate["b"])

    def output(self, h):
        assert h.shape == (self.hidden_size,)  # a cell need not know of batches
        return h


class Bare:
    """The `Cell` protocol of another cell, and nothing else of it."""

    def __init__(self, cell):
        self.name, self.hidden_size = f"bare_{cell.name}", cell.hidden_size
        self.input_size, self.state_size = cell.input_size, cell.state_size
        self.init, self.initial_state, self.step, self.output = cell.init, cell.initial_state, cell.step, cell.output


def spec_of(cell, **settings):
    task = make_task("temporal_order", T)
    sizes = {"batch_size": B, "updates": 3, "record_every": 3, "test_size": 20, "precision": "float64"}
    return TrainSpec(cell, task, bias_scale=0.3, **{**sizes, **settings})


def member(dtype="float64"):
    return Member(jax.random.key(5), *(jnp.asarray(number, dtype) for number in (1.2, 0.1, 1.0)))


def own_spec(**settings):
    return spec_of(MinimalGatedUnit(N, make_task("temporal_order", T).input_size), **settings)


def loss_by_hand(params, xs, targets):
    """The mean cross-entropy of a batch, by the unit's formula for whole batches and with h_0 = 0."""
    gate, candidate = params.cell["gate"], params.cell["candidate"]
    h = jnp.zeros((B, N), jnp.float64)
    for x in xs:
        f = 1 / (1 + jnp.exp(-(h @ gate["W"].T + x @ gate["U"].T + gate["b"][None])))
        h = h + f * (jnp.tanh((f * h) @ candidate["W"].T + x @ candidate["U"].T + candidate["b"][None]) - h)
    logits = h @ params.readout.matrix.T + params.readout.bias[None]
    right = jnp.take_along_axis(logits, targets, axis=1)[:, 0]
    return jnp.mean(jnp.log(jnp.sum(jnp.exp(logits), axis=1)) - right)


def assert_close(found, expected):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # sums of some T N products of order 1, in another order: T N eps = 2e-14
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)


def test_a_cell_of_ones_own_trains_by_gradient_descent_on_its_loss():
    spec = own_spec()
    assert isinstance(spec.cell, Cell)
    assert not isinstance(spec.cell, TrainableCell)
    history = jax.jit(make_train(spec))(member(), None)
    sequences = make_sampler(spec)

    @jax.jit
    def update(params, number):
        batch = sequences(jax.random.fold_in(named_key(member().key, "data"), number), B, None)
        gradient = jax.grad(loss_by_hand)(params, *batch)
        return gradient, make_loss(spec)(params, batch), jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    params = jax.jit(lambda: init_network(spec, member()))()
    norms = []
    for number in range(3):
        gradient, (_, ours), params = update(params, number)
        assert_close(ours, gradient)
        norms.append(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient))))
    assert_close(history.params, params)
    record = jax.tree.map(np.asarray, history.record)
    np.testing.assert_allclose(record.gradient_norm, [np.nan, norms[-1]], rtol=1e-11)
    unknown = ("saturation", "spectral_radius", "largest_singular_value")  # what only a cell of the package shows
    for name, values in record._asdict().items():
        if name not in ("gradient_norm", "clipped_gradient_norm"):
            assert np.all(np.isnan(values) if name in unknown else np.isfinite(values)), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["tanh", "gru", "lstm"])
def test_the_gradient_of_the_step_is_that_of_backpropagation_through_time(name, dtype):
    task = make_task("temporal_order", T)
    cell = make_cell(name, N, task.input_size)
    spec, bare = (spec_of(each, precision=dtype) for each in (cell, Bare(cell)))
    assert not isinstance(bare.cell, TrainableCell)

    @jax.jit
    def both():
        params, batch = init_network(spec, member(dtype)), make_sampler(spec)(jax.random.key(3), B, None)
        maps, start = cell.affine_maps(params.cell), zero_states(spec, B)

        def loss(perturbations):
            states = states_with_bptt(cell, task.answers, maps, batch.xs, start, perturbations)
            outputs = readout(spec, params.readout, states)
            return jnp.mean(jax.vmap(lambda o, t: loss_of(task, o, t), in_axes=(1, 0))(outputs, batch.targets))

        deltas = jax.grad(loss)(no_perturbations(maps, start, T)).preactivations
        size = sum(jnp.max(jnp.sum(jnp.abs(delta), axis=(0, 1))) for delta in deltas)
        return make_loss(spec)(params, batch), make_loss(bare)(params, batch), size

    (loss, by_hand), (same, by_step), size = both()
    # One step rounds sums of N + D + 1 terms and some 20 elementwise operations, relative to its result; T steps there
    # and T back, in both gradients, carry these errors on as they carry the gradient. Its entries are sums of δ_t v_t
    # and δ_t x_t with |v|, |x| ≤ 1, T B terms; the readout's are at most 1.
    rounding = float(np.finfo(dtype).eps) * (4 * T * (N + task.input_size + 21) + 2 * T * B)
    assert abs(float(loss) - float(same)) <= rounding
    for ours, theirs in zip(jax.tree.leaves(by_step), jax.tree.leaves(by_hand), strict=True):
        assert np.any(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=rounding * max(float(size), 1.0))


def test_omega_is_refused_for_a_cell_without_one_path():
    gru = make_cell("gru", N, make_task("temporal_order", T).input_size)
    for make, name in ((own_spec, "minimal_gated_unit"), (lambda **more: spec_of(gru, **more), "gru")):
        with pytest.raises(ValueError, match=f"cell: '{name}' with omega; allowed: a TrainableCell with one path"):
            make(omega=Omega(1.0))
