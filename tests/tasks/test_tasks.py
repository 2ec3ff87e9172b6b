"""What every task promises: shapes, dtypes, equal keys, chance levels; and how answers are judged."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from task_samples import keys, samples

from gradient_horizon import names
from gradient_horizon.names import declare
from gradient_horizon.tasks import error_of, limits, loss_of, make_task
from gradient_horizon.tasks.limits import refusal, usual_steps

DECLARED = declare.declared(declare.Task)
PIXELS = {name: task.pixels for name, task in DECLARED.items() if task.pixels is not None}
SHORTEST_STEPS = {name: task.least_steps for name, task in DECLARED.items() if task.pixels is None}
AVAILABLE = [name for name in names.TASKS if refusal(name, PIXELS.get(name, 100), {}) is None]
TASKS = [make_task(name, PIXELS[name] // 4 if name in PIXELS else SHORTEST_STEPS[name] + 10) for name in AVAILABLE]
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


@every_task
def test_samples_are_as_stated_and_a_key_means_one_sequence_in_either_precision(task):
    draw = jax.vmap(partial(task.sample, test=False, dtype=jnp.float32), (0, None))
    draw_fine = jax.vmap(partial(task.sample, test=False, dtype=jnp.float64), (0, None))
    both = jax.jit(lambda keys, data: (draw(keys, data), draw_fine(keys, data)))
    (xs, targets), (fine_xs, fine_targets) = jax.tree.map(np.asarray, both(keys(40), task.data()))
    assert xs.shape == fine_xs.shape == (40, task.steps, task.input_size)
    assert targets.shape == fine_targets.shape == (40, task.answers)
    assert (xs.dtype, fine_xs.dtype) == (np.float32, np.float64)
    is_classes = task.kind == "classes"
    assert (targets.dtype, fine_targets.dtype) == ((np.int32, np.int32) if is_classes else (np.float32, np.float64))
    np.testing.assert_array_equal(xs, fine_xs)
    # a mean or a product of two float32 numbers, rounded to float32
    np.testing.assert_allclose(targets, fine_targets, rtol=0 if is_classes else 2**-23, atol=0)
    assert len({x.tobytes() for x in xs}) > 15, "different keys, different sequences (noiseless memorisation has 32)"
    assert not is_classes or 0 <= targets.min() <= targets.max() < task.output_size


@pytest.mark.parametrize("name", [name for name in SHORTEST_STEPS if name != "characters"])  # windows of one text
def test_a_longer_sequence_of_a_key_does_not_begin_as_a_shorter_one(name):
    shortest = SHORTEST_STEPS[name]
    short, long = (
        samples(make_task(name, steps), 40)[0][:, : shortest + 4] for steps in (shortest + 20, shortest + 21)
    )
    if name in ("adding", "multiplication"):  # the numbers, without the places of the two that are marked
        short, long = short[..., 0], long[..., 0]
    assert np.mean([np.array_equal(one, other) for one, other in zip(short, long, strict=True)]) < 0.5


def test_a_key_means_one_sequence_alone_and_among_others():
    task = make_task("temporal_order", 10)
    xs, targets = samples(task, 40)
    alone = jax.jit(partial(task.sample, data=None, test=False, dtype=jnp.float32))(keys(40)[7])
    np.testing.assert_array_equal(alone.xs, xs[7])
    np.testing.assert_array_equal(alone.targets, targets[7])


@every_task
def test_equal_tasks_share_a_compiled_program(task):
    again = make_task(task.name, task.steps)
    assert again == task
    assert hash(again) == hash(task)


@pytest.mark.parametrize("name", SHORTEST_STEPS)
def test_a_sequence_too_short_for_the_task_is_refused(name):
    shortest = SHORTEST_STEPS[name]
    make_task(name, shortest)
    with pytest.raises(ValueError, match=f"steps: {shortest - 1}; allowed: at least {shortest}"):
        make_task(name, shortest - 1)
    assert refusal(name, shortest, {}) is None


@pytest.mark.parametrize("name", PIXELS)
def test_an_image_is_cut_into_equal_parts(name, monkeypatch):
    complete = replace(DECLARED[name], missing=lambda: None)
    monkeypatch.setattr(limits, "declaration", lambda task: complete)
    for steps in (-1, 0, 3, 63, 2 * PIXELS[name]):
        with pytest.raises(ValueError, match=f"steps: {steps}; allowed: a divisor of {PIXELS[name]}"):
            make_task(name, steps)
    for steps in (PIXELS[name], PIXELS[name] // 4, 1):
        assert refusal(name, steps, {}) is None


@pytest.mark.parametrize(
    ("name", "missing", "says"),
    [
        (
            "digits",
            declare.without_package("sklearn_of_nobody", "scikit-learn", "pip"),
            "scikit-learn is not installed",
        ),
        ("fashion", declare.without_files([Path("nowhere/images.gz")], "apt install"), "nowhere lacks .* .apt install"),
        ("characters", declare.without_files([Path(__file__), Path("no/perpetual.py")]), "lacks perpetual.py$"),
    ],
)
def test_data_that_are_not_installed_are_named(name, missing, says, monkeypatch):
    lacking = replace(DECLARED[name], missing=missing)
    monkeypatch.setattr(limits, "declaration", lambda task: lacking)
    with pytest.raises(ValueError, match=f"task: '{name}'; allowed: any other task, as .*{says}"):
        make_task(name, 16)


def test_the_declared_data_are_those_that_are_read():
    assert DECLARED["characters"].missing() is None
    for name in ("digits", "permuted_digits"):
        assert DECLARED[name].missing() is None, "scikit-learn is installed for the tests"


def test_a_distance_belongs_to_the_story_and_fits_it():
    assert make_task("story", 50).distance == 26
    assert make_task("story", 50, distance=26) == make_task("story", 50) != make_task("story", 50, distance=25)
    for distance in (8, 27):
        with pytest.raises(ValueError, match=f"distance: {distance}; allowed: from 9 to 26"):
            make_task("story", 50, distance=distance)
    with pytest.raises(ValueError, match="distance: 9; allowed: null where task=adding"):
        make_task("adding", 50, distance=9)


def test_every_task_has_limits_and_a_maker():
    assert set(DECLARED) == set(names.TASKS)
    assert [refusal(name, usual_steps(name, {}), {}) for name in AVAILABLE] == [None] * len(AVAILABLE)
    distance = {"distance": 15}
    assert usual_steps("story", distance) == 24 + 15
    assert refusal("story", usual_steps("story", distance), distance) is None


def documented() -> dict[str, list[str]]:
    """The rows of the first table in docs/tasks.md, by the task's name."""
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8").partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_table_of_tasks_is_complete():
    assert set(documented()) == set(names.TASKS)


