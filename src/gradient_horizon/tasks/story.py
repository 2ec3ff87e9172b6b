"""Story: who was in the room that Mary came into? The clue ends `distance` words before the end of the question.

    Ann walks out of the kitchen  Tom watches TV in the kitchen  Bob walks out of the kitchen
    Eve walks out of the kitchen  Mary comes into the kitchen  Max calls Kim from the garden  ...
    Mary says hi to ___

has the answer Tom. A story is a sequence of words, one-hot, one per step:

    story      = filler clue visit filler question
    clue       = a sentence for each person, in any order, in one room: "<person> watches TV in the <room>" once,
                 "<person> walks out of the <room>" for all others
    visit      = "Mary comes into the <room>"                    the room of the clue
    filler     = sentences "<caller> calls <another> from the <room>", then "..." up to the required length
    question   = "Mary says hi to"
    person     = Tom | Ann | Bob | Eve
    caller     = Kim | Joe | Sue | Max
    room       = kitchen | bedroom | office | garden

`distance` is the number of words after the clue: visit, filler and question. The filler before the clue brings the
story to T words. Everything but the clue is drawn independently of the answer, and the clue names every person once.
Hence neither word counts nor anything after the clue reveals who stayed: only word order does, through the name before
"watches".
"""

import math
from itertools import permutations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Int

from gradient_horizon.names import declare, rules
from gradient_horizon.numerics.arrays import PyTree, RandomKey
from gradient_horizon.numerics.keys import named_key
from gradient_horizon.tasks.task import Sample, Task

CLUE_WORDS, WORDS_AFTER = 24, 9  # words in the clue, and the fewest words after it
DECLARES = declare.Task(
    "story",
    "name the person in the room that Mary came into",
    make="story",
    least_steps=CLUE_WORDS + WORDS_AFTER,
    usual_steps=lambda settings: CLUE_WORDS + max(WORDS_AFTER, settings["distance"] or 0),
    settings={
        "distance": declare.Setting(
            None,
            rules.whole_or_null(1),
            "number of words after the clue, up to the end of the question; null: as many as fit",
            type=int | None,
        )
    },
    needs=(
        declare.Need(
            "distance",
            lambda settings: (
                settings.distance is None or WORDS_AFTER <= settings.distance <= settings.steps - CLUE_WORDS
            ),
            lambda settings: (
                f"from {WORDS_AFTER} to {settings.steps - CLUE_WORDS}, the steps without the {CLUE_WORDS} words of"
                " the clue, or null for the longest"
            ),
        ),
    ),
)

PEOPLE = ("Tom", "Ann", "Bob", "Eve")
ROOMS = ("kitchen", "bedroom", "office", "garden")
CALLERS = ("Kim", "Joe", "Sue", "Max")
STAYS, LEAVES = "PERSON watches TV in the ROOM", "PERSON walks out of the ROOM"
VISIT, QUESTION = "Mary comes into the ROOM", "Mary says hi to"
FILLER, PAUSE = "CALLER calls CALLED from the ROOM", "..."
SLOTS = ("PERSON", "CALLER", "CALLED", "ROOM")
_FIXED = " ".join((STAYS, LEAVES, VISIT, FILLER, QUESTION, PAUSE)).split()
WORDS = (*PEOPLE, *ROOMS, *CALLERS, *dict.fromkeys(word for word in _FIXED if word not in SLOTS))
ORDERS = np.array(list(permutations(range(len(PEOPLE)))), np.int32)


class Plot(NamedTuple):
    """The random choices that determine a story: people, callers and rooms, each numbered from 0."""

    order: Int[Array, " K"]  # the people of the clue, in the order of their sentences
    stays: Int[Array, ""]  # the index of the sentence whose person stays
    room: Int[Array, ""]  # the room of the clue and the visit
    callers: Int[Array, " F"]  # for each sentence of filler, before and after the clue
    called: Int[Array, " F"]
    rooms: Int[Array, " F"]


def encode(text: str) -> Int[np.ndarray, " T"]:
    """The number of each word."""
    return np.array([WORDS.index(word) for word in text.split()], np.int32)


