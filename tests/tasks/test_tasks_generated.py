"""Each generated task's answers, recomputed in NumPy from its sequences; places and symbols uniform; chance levels."""

import numpy as np
import pytest
from task_samples import assert_mean, assert_uniform, samples

from gradient_horizon.tasks import make_task

COUNT = 4000


def symbols_of(xs: np.ndarray) -> np.ndarray:
    """The symbols of one-hot sequences, which are exactly that."""
    assert set(np.unique(xs)) <= {0, 1}
    assert (xs.sum(-1) == 1).all()
    return xs.argmax(-1)


def assert_chance_of_values(task, targets: np.ndarray, best: float) -> None:
    """No constant answer does better than chance: the mean by its square, `best` by the threshold."""
    assert_mean(np.square(targets - targets.mean()), task.chance_loss)
    assert_mean(abs(targets - best) > 0.04, task.chance_error)
    answers = np.linspace(0, 1, 101)[:, None]
    assert (abs(targets.T - answers) > 0.04).mean(1).min() > task.chance_error - 5 * 0.5 / np.sqrt(len(targets))


@pytest.mark.parametrize("steps", [10, 39])
def test_adding_asks_for_the_mean_of_the_two_marked_numbers(steps):
    xs, targets = samples(make_task("adding", steps), COUNT)
    numbers, markers = xs[..., 0], xs[..., 1]
    assert set(np.unique(markers)) == {0, 1}
    places = np.array([np.flatnonzero(marker) for marker in markers])
    assert places.shape == (COUNT, 2)
    np.testing.assert_allclose(targets[:, 0], np.take_along_axis(numbers, places, 1).mean(1), rtol=2**-23)
    tenth, four = int(0.1 * steps), int(0.4 * steps)
    assert_uniform(places[:, 0], tenth)
    assert_uniform(places[:, 1] - tenth, four)
    assert_uniform((10 * numbers).astype(int), 10)
    assert_chance_of_values(make_task("adding", steps), targets, 0.5)


@pytest.mark.parametrize(
    ("name", "windows"), [("temporal_order", (0.1, 0.5)), ("temporal_order_3", (0.1, 0.3, 0.6))], ids=["2", "3"]
)
def test_temporal_order_asks_for_the_letters_in_order(name, windows):
    steps = 57
    task = make_task(name, steps)
    xs, targets = samples(task, COUNT)
    symbols = symbols_of(xs)
    places = np.array([np.flatnonzero(row < 2) for row in symbols])
    assert places.shape == (COUNT, len(windows))
    letters = np.take_along_axis(symbols, places, 1)
    np.testing.assert_array_equal(targets[:, 0], letters @ 2 ** np.arange(len(windows)))
    for place, window in zip(places.T, windows, strict=True):
        assert_uniform(place - int(window * steps), int(0.1 * steps))
    assert_uniform(symbols[symbols >= 2] - 2, 4)
    assert_uniform(targets, task.output_size)


def test_multiplication_asks_for_the_product_of_the_two_marked_numbers():
    task = make_task("multiplication", 39)
    xs, targets = samples(task, COUNT)
    places = np.array([np.flatnonzero(marker) for marker in xs[..., 1]])
    np.testing.assert_allclose(targets[:, 0], np.take_along_axis(xs[..., 0], places, 1).prod(1), rtol=2**-23)
    assert_uniform(places[:, 0], 3)
    assert_uniform(places[:, 1] - 3, 15)
    assert_chance_of_values(task, targets, 0.04)


@pytest.mark.parametrize(
    ("name", "count", "values", "lead", "steps"),
    [
        ("copy_memory", 10, 8, 1, 21),
        ("noiseless_memorisation", 5, 2, 0, 10),
        ("noiseless_memorisation", 5, 2, 0, 33),
    ],
)
def test_recall_asks_for_the_pattern_that_came_first(name, count, values, lead, steps):
    xs, targets = samples(make_task(name, steps), COUNT)
    symbols = symbols_of(xs)
    np.testing.assert_array_equal(targets, symbols[:, :count])
    later = np.full(steps - count, values)
    later[steps - count - lead - count] = values + 1
    np.testing.assert_array_equal(symbols[:, count:], np.tile(later, (COUNT, 1)))
    for k in range(count):
        assert_uniform(targets[:, k], values)


@pytest.mark.parametrize(("steps", "delay"), [(5, 1), (30, 10)])
def test_delayed_xor_compares_the_bits_one_and_two_delays_back(steps, delay):
    task = make_task("delayed_xor", steps)
    xs, targets = samples(task, COUNT)
    bits = xs[..., 0]
    assert set(np.unique(bits)) == {0, 1}
    expected = [[row[t - delay] != row[t - 2 * delay] for t in range(2 * delay, steps)] for row in bits]
    np.testing.assert_array_equal(targets, np.array(expected))
    assert_uniform(bits.astype(int), 2)
    assert_uniform(targets[:, 0], 2)


def test_random_permutation_asks_for_the_first_symbol():
    xs, targets = samples(make_task("random_permutation", 30), COUNT)
    symbols = symbols_of(xs)
    np.testing.assert_array_equal(targets, symbols[:, :1])
    assert_uniform(symbols[:, 0], 2)
    assert_uniform(symbols[:, 1:] - 2, 98)