@every_task
def test_the_table_of_tasks_says_what_they_are(task):
    steps, usual, inputs, outputs, answers, loss, error, _ = documented()[task.name]
    assert usual == str(usual_steps(task.name, {}))
    of_steps = {"T": task.steps, "T - 2⌊T/3⌋": task.steps - 2 * (task.steps // 3)}
    if task.name in PIXELS:
        assert (steps, inputs) == (f"a divisor of {PIXELS[task.name]}", f"{PIXELS[task.name]}/T")
        assert task.input_size * task.steps == PIXELS[task.name]
    else:
        assert (steps, inputs) == (f"≥ {SHORTEST_STEPS[task.name]}", str(task.input_size))
    assert outputs == ("values" if task.kind == "values" else str(task.output_size))
    assert of_steps.get(answers, answers) in (task.answers, str(task.answers))
    if task.name != "characters":
        assert (loss, error) == (f"{task.chance_loss:.4f}", f"{task.chance_error:.4f}")


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task: 'subtracting'; allowed: adding, "):
        make_task("subtracting", 20)


def test_the_loss_of_classes_is_the_mean_cross_entropy():
    task = make_task("temporal_order", 10)
    outputs = np.array([[900.0, -300.0, 4.0, 0.0]], np.float32)
    for target in range(4):
        loss = loss_of(task, jnp.asarray(outputs), jnp.asarray([target], jnp.int32))
        np.testing.assert_allclose(loss, -log_softmax(outputs[0])[target], rtol=1e-6)
    np.testing.assert_allclose(loss_of(task, jnp.zeros((1, 4)), jnp.zeros(1, jnp.int32)), task.chance_loss, rtol=1e-6)


def test_the_gradient_of_a_cross_entropy_is_probability_minus_target():
    task = make_task("temporal_order", 10)
    outputs = jnp.asarray([[1.0, 500.0, -2.0, 3.0]])
    gradient = jax.grad(lambda outputs: loss_of(task, outputs, jnp.asarray([2], jnp.int32)))(outputs)
    np.testing.assert_allclose(gradient, [[0, 1, -1, 0]], atol=1e-6)


def test_the_loss_of_values_is_the_squared_error_and_the_error_a_threshold_of_0_04():
    task = make_task("adding", 10)
    target = jnp.asarray([0.5])
    for output, error in ((0.539, 0), (0.541, 1), (0.461, 0), (0.459, 1), (math.nan, 1), (math.inf, 1)):
        outputs = jnp.asarray([[output]])
        assert error_of(task, outputs, target) == error
        np.testing.assert_allclose(loss_of(task, outputs, target), (output - 0.5) ** 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "errors"),
    [
        ([0.0, 2.0, 1.0, 0.0], [1, 0, 1, 1]),
        ([0.0, 0.0, 0.0, 0.0], [0, 1, 1, 1]),
        ([math.nan, 2.0, 1.0, 0.0], [1, 1, 1, 1]),
        ([0.0, 2.0, math.inf, 0.0], [1, 1, 1, 1]),
    ],
)
def test_the_error_of_classes_counts_the_first_of_the_largest_and_nothing_that_is_not_finite(outputs, errors):
    task = make_task("temporal_order", 10)
    for target, error in enumerate(errors):
        assert error_of(task, jnp.asarray([outputs]), jnp.asarray([target], jnp.int32)) == error