def decode(words: Int[np.ndarray, " T"]) -> str:
    """The text of these numbers: the inverse of `encode`."""
    return " ".join(WORDS[word] for word in words)


def _sentences(pattern: str, **slots: ArrayLike) -> Int[Array, "..."]:
    """`pattern` with its slots filled by arrays of words; the words of the sentence form a new last axis."""
    words = [jnp.asarray(slots[word] if word in slots else encode(word)[0], jnp.int32) for word in pattern.split()]
    return jnp.stack(jnp.broadcast_arrays(*words), axis=-1)


def _room(number: Int[Array, "..."]) -> Int[Array, "..."]:
    return number + WORDS.index(ROOMS[0])


def _caller(number: Int[Array, "..."]) -> Int[Array, "..."]:
    return number + WORDS.index(CALLERS[0])


def _filler(sentences: Int[Array, "F 6"], length: int) -> Int[Array, " {length}"]:
    pauses = jnp.full(length - sentences.size, WORDS.index(PAUSE), jnp.int32)
    return jnp.concatenate([sentences.reshape(-1), pauses])


def _lengths(task: Task) -> tuple[int, int]:
    """The number of filler words before the clue and after it."""
    assert task.distance is not None
    return task.steps - CLUE_WORDS - task.distance, task.distance - len(VISIT.split()) - len(QUESTION.split())


def _filler_sentences(task: Task) -> tuple[int, int]:
    before, after = _lengths(task)
    return before // len(FILLER.split()), after // len(FILLER.split())


def tell(task: Task, plot: Plot) -> tuple[Int[Array, " T"], Int[Array, ""]]:
    """The numbers of the story's words, and of the person who is the answer."""
    room = _room(plot.room)
    is_staying = jnp.arange(len(PEOPLE), dtype=jnp.int32) == plot.stays
    clue = jnp.where(
        is_staying[:, None],
        _sentences(STAYS, PERSON=plot.order, ROOM=room),
        _sentences(LEAVES, PERSON=plot.order, ROOM=room),
    )
    calls = _sentences(FILLER, CALLER=_caller(plot.callers), CALLED=_caller(plot.called), ROOM=_room(plot.rooms))
    (before, after), (count, _) = _lengths(task), _filler_sentences(task)
    story = [
        _filler(calls[:count], before),
        clue.reshape(-1),
        _sentences(VISIT, ROOM=room),
        _filler(calls[count:], after),
        _sentences(QUESTION),
    ]
    return jnp.concatenate(story), jnp.sum(jnp.where(is_staying, plot.order, 0), dtype=jnp.int32)


def plot_of(task: Task, key: RandomKey) -> Plot:
    """A random plot: all choices are independent and uniform, except that nobody calls themselves."""
    callers = len(CALLERS)
    bounds = jnp.asarray([len(ORDERS), len(PEOPLE), len(ROOMS)], jnp.int32)
    order, stays, room = jax.random.randint(named_key(key, "clue"), (3,), 0, bounds, jnp.int32)
    bounds = jnp.asarray([callers, callers - 1, len(ROOMS)], jnp.int32)[:, None]
    shape = (3, sum(_filler_sentences(task)))
    caller, further, places = jax.random.randint(named_key(key, "filler"), shape, 0, bounds, jnp.int32)
    return Plot(jnp.asarray(ORDERS)[order], stays, room, caller, (caller + 1 + further) % callers, places)


def _draw(task: Task, key: RandomKey, data: PyTree, test: bool, dtype: DTypeLike) -> Sample:
    words, answer = tell(task, plot_of(task, key))
    return Sample(jax.nn.one_hot(words, len(WORDS), dtype=dtype), answer[None])


def story(steps: int, distance: int | None = None) -> Task:
    """One class per person; without a `distance`, as many words as fit follow the clue, which begins the story.

    Chance: the person who stays is uniform, and nothing but the clue reveals who it is: log 4 and 3/4.
    """
    distance = steps - CLUE_WORDS if distance is None else distance
    people = len(PEOPLE)
    chance_loss, chance_error = math.log(people), 1 - 1 / people
    return Task("story", steps, len(WORDS), people, 1, "classes", chance_loss, chance_error, _draw, distance=distance)
