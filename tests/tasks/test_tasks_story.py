"""A story by hand; its grammar read back from the words; only the order of words in the clue tells the answer."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2
from task_samples import MISTAKE, assert_uniform, samples

from gradient_horizon.tasks import make_task
from gradient_horizon.tasks.story import (
    CALLERS,
    CLUE_WORDS,
    LEAVES,
    PEOPLE,
    QUESTION,
    ROOMS,
    VISIT,
    WORDS,
    WORDS_AFTER,
    Plot,
    decode,
    encode,
    tell,
)

COUNT = 4000
BY_HAND = """
    ... ... Ann walks out of the kitchen Tom watches TV in the kitchen Bob walks out of the kitchen
    Eve walks out of the kitchen Mary comes into the kitchen Max calls Kim from the garden ...
    Mary says hi to
"""
# Tom, Ann, Bob, Eve are 0 .. 3; kitchen is 0, garden 3; Kim is 0, Max 3
BY_HAND_PLOT = Plot(*(jnp.asarray(part, jnp.int32) for part in ([1, 0, 2, 3], 1, 0, [3], [0], [3])))

PERSON, CALLER, ROOM = (f"({'|'.join(names)})" for names in (PEOPLE, CALLERS, ROOMS))
CLUE = rf"(?:{PERSON} (?:watches TV in|walks out of) the {ROOM} ){{4}}"
CALLS = rf"(?:{CALLER} calls {CALLER} from the {ROOM} )*"
STORY = re.compile(
    rf"(?P<before>{CALLS}(?:\.\.\. )*)(?P<clue>{CLUE})"
    rf"(?P<after>Mary comes into the {ROOM} {CALLS}(?:\.\.\. )*Mary says hi to)"
)


def parts_of(text: str) -> re.Match:
    """What stands before the clue, the clue, and what comes after it."""
    match = STORY.fullmatch(text)
    assert match is not None, text
    return match


@pytest.fixture(scope="module")
def stories():
    """Stories of 70 words with 28 after the clue: texts, and the person asked for in each."""
    xs, targets = samples(make_task("story", 70, distance=28), COUNT)
    assert (xs.sum(-1) == 1).all()
    return [decode(words) for words in xs.argmax(-1)], targets[:, 0]


def test_a_story_written_by_hand_has_the_expected_tokens_and_answer():
    words, answer = tell(make_task("story", 42, distance=16), BY_HAND_PLOT)
    np.testing.assert_array_equal(words, encode(BY_HAND))
    assert decode(np.asarray(words)) == " ".join(BY_HAND.split())
    assert PEOPLE[answer] == "Tom"


def test_words_are_encoded_by_their_place_in_the_vocabulary():
    assert len(set(WORDS)) == len(WORDS) == make_task("story", 40).input_size
    np.testing.assert_array_equal(encode("Tom kitchen Tom"), [0, 4, 0])
    assert decode(encode(" ".join(WORDS))) == " ".join(WORDS)


def test_the_limits_are_the_lengths_of_the_sentences():
    assert len(PEOPLE) * len(LEAVES.split()) == CLUE_WORDS
    assert len(VISIT.split()) + len(QUESTION.split()) == WORDS_AFTER
    words, _ = samples(make_task("story", CLUE_WORDS + WORDS_AFTER), 3)
    for story in words.argmax(-1):
        assert parts_of(decode(story))["before"] == ""


def test_the_answer_is_who_watches_tv_in_the_room_that_mary_comes_into(stories):
    for text, answer in zip(*stories, strict=True):
        parts = parts_of(text)
        assert len(parts["before"].split()) == 70 - 28 - 24
        assert len(parts["after"].split()) == 28
        people = re.findall(PERSON, parts["clue"])
        assert sorted(people) == sorted(PEOPLE)
        assert len(set(re.findall(f"{ROOM} |{ROOM}$", parts["clue"]))) == 1
        stayed = re.findall(rf"{PERSON} watches TV in the {ROOM}", parts["clue"])
        assert [PEOPLE[answer]] == [person for person, _ in stayed]
        assert re.findall(rf"Mary comes into the {ROOM}", text) == [stayed[0][1]]
        assert all(caller != called for caller, called in re.findall(rf"{CALLER} calls {CALLER}", text))


def test_every_part_of_the_plot_is_uniform(stories):
    texts, answers = stories
    clues = [parts_of(text)["clue"] for text in texts]
    assert_uniform(answers, 4)
    orders = [" ".join(re.findall(PERSON, clue)) for clue in clues]
    assert_uniform(np.unique(orders, return_inverse=True)[1], 24)
    assert_uniform(np.array([clue[: clue.index("watches")].count("walks") for clue in clues]), 4)
    assert_uniform(np.array([ROOMS.index(clue.split()[-1]) for clue in clues]), 4)
    calls = [call for text in texts for call in re.findall(rf"{CALLER} calls {CALLER} from the {ROOM}", text)]
    assert len(calls) == COUNT * (18 // 6 + 19 // 6)
    assert_uniform(np.unique([" ".join(call) for call in calls], return_inverse=True)[1], 4 * 3 * 4)


def test_neither_what_surrounds_the_clue_nor_any_count_of_words_tells_the_answer(stories):
    texts, answers = stories
    parts = [parts_of(text) for text in texts]
    for person in PEOPLE:
        assert {len(re.findall(person, part["clue"])) for part in parts} == {1}
    # which person, room or pause stands where outside the clue, and how often each word is said, against the answer
    outside = np.array([(part["before"] + part["after"]).split() for part in parts]).T
    counts = np.array([[text.split().count(word) for word in WORDS] for text in texts]).T
    features = [feature for feature in (*outside, *counts) if len(set(feature)) > 1]
    assert len(features) > 20
    for feature in features:
        table = np.zeros((len(set(feature)), 4))
        np.add.at(table, (np.unique(feature, return_inverse=True)[1], answers), 1)
        common = table[table.sum(1) >= 40]  # an expected count of 10 in each cell
        expected = common.sum(1, keepdims=True) * common.sum(0) / common.sum()
        freedom = (len(common) - 1) * (len(PEOPLE) - 1)
        assert freedom == 0 or chi2.sf(np.sum((common - expected) ** 2 / expected), freedom) > MISTAKE
