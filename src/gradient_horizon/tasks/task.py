"""The interface of a task: sequences drawn from keys, and how a network's answers to them are read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from gradient_horizon.numerics.arrays import PyTree, RandomKey, available
from gradient_horizon.numerics.keys import sized_key

Targets: TypeAlias = Int[Array, " L"] | Float[Array, " L"]


class Sample(NamedTuple):
    """One sequence: the inputs x_1 .. x_T, and the target at each of the last L steps."""

    xs: Float[Array, "T D"]
    targets: Targets


@dataclass(frozen=True)
class Task:
    """A task. Hashable, and equal for equal arguments of `make_task`, so that it can be a key of compiled programs.

    - `steps`: T, the length of every sequence; `input_size`: D.
    - `output_size`: K classes, or 1 if the targets are values (`kind`).
    - `answers`: L; outputs are read at the last L steps, h_{T-L+1} .. h_T.
    - `chance_loss`, `chance_error`: the smallest mean of `loss_of` and of `error_of` that a network can reach without
      reading its input: with the same answers to every sequence, the best ones by each of the two measures.
    - `draw(task, key, data, test, dtype)`: the implementation of `sample`; `load()`: that of `data`.
    - `distance`: the number of words after the clue of a `story`; None for every other task.
    """

    name: str
    steps: int
    input_size: int
    output_size: int
    answers: int
    kind: Literal["classes", "values"]
    chance_loss: float
    chance_error: float
    draw: "Callable[[Task, RandomKey, Any, bool, DTypeLike], Sample]"
    load: Callable[[], PyTree] = lambda: None
    distance: int | None = None

    def data(self) -> PyTree:
        """The NumPy arrays from which `sample` draws, or None.

        Pass them to compiled programs as an argument, never as a constant.
        """
        return self.load()

    def sample(self, key: RandomKey, data: PyTree, *, test: bool, dtype: DTypeLike) -> Sample:
        """The sequence of `key`. `test` selects the held-out part of real data; generated tasks are always fresh.

        Drawn in integers and float32 and then cast, so that a key gives the same sequence in every `dtype`. Tasks of
        different sizes (T, D, K, L, the distance) draw independently: a long sequence does not begin like a short one.
        """
        sizes = (self.steps, self.input_size, self.output_size, self.answers, self.distance or 0)
        return self.draw(self, sized_key(key, *sizes), data, test, available(dtype))
