"""experiment=training: labelled histories, the same for a network whatever else is trained, and resumed from parts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table_parts import rows_of

from gradient_horizon import experiments
from gradient_horizon.analysis.outcomes import final_error
from gradient_horizon.analysis.tables.training import solved_table
from gradient_horizon.experiments import training, training_stage
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings.identity import networks_of
from gradient_horizon.settings.validation import checked
from gradient_horizon.store import datasets
from gradient_horizon.store.checkpoints import Checkpoints
from gradient_horizon.training import Member
from gradient_horizon.training import learner as learning
from gradient_horizon.training.initialisations import PUBLISHED
from gradient_horizon.training.network import init_network

SMALL = {
    "experiment": "training",
    "hidden_size": 4,
    "steps": 10,
    "updates": 5,
    "record_every": 2,
    "test_size": 20,
    "batch_size": 3,
    "weight_scales": [0.5, 1.0],
    "learning_rates": [0.1, 1.0],
    "clip_thresholds": [0.01, 1.0],
    "seeds": 3,
}


def trained(parts=None, report=lambda _: None, **settings):
    return experiments.measure(checked({**SMALL, **settings}), report, parts)


@pytest.fixture(scope="module")
def dataset():
    heard = []
    found = trained(report=heard.append)
    assert sum(heard) == pytest.approx(24)
    return found


def test_histories_lie_along_the_axes_of_networks_and_the_updates(dataset):
    axes = ("learning_rate", "clip_threshold", "weight_scale", "seed")
    assert networks_of(checked(SMALL)) == 24
    assert dataset.loss.dims == (*axes, "update")
    assert dataset["update"].values.tolist() == [0, 2, 4, 5]
    assert dataset.state_gradient_norm.dims == (*axes, "update", "time")
    assert dataset.log_norm.dims == (*axes, "update", "lag")
    assert dataset.solved_at.dims == dataset.diverged_at.dims == axes
    for name, variable in dataset.variables.items():
        assert variable.attrs.get("long_name"), name
        assert "units" in variable.attrs, name
    np.testing.assert_allclose(np.log(dataset.state_gradient_norm), dataset.log_state_gradient_norm, rtol=1e-12)


def test_a_network_is_the_same_whatever_else_is_trained(dataset):
    alone = trained(weight_scales=[1.0], learning_rates=[0.1], seeds=[2])
    same = dataset.sel(weight_scale=[1.0], learning_rate=[0.1], seed=[2])
    for name in alone.data_vars:
        np.testing.assert_array_equal(alone[name], same[name], err_msg=name)


def test_the_clip_fraction_counts_the_gradients_since_the_last_record(dataset):
    fraction = dataset.clip_fraction
    assert np.isnan(fraction.isel(update=0)).all()
    assert (fraction.sel(clip_threshold=0.01).isel(update=slice(1, None)) == 1).all()
    clipped = dataset.clipped_gradient_norm.sel(clip_threshold=0.01).isel(update=-1)
    np.testing.assert_allclose(clipped, 0.01, rtol=2e-4)  # book: c n/(n + 1e-6), n above 0.01


def test_without_a_rule_one_threshold_stands_for_all(dataset):
    plain = trained(clip="none", learning_rates=[0.1], seeds=1)
    assert plain.clip_threshold.values.tolist() == [0.01, 1.0]
    np.testing.assert_array_equal(*(plain.loss.sel(clip_threshold=c) for c in (0.01, 1.0)))
    np.testing.assert_array_equal(plain.gradient_norm, plain.clipped_gradient_norm)
    assert (plain.clip_fraction.isel(update=slice(1, None)) == 0).all()


def test_what_parts_hold_is_not_trained_again(dataset, tmp_path, monkeypatch):
    first = Checkpoints(tmp_path, "same", budget=2**33, seconds=0.0)
    calls = []
    train = training_stage.Trainer.__call__

    def once(self, networks, data):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return train(self, networks, data)

    monkeypatch.setattr(training_stage.Trainer, "__call__", once)
    with pytest.raises(KeyboardInterrupt):
        trained(first)
    monkeypatch.undo()
    heard = []
    again = trained(Checkpoints(tmp_path, "same", budget=2**33, seconds=0.0), heard.append)
    assert sum(heard) == pytest.approx(24)
    assert heard[0] == 8  # a block of 4 on each of two devices, read
    assert again.identical(dataset)


@pytest.fixture
def computed(monkeypatch):
    """Hears of every update that is computed, once for each network of its block."""
    heard = []
    make_update = learning.make_update

    def counted(spec):
        update = make_update(spec)

        def counting(member, data, learner):
            jax.debug.callback(lambda number: heard.append(int(number)), learner.updates)
            return update(member, data, learner)

        return counting

    monkeypatch.setattr(learning, "make_update", counted)
    training_stage.program.cache_clear()  # programs compiled before hear nothing
    yield heard
    training_stage.program.cache_clear()


def test_a_network_that_is_solved_before_its_first_update_makes_none(computed):
    solved = trained(solved_below=2.0, until_solved=True, weight_scales=[1.0], learning_rates=[0.1], seeds=1)
    jax.effects_barrier()
    assert not computed
    assert (solved.solved_at == 0).all()
    assert np.isfinite(solved.loss.isel(update=0)).all()
    assert np.isnan(solved.loss.isel(update=slice(1, None))).all()


# Of twelve seeds at a rate at which they learn and one at which they are lost, solved where 14 of 20 answers are wrong.
FATES = {"weight_scales": [1.0], "learning_rates": [1.0, 3e38], "clip_thresholds": [1.0], "seeds": 12, "clip": "none"}
BLOCK, DEVICES = 4, 2


@pytest.fixture(scope="module")
def fates():
    """Followed to the end, and from there: how many records each network has until it is solved or lost."""
    whole = trained(**FATES, solved_below=0.7)
    errors = whole.error.values.reshape(24, 4)
    is_last = (errors < np.float32(0.7)) | np.isnan(errors)
    return whole, np.where(is_last.any(axis=1), is_last.argmax(axis=1) + 1, 4)


def is_until_solved(found, fates):
    """What was recorded until each network was solved, bit for bit, and nothing of it afterwards."""
    whole, records = fates
    shape = whole.solved_at.shape
    over = (np.arange(4) >= records[:, None]).reshape(*shape, 4)
    for name, variable in whole.data_vars.items():
        if "update" in variable.dims:
            mask = over.reshape(*over.shape, *[1] * (variable.ndim - over.ndim))
            np.testing.assert_array_equal(found[name], np.where(mask, np.nan, variable), err_msg=name)
    solved = whole.solved_at.values >= 0
    np.testing.assert_array_equal(found.solved_at, whole.solved_at)
    np.testing.assert_array_equal(found.diverged_at, np.where(solved, -1, whole.diverged_at))
    last = np.take_along_axis(whole.error.values, records.reshape(*shape, 1) - 1, axis=-1)[..., 0]
    np.testing.assert_array_equal(final_error(found), np.where(solved | (whole.diverged_at < 0), last, np.nan))


def test_networks_of_one_block_stop_each_at_its_own_record(fates, computed):
    whole, records = fates
    assert whole.block_size == BLOCK
    assert {*records} == {1, 2, 3, 4}
    assert ((whole.solved_at >= 0) & (whole.diverged_at > whole.solved_at)).any(), "solved, and lost if it goes on"
    found = trained(**FATES, solved_below=0.7, until_solved=True)
    jax.effects_barrier()
    is_until_solved(found, fates)
    # from record to record a block computes the updates of all its networks as long as one of them is followed
    expected = [
        update
        for block in records.reshape(-1, BLOCK)
        for first, last in [(0, 2), (2, 4), (4, 5)][: block.max() - 1]
        for update in range(first, last)
    ]
    assert len(computed) == BLOCK * len(expected) < 24 * 5
    assert {*computed} <= {*range(5)}


def test_training_until_solved_goes_on_from_its_last_checkpoint(fates, tmp_path, monkeypatch):
    settings = {**FATES, "solved_below": 0.7, "until_solved": True}
    monkeypatch.setattr(training_stage.Trainer, "memory", lambda *_: 0)
    for stop in (1, 2, 5, 9):  # whether nothing or something of a chunk is solved, in the second one too

        class StoppedError(Exception):
            pass

        heard = []

        def listen(networks, heard=heard, stop=stop, error=StoppedError):
            heard.append(networks)
            if len(heard) == stop:
                raise error

        with pytest.raises(StoppedError):
            trained(Checkpoints(tmp_path / str(stop), "these", seconds=0), listen, **settings)
        is_until_solved(trained(Checkpoints(tmp_path / str(stop), "these", seconds=0), **settings), fates)


def test_joined_results_and_tables_tell_the_error_with_which_a_network_was_solved(fates):
    given = {**FATES, "learning_rates": [3e38], "solved_below": 0.7}
    swept = [{"until_solved": flag} for flag in (True, False)]
    jobs = [
        trained(**given, **place).assign_attrs(
            swept=json.dumps(place), config=json.dumps(dataclasses.asdict(checked({**SMALL, **given, **place})))
        )
        for place in swept
    ]
    joined = datasets.join(jobs)
    first = fates[0].error.values[1, 0, 0, :, 0]
    solved = first < np.float32(0.7)
    assert 0 < solved.sum() < 12
    followed = final_error(joined.sel(until_solved=True)).values.ravel()
    np.testing.assert_array_equal(followed, np.where(solved, first, np.nan))
    assert np.isnan(final_error(joined.sel(until_solved=False))).all()
    rows = {row[0]: row for row in rows_of(solved_table(joined))}
    share, error = f"{solved.sum()}/12", f"{np.median(first[solved]):.3f}"
    assert (rows["True"][2], *rows["True"][-2:]) == (share, str(12 - solved.sum()), error)
    assert (rows["False"][2], *rows["False"][-2:]) == (share, "12", "")


def test_histories_are_joined_along_learning_rates_and_updates(dataset):
    def of(**settings):
        found = trained(weight_scales=[1.0], clip_thresholds=[1.0], seeds=1, **settings)
        return found.assign_attrs(swept="{}", config="{}")

    joined = datasets.join([of(learning_rates=[1.0]), of(learning_rates=[0.1], updates=2)])
    assert joined.learning_rate.values.tolist() == [0.1, 1.0]
    assert joined["update"].values.tolist() == [0, 2, 4, 5]
    assert np.isnan(joined.loss.sel(learning_rate=0.1, update=4)).all()
    np.testing.assert_array_equal(
        joined.loss.sel(learning_rate=1.0).squeeze(),
        dataset.loss.sel(learning_rate=1.0, clip_threshold=1.0, weight_scale=1.0, seed=0),
    )


@pytest.mark.parametrize(("name", "std"), [("sigmoid", 0.01), ("basic_tanh", 0.1), ("irnn", 0.001)])
def test_a_published_initialisation_has_the_published_entries(name, std):
    config = checked({**SMALL, "initialisation": name, "hidden_size": 200})
    spec = training.spec_of(config)
    params = init_network(spec, Member(jax.random.key(0), jnp.float32(1), jnp.float32(1), jnp.float32(1)))
    samples = [params.cell.input, params.readout.matrix]
    if name == "irnn":
        np.testing.assert_array_equal(params.cell.recurrent, np.eye(200))
    else:
        samples.append(params.cell.recurrent)
    for entries in samples:
        # the standard error of a standard deviation from m normal numbers is σ/√(2m); five of them
        assert abs(np.std(np.asarray(entries)) / std - 1) < 5 / np.sqrt(2 * entries.size)
    assert (config.cell, spec.cell.name) == (PUBLISHED[name].cell, PUBLISHED[name].cell)


def test_a_smart_tanh_network_has_few_entries_and_spectral_radius_095():
    spec = training.spec_of(checked({**SMALL, "initialisation": "smart_tanh", "hidden_size": 50}))
    params = init_network(spec, Member(jax.random.key(0), jnp.float32(1), jnp.float32(1), jnp.float32(1)))
    matrix = np.asarray(params.cell.recurrent, np.float64)
    assert (np.count_nonzero(matrix, axis=1) == 15).all()
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(matrix)).max(), 0.95, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 9}, "steps: 9 is not allowed; allowed: at least 10 where task=temporal_order"),
        ({"clip_thresholds": [0.0]}, "clip_thresholds: .* allowed: a finite number above 0"),
        ({"learning_rates": [float("inf")]}, "learning_rates: .* allowed: a finite number above 0"),
        ({"batch_size": 0}, "batch_size: 0 is not allowed; allowed: a whole number of at least 1"),
        ({"record_every": 6}, "record_every: 6 is not allowed; allowed: at most updates=5"),
        ({"cell": "gru", "omega": 1.0}, "cell: 'gru' is not allowed; allowed: .* where omega is above 0"),
        (
            {"initialisation": "irnn", "cell": "gru"},
            "cell: 'gru' is not allowed; allowed: relu where initialisation=irnn",
        ),
        ({"initialisation": "irnn", "input_scale": 2.0}, "input_scale: 2.0 is not allowed; allowed: 1.0 where"),
        ({"distance": 9}, "distance: 9 is not allowed; allowed: null where task=temporal_order"),
        ({"task": "chess"}, "task: 'chess' is not allowed; allowed: adding"),
    ],
)
def test_wrong_settings_are_told(settings, message):
    with pytest.raises(SettingError, match=message):
        checked({**SMALL, **settings})


def test_unfinished_training_goes_on_from_its_last_checkpoint(dataset, tmp_path, monkeypatch):
    class StoppedError(Exception):
        pass

    heard = []

    def stop(networks):
        heard.append(networks)
        if len(heard) == 4 + 2:  # three records and the end of the first chunk, two records of the second
            raise StoppedError

    with pytest.raises(StoppedError):
        trained(Checkpoints(tmp_path, "these settings", seconds=0), stop)
    advanced = []
    program = training_stage.program

    def counted(function, *arguments):
        if function is training_stage._advance:
            advanced.append(function)
        return program(function, *arguments)

    monkeypatch.setattr(training_stage, "program", counted)
    monkeypatch.setattr(training_stage.Trainer, "memory", lambda *_: 0)
    heard.clear()
    resumed = trained(Checkpoints(tmp_path, "these settings", seconds=0), heard.append)
    assert len(advanced) == 2 + 3  # the first record of the second chunk was kept
    assert sum(heard) == pytest.approx(24)
    for name in dataset.data_vars:
        assert resumed[name].values.tobytes() == dataset[name].values.tobytes(), name
