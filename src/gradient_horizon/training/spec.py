"""The specification of a training run, and the numbers in which networks of one compiled program may differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from gradient_horizon import names
from gradient_horizon.cells.cell import Cell, TrainableCell
from gradient_horizon.numerics.arrays import Number, RandomKey, Scalar
from gradient_horizon.tasks.task import Task


class Member(NamedTuple):
    """One network of an ensemble: its key, and the numbers that the program takes as arguments."""

    key: RandomKey
    weight_scale: Scalar
    learning_rate: Scalar
    clip_threshold: Scalar


@partial(jax.tree_util.register_dataclass, data_fields=["weight"], meta_fields=["squared"])
@dataclass(frozen=True)
class Omega:
    """Pascanu's regulariser Ω, added with `weight`; of `squared` norms (equation 10 and the code) or of norms (9)."""

    weight: Number
    squared: bool = True


@dataclass(frozen=True)
class Flossing:
    """Gradient flossing.

    Before training, Adam makes `updates` at `learning_rate` on the squares of the first `exponents` Lyapunov exponents;
    during training, as many again before every `every`-th update (0: never).
    """

    updates: Number
    exponents: int
    learning_rate: Number = 1e-3
    every: Number = 0

    @property
    def goes_on(self) -> bool:
        """True if flossing is repeated during training."""
        return isinstance(self.every, Tracer) or bool(self.every > 0)


def _leaves(flossing: Flossing) -> tuple[tuple[Number, ...], tuple[int, bool]]:
    """`every` is a leaf only if flossing is repeated during training, which is a different program."""
    leaves = (flossing.updates, flossing.learning_rate, flossing.every)
    return leaves[: 2 + flossing.goes_on], (flossing.exponents, flossing.goes_on)


def _flossing(structure: tuple[int, bool], leaves: Sequence[Number]) -> Flossing:
    return Flossing(leaves[0], structure[0], *leaves[1:])


jax.tree_util.register_pytree_node(Flossing, _leaves, _flossing)


_NUMBERS = ("cell", "gain", "bias_scale", "input_scale", "output_scale", "solved_below", "omega", "flossing")
_STRUCTURE = ("task", "weights", "optimizer", "clip", "batch_size", "updates", "record_every", "test_size")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=_NUMBERS,
    meta_fields=(*_STRUCTURE, "until_solved", "precision"),
)
@dataclass(frozen=True)
class TrainSpec:
    """A cell that learns a task. As a pytree, its leaves are the numbers that affect neither shapes nor code.

    - `cell`: any `Cell`; a `TrainableCell` trains faster, and only one with a single path can have `omega`.
    - `weights`, `bias_scale`, `input_scale`: how the cell is drawn (`cell.init`), with W multiplied by `gain`; the
      readout's matrix V, shape (K, N), has entries N(0, `output_scale`²/N), and its bias is 0.
    - `updates`: the number of updates, each on `batch_size` fresh sequences. Before the first, after every
      `record_every` of them and after the last, a record is made on `test_size` fresh sequences.
    - `solved_below`: the error below which a network counts as having solved its task. `until_solved`: its updates and
      records end with the first record below that error.
    """

    cell: Cell
    task: Task
    weights: str = "gaussian"
    gain: Number = 1.0
    bias_scale: Number = 0.0
    input_scale: Number = 1.0
    output_scale: Number = 1.0
    optimizer: str = "sgd"
    clip: str = "none"
    batch_size: int = 20
    updates: int = 1000
    record_every: int = 100
    test_size: int = 1000
    solved_below: Number = 0.01
    until_solved: bool = False
    omega: Omega | None = None
    flossing: Flossing | None = None
    precision: str = "float32"

    def __post_init__(self):
        for name, allowed in (("optimizer", names.OPTIMIZERS), ("clip", names.CLIP_RULES), ("weights", names.WEIGHTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {getattr(self, name)!r} is unknown; allowed: {', '.join(allowed)}")
        for name in ("batch_size", "updates", "record_every", "test_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}; allowed: a whole number of at least 1")
        if self.record_every > self.updates:
            raise ValueError(f"record_every: {self.record_every}; allowed: at most updates={self.updates}")
        if self.cell.input_size != self.task.input_size:
            raise ValueError(
                f"cell: takes {self.cell.input_size} inputs; allowed: {self.task.input_size}, as in the task"
            )
        if self.omega is not None and not (isinstance(self.cell, TrainableCell) and self.cell.has_one_path):
            raise ValueError(
                f"cell: {self.cell.name!r} with omega; allowed: a TrainableCell with one path:"
                f" {', '.join(names.ONE_PATH_CELLS)}"
            )
        if self.flossing is not None and not 1 <= self.flossing.exponents <= self.cell.state_size:
            raise ValueError(
                f"flossing: {self.flossing.exponents} exponents; allowed: from 1 to {self.cell.state_size}, the size of"
                " the state"
            )

    @property
    def dtype(self) -> jnp.dtype:
        """`precision` as a dtype."""
        return jnp.dtype(self.precision)

    @property
    def recorded(self) -> tuple[int, ...]:
        """The numbers of updates after which a record is made: 0, `record_every`, ... and the last."""
        return (*range(0, self.updates, self.record_every), self.updates)
