"""Tasks of real data: what the sequences show, that the held-out part is kept apart, and the chance levels."""

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.datasets import load_digits
from task_samples import samples

from gradient_horizon.tasks import make_task
from gradient_horizon.tasks.characters import (
    ALPHABET,
    CLASSES,
    HELD_OUT_MODULES,
    LIBRARY,
    LIBRARY_MODULES,
    encode,
    library_texts,
)
from gradient_horizon.tasks.digits import digit_images, permuted_digit_images
from gradient_horizon.tasks.limits import refusal

needs_fashion = pytest.mark.skipif(
    refusal("fashion", 784, {}) is not None, reason="dataset-fashion-mnist is not installed"
)


def test_the_digits_are_split_once_and_for_all_with_every_digit_in_either_part():
    images = digit_images()
    assert len(images.labels) + len(images.held_out_labels) == 1797
    assert np.bincount(images.held_out_labels).min() >= 34
    assert np.bincount(images.held_out_labels).max() <= 36
    pixels, labels = load_digits(return_X_y=True)
    seen = {(*image, label) for image, label in zip(pixels / 16, labels, strict=True)}
    rest = {(*image, label) for image, label in zip(images.pixels, images.labels, strict=True)}
    held_out = {(*image, label) for image, label in zip(images.held_out_pixels, images.held_out_labels, strict=True)}
    assert rest | held_out == seen
    assert not rest & held_out
    zeros = np.flatnonzero(labels == 0)[[4, 9, 14]]
    np.testing.assert_array_equal(images.held_out_pixels[images.held_out_labels == 0][:3], pixels[zeros] / 16)


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("steps", [64, 8])
def test_a_digit_is_read_row_by_row_from_its_own_part(steps, test):
    images = digit_images()
    pixels, labels = (images.held_out_pixels, images.held_out_labels) if test else (images.pixels, images.labels)
    known = {(*image, label) for image, label in zip(pixels, labels, strict=True)}
    xs, targets = samples(make_task("digits", steps), 300, test=test)
    drawn = {(*sequence.ravel(), target) for sequence, (target,) in zip(xs, targets, strict=True)}
    assert drawn <= known
    assert len(drawn) > 150


def test_permuted_digits_show_every_image_in_one_other_order():
    plain, permuted = digit_images(), permuted_digit_images()
    for part in ("pixels", "held_out_pixels"):
        np.testing.assert_array_equal(np.sort(getattr(plain, part), 1), np.sort(getattr(permuted, part), 1))
    both = np.concatenate([plain.pixels, plain.held_out_pixels])
    shuffled = np.concatenate([permuted.pixels, permuted.held_out_pixels])
    columns = {column.tobytes(): place for place, column in enumerate(np.ascontiguousarray(both.T))}
    order = [columns[column.tobytes()] for column in np.ascontiguousarray(shuffled.T)]
    varied = [place for place in order if np.ptp(both[:, place]) > 0]
    assert len(set(varied)) == len(varied) > 58
    assert (np.array(order) == np.arange(64)).mean() < 0.2
    make = [samples(make_task(name, 64), 20) for name in ("digits", "permuted_digits")]
    np.testing.assert_array_equal(make[0][0][:, order], make[1][0])
    np.testing.assert_array_equal(make[0][1], make[1][1])


@pytest.mark.parametrize("name", ["digits", "permuted_digits"])
def test_the_classes_of_the_digits_are_as_good_as_equally_frequent(name):
    task = make_task(name, 64)
    for labels in (digit_images().labels, digit_images().held_out_labels):
        share = np.bincount(labels) / len(labels)
        assert abs(entropy(share) - task.chance_loss) < 1e-3
        assert abs(1 - share.max() - task.chance_error) < 3e-3


@needs_fashion
def test_fashion_mnist_is_read_as_its_authors_describe_it():
    from gradient_horizon.tasks.fashion import fashion_images

    images = fashion_images()
    assert images.pixels.shape == (60_000, 784)
    assert images.held_out_pixels.shape == (10_000, 784)
    np.testing.assert_array_equal(np.bincount(images.labels), 10 * [6000])
    np.testing.assert_array_equal(np.bincount(images.held_out_labels), 10 * [1000])
    assert images.pixels.max() == 255
    # the mean and the deviation of the pixels, as published with many models trained on them
    assert abs(images.pixels.mean() / 255 - 0.2860) < 5e-5
    assert abs(images.pixels.std() / 255 - 0.3530) < 5e-5


@needs_fashion
@pytest.mark.parametrize("test", [False, True])
def test_a_garment_is_read_row_by_row_from_its_own_part(test):
    from gradient_horizon.tasks.fashion import fashion_images

    images = fashion_images()
    pixels, labels = (images.held_out_pixels, images.held_out_labels) if test else (images.pixels, images.labels)
    xs, targets = samples(make_task("fashion", 28), 8, test=test)
    for sequence, (target,) in zip(xs, targets, strict=True):
        same = np.flatnonzero((pixels == np.rint(255 * sequence.ravel())).all(1))
        assert target in labels[same]
    np.testing.assert_allclose(255 * xs, np.rint(255 * xs), atol=1e-4)


def test_characters_are_encoded_by_their_place_in_the_alphabet():
    assert len(ALPHABET) == 96
    np.testing.assert_array_equal(encode(ALPHABET), np.arange(96))
    np.testing.assert_array_equal(encode("a\tbé\x7f☃"), [65, 96, 66, 96, 96, 96])


@pytest.mark.parametrize("test", [False, True])
def test_each_next_character_of_a_library_module_is_asked_for(test):
    xs, targets = samples(make_task("characters", 40), 30, test=test)
    assert (xs.sum(-1) == 1).all()
    shown = xs.argmax(-1)
    np.testing.assert_array_equal(targets[:, :-1], shown[:, 1:])
    text = "".join(
        (LIBRARY / f"{name}.py").read_text(encoding="utf-8") for name in (HELD_OUT_MODULES if test else LIBRARY_MODULES)
    )
    other = "".join(character if character in ALPHABET else "\0" for character in text)
    for sequence, target in zip(shown, targets, strict=True):
        classes = [*sequence, target[-1]]
        assert "".join((ALPHABET + "\0")[k] for k in classes) in other


def test_the_held_out_modules_are_others():
    assert not set(LIBRARY_MODULES) & set(HELD_OUT_MODULES)
    assert list(LIBRARY_MODULES) == sorted(set(LIBRARY_MODULES))
    assert list(HELD_OUT_MODULES) == sorted(set(HELD_OUT_MODULES))
    text, held_out = library_texts()
    assert len(text) > 10 * len(held_out) / 2 > 500_000


def test_the_chance_of_characters_is_that_of_their_frequencies():
    task = make_task("characters", 40)
    frequency = np.bincount(library_texts().held_out, minlength=CLASSES) / len(library_texts().held_out)
    np.testing.assert_allclose(task.chance_loss, entropy(frequency), rtol=1e-12)
    assert task.chance_error == 1 - frequency[ALPHABET.index(" ")]
    _, targets = samples(task, 4000, test=True)
    share = (targets == ALPHABET.index(" ")).mean(1)
    assert abs(1 - share.mean() - task.chance_error) < 5 * share.std() / np.sqrt(len(share))
