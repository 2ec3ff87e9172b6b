"""What every task promises: shapes, dtypes, equal keys, chance levels; and how answers are judged."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from task_samples import samples

from gradient_horizon import names
from gradient_horizon.task_limits import SHORTEST_STEPS, refusal
from gradient_horizon.tasks import error_of, loss_of, make_task

TASKS = [make_task(name, SHORTEST_STEPS[name] + 10) for name in names.TASKS]
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


@every_task
def test_a_sample_has_the_shapes_and_dtypes_that_the_task_states(task):
    for dtype in (jnp.float32, jnp.float64):
        xs, targets = samples(task, 3, dtype=dtype)
        assert xs.shape == (3, task.steps, task.input_size)
        assert xs.dtype == dtype
        assert targets.shape == (3, task.answers)
        assert targets.dtype == (np.int32 if task.kind == "classes" else dtype)


@every_task
def test_a_key_means_one_sequence_in_either_precision_and_under_vmap(task):
    xs, targets = samples(task, 3)
    fine_xs, fine_targets = samples(task, 3, dtype=jnp.float64)
    np.testing.assert_array_equal(xs, fine_xs)
    # a mean or a product of two float32 numbers, rounded to float32
    np.testing.assert_allclose(targets, fine_targets, rtol=2**-23, atol=0)
    key = jax.random.split(jax.random.key(3), 3)[1]
    alone = task.sample(key, task.data(), test=False, dtype=jnp.float32)
    np.testing.assert_array_equal(alone.xs, xs[1])
    np.testing.assert_array_equal(alone.targets, targets[1])


@every_task
def test_different_keys_mean_different_sequences(task):
    xs, _ = samples(task, 200)
    assert len({x.tobytes() for x in xs}) > 100


@every_task
def test_equal_tasks_share_a_compiled_program(task):
    again = make_task(task.name, task.steps)
    assert again == task
    assert hash(again) == hash(task)


@pytest.mark.parametrize("name", names.TASKS)
def test_a_sequence_too_short_for_the_task_is_refused(name):
    shortest = SHORTEST_STEPS[name]
    make_task(name, shortest)
    with pytest.raises(ValueError, match=f"steps: {shortest - 1}; allowed: at least {shortest}"):
        make_task(name, shortest - 1)
    assert refusal(name, shortest) is None


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task: 'subtracting'; allowed: adding, "):
        make_task("subtracting", 20)


def test_the_loss_of_classes_is_the_mean_cross_entropy():
    task = make_task("temporal_order", 10)
    outputs = np.float32([[900.0, -300.0, 4.0, 0.0]])
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
