"""Training against plain formulas: the gradient, the update, what is recorded, and what becomes of a lost network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import clip_gradients, log_jacobian_norms, lyapunov_exponents, make_cell
from gradient_horizon.numerics.keys import named_key, sized_key
from gradient_horizon.tasks import loss_of, make_task
from gradient_horizon.training import Member, TrainSpec, make_advance, make_init, make_train, solved_at
from gradient_horizon.training import learner as learning
from gradient_horizon.training.network import evaluate, init_network, make_loss, make_sampler
from gradient_horizon.training.record import PROBES

T = 12


def spec_of(cell="tanh", task="temporal_order", **settings):
    learned = make_task(task, T)
    return TrainSpec(
        make_cell(cell, 8, learned.input_size),
        learned,
        **{"batch_size": 6, "updates": 5, "record_every": 2, "test_size": 30, "precision": "float64", **settings},
    )


def member(seed=0, learning_rate=0.1, clip_threshold=0.5):
    numbers = (1.2, learning_rate, clip_threshold)
    return Member(jax.random.key(seed), *(jnp.asarray(number, jnp.float64) for number in numbers))


def mean_loss(spec, params, batch):
    losses, _ = jax.vmap(lambda xs, targets: evaluate(spec, params, type(batch)(xs, targets)), in_axes=(1, 0))(*batch)
    return jnp.mean(losses)


@pytest.mark.parametrize(("cell", "task"), [("tanh", "temporal_order"), ("lstm", "adding"), ("gru", "adding")])
def test_the_gradient_is_that_of_the_mean_loss_through_the_step(cell, task):
    spec = spec_of(cell, task)
    params, batch = jax.jit(lambda: (init_network(spec, member()), make_sampler(spec)(jax.random.key(3), 6, None)))()
    loss, gradient = jax.jit(lambda p, b: make_loss(spec)(p, b))(params, batch)
    reference, by_autodiff = jax.jit(jax.value_and_grad(lambda p: mean_loss(spec, p, batch)))(params)
    np.testing.assert_allclose(loss, reference, rtol=1e-13)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(by_autodiff), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-14)


@pytest.fixture(scope="module")
def trained():
    """Histories of the same network at four learning rates: two that learn, one that is lost, one again."""
    spec = spec_of(clip="none")
    train = jax.jit(jax.vmap(lambda rate: make_train(spec)(member(learning_rate=rate), None)))
    return spec, train(jnp.asarray([0.1, 0.2, jnp.inf, 0.1], jnp.float64))


def by_hand(spec, rate, updates):
    """Plain gradient descent, written again."""

    @jax.jit
    def gradient_of(params, update):
        batch = make_sampler(spec)(jax.random.fold_in(named_key(member().key, "data"), update), spec.batch_size, None)
        return jax.grad(lambda p: mean_loss(spec, p, batch))(params)

    params = jax.jit(lambda: init_network(spec, member()))()
    norms = []
    for update in range(updates):
        gradient = gradient_of(params, update)
        norms.append(np.sqrt(sum(np.sum(np.square(np.asarray(leaf))) for leaf in jax.tree.leaves(gradient))))
        params = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
    return params, norms


def test_updates_are_those_of_gradient_descent(trained):
    spec, history = trained
    params, norms = by_hand(spec, 0.2, 5)
    for ours, theirs in zip(jax.tree.leaves(history.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours[1], theirs, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(history.record.gradient_norm[1, 1:], [norms[1], norms[3], norms[4]], rtol=1e-10)
    assert spec.recorded == (0, 2, 4, 5)
    assert np.isnan(history.record.gradient_norm[:, 0]).all()


def test_equal_members_have_equal_histories_whatever_their_neighbours(trained):
    _, history = trained
    for leaf in jax.tree.leaves(history):
        np.testing.assert_array_equal(leaf[0], leaf[3])


def test_a_network_that_diverges_is_recorded_and_spoils_no_other(trained):
    _, history = trained
    record = jax.tree.map(np.asarray, history.record)
    assert record.diverged_at[2].tolist() == [-1, 1, 1, 1]
    assert np.isnan(record.loss[2, 1:]).all()
    assert np.isnan(record.log_norm[2, 1:]).all()
    assert np.isfinite(record.loss[2, 0])
    assert np.isfinite(record.loss[[0, 1, 3]]).all()
    assert (record.diverged_at[[0, 1, 3]] == -1).all()


def test_a_network_that_is_not_finite_before_its_first_update_has_diverged_at_0():
    spec = spec_of(record_every=5)
    lost = member()._replace(weight_scale=jnp.asarray(jnp.inf, jnp.float64))
    record = jax.jit(lambda: make_train(spec)(lost, None))().record
    assert record.diverged_at.tolist() == [0, 0]
    assert np.isnan(record.error).all()


def test_under_until_solved_updates_and_records_end_with_the_one_that_finds_the_task_solved(monkeypatch):
    """The parameters too; of a network that would be lost later, of one that is never solved, of a lost one."""
    computed = []
    make_update = learning.make_update

    def counted(spec):
        update = make_update(spec)

        def counting(member, data, learner):
            jax.debug.callback(lambda number: computed.append(int(number)), learner.updates)
            return update(member, data, learner)

        return counting

    seeds = jnp.arange(4, dtype=jnp.uint32)

    def training(spec):
        return jax.jit(jax.vmap(lambda s, r: make_train(spec)(member(s, learning_rate=r), None)))

    to_the_end = training(spec_of(clip="none"))
    first = np.asarray(to_the_end(seeds, jnp.full(4, 0.1, jnp.float64)).record.error)[:, 0]
    below = float(np.unique(first)[1])
    others = np.flatnonzero(first >= below)
    assert 2 <= len(others) < 4
    rates = np.where(first < below, np.inf, 0.1)
    rates[others[0]] = np.inf
    whole = jax.tree.map(np.asarray, to_the_end(seeds, rates).record)
    monkeypatch.setattr(learning, "make_update", counted)
    spec = spec_of(clip="none", solved_below=below, until_solved=True)
    history = training(spec)(seeds, rates)
    jax.effects_barrier()
    found = jax.tree.map(np.asarray, history.record)
    ends = [
        next((place for place, error in enumerate(errors) if error < below or np.isnan(error)), 3)
        for errors in whole.error
    ]
    assert len(computed) == 4 * spec.recorded[max(ends)]
    for network, end in enumerate(ends):
        for name, series in whole._asdict().items():
            ours = getattr(found, name)[network]
            np.testing.assert_allclose(ours[: end + 1], series[network, : end + 1], rtol=1e-12, err_msg=name)
            after = np.full_like(ours[end + 1 :], np.nan if ours.dtype.kind == "f" else ours[end])
            np.testing.assert_array_equal(ours[end + 1 :], after, err_msg=name)
        if first[network] < below:
            assert found.diverged_at[network].max() == -1
            start = jax.jit(lambda s=seeds[network]: init_network(spec, member(s)))()
            for ours, theirs in zip(jax.tree.leaves(history.params), jax.tree.leaves(start), strict=True):
                np.testing.assert_allclose(ours[network], theirs, rtol=1e-14)


def test_records_are_what_the_measuring_functions_give(trained):
    """Of the network after the last update, along its probes, by the functions that users call."""
    spec, history = trained
    params = jax.tree.map(lambda leaf: leaf[0], history.params)
    found = jax.tree.map(lambda leaf: np.asarray(leaf[0, -1]), history.record)
    cell, start = spec.cell, spec.cell.initial_state(dtype="float64")

    def along(xs, targets):
        norms = log_jacobian_norms(cell.step, params.cell, start, xs)["frobenius"]
        spectrum = lyapunov_exponents(cell.step, params.cell, start, xs, transient=T // 5, count=1)

        def loss(perturbations):
            last, _ = jax.lax.scan(
                lambda h, both: (cell.step(params.cell, h, both[0]) + both[1], None), start, (xs, perturbations)
            )
            return loss_of(spec.task, (params.readout.matrix @ last + params.readout.bias)[None], targets)

        gradients = jax.grad(loss)(jnp.zeros((T, 8), jnp.float64))
        return norms, spectrum.exponents[0], jnp.sum(jnp.square(gradients), axis=1)

    @jax.jit
    def measured():
        probes = make_sampler(spec)(named_key(member().key, "probe"), PROBES, None)
        key = sized_key(jax.random.fold_in(named_key(member().key, "test"), 5), spec.test_size)
        keys = jax.random.split(key, spec.test_size)
        tested = jax.vmap(lambda key: evaluate(spec, params, spec.task.sample(key, None, test=True, dtype="float64")))
        return jax.vmap(along, in_axes=(1, 0))(*probes), tested(keys)

    (norms, exponents, squares), tested = jax.tree.map(np.asarray, measured())
    np.testing.assert_allclose(found.log_norm, norms.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.log_state_gradient_norm, 0.5 * np.log(squares.mean(axis=0)), rtol=1e-10)
    # one vector forgets its start as fast as the second exponent lies below the first
    np.testing.assert_allclose(found.lyapunov_exponent, exponents.mean(), atol=0.1)
    matrix = np.asarray(params.cell.recurrent)
    np.testing.assert_allclose(found.spectral_radius, np.abs(np.linalg.eigvals(matrix)).max(), rtol=1e-12)
    np.testing.assert_allclose(found.largest_singular_value, np.linalg.norm(matrix, 2), rtol=1e-12)
    np.testing.assert_allclose([found.loss, found.error], np.mean(tested, axis=1), rtol=1e-12)


def test_a_clip_rule_stands_before_the_optimiser():
    spec = spec_of(clip="book", updates=1, record_every=1)

    @jax.jit
    def first():
        learner = make_init(spec)(member(), None)
        batch = make_sampler(spec)(jax.random.fold_in(named_key(member().key, "data"), 0), spec.batch_size, None)
        gradient = make_loss(spec)(learner.params, batch)[1]
        return learner.params, gradient, make_advance(spec)(member(clip_threshold=1e-3), None, learner, jnp.int32(1))

    start, gradient, learner = first()
    clipped = clip_gradients(gradient, 1e-3, "book")
    for after, before, change in zip(*map(jax.tree.leaves, (learner.params, start, clipped)), strict=True):
        np.testing.assert_allclose(after, before - 0.1 * change, rtol=1e-13, atol=1e-16)
    assert learner.clip.clipped_norm == pytest.approx(1e-3, rel=1e-3)
    assert learner.clip.norm > 0.01
    assert learner.clip.changed == 1


def test_solved_is_the_first_record_below_the_threshold():
    spec = spec_of(solved_below=0.1)
    errors = np.array([[0.7, 0.2, 0.05, 0.5], [0.7, 0.1, 0.1, 0.1], [np.nan, np.nan, np.nan, 0.0]])
    assert solved_at(spec, errors).tolist() == [4, -1, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0; allowed: a whole number of at least 1"),
        ({"record_every": 6}, "record_every: 6; allowed: at most updates=5"),
        ({"optimizer": "newton"}, "optimizer: 'newton' is unknown; allowed: sgd"),
        ({"clip": "hard"}, "clip: 'hard' is unknown; allowed: none"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        spec_of(**settings)


def test_a_cell_must_take_the_inputs_of_its_task():
    with pytest.raises(ValueError, match="cell: takes 3 inputs; allowed: 6"):
        TrainSpec(make_cell("tanh", 8, 3), make_task("temporal_order", T))


def test_the_error_of_constant_answers_is_that_of_chance():
    spec = spec_of(output_scale=0.0)

    @jax.jit
    def tested(keys):
        params = init_network(spec, member())
        sample = spec.task.sample
        return jax.vmap(lambda key: evaluate(spec, params, sample(key, None, test=True, dtype="float64")))(keys)

    loss, error = jax.tree.map(np.mean, tested(jax.random.split(jax.random.key(4), 2000)))
    assert loss == pytest.approx(spec.task.chance_loss, rel=1e-12)
    # one class always: 2000 Bernoulli trials, five standard deviations
    assert abs(error - spec.task.chance_error) < 5 * np.sqrt(0.75 * 0.25 / 2000)
