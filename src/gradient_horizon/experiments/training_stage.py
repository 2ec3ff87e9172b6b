"""The stage that trains a chunk of networks from record to record, with checkpoints."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from gradient_horizon.ensembles import blocks
from gradient_horizon.experiments.grid import program, zeros
from gradient_horizon.experiments.structure import Structure, joined, parted
from gradient_horizon.store.checkpoints import Checkpoints
from gradient_horizon.training.ending import ends, remaining
from gradient_horizon.training.learner import Learner, make_advance, make_init
from gradient_horizon.training.network import init_network
from gradient_horizon.training.record import TrainingRecord, blanked, make_record
from gradient_horizon.training.spec import Member, TrainSpec


class Constants(NamedTuple):
    """Values shared by all networks of a job, passed to its compiled programs as an argument."""

    numbers: np.ndarray  # the numeric leaves of `TrainSpec`
    data: Any  # the task's data


def part_spec(spec: TrainSpec) -> tuple[Structure, np.ndarray]:
    """Split `spec` into structure and numbers; the updates between records are an argument of the programs instead."""
    return parted(replace(spec, updates=1, record_every=1))


def _member(network: dict[str, Any]) -> Member:
    key = jax.random.key(network["seed"])
    return Member(key, network["weight_scale"], network["learning_rate"], network["clip_threshold"])


def count_zeros(structure: Structure, network: dict[str, Any], constants: Constants) -> Any:
    """Count the parameters of a network's cell that are 0 (see `grid.zeros`)."""
    return zeros(init_network(joined(structure, constants.numbers), _member(network)).cell)


def _init_learner(structure: Structure, network: dict[str, Any], constants: Constants) -> Learner:
    return make_init(joined(structure, constants.numbers))(_member(network), constants.data)


def _advance(
    structure: Structure, network: tuple[dict[str, Any], Learner, Any], constants: tuple[Constants, Any]
) -> Learner:
    (numbers, learner, over), (shared, count) = network, constants
    spec = joined(structure, shared.numbers)
    return make_advance(spec)(_member(numbers), shared.data, learner, remaining(spec, over, count))


def _record(structure: Structure, network: tuple[dict[str, Any], Learner, Any], constants: Constants) -> TrainingRecord:
    numbers, learner, over = network
    record_of = make_record(joined(structure, constants.numbers))
    return blanked(record_of(_member(numbers), constants.data, learner), over)


class Trainer:
    """The stage that trains a chunk of networks from record to record and reports its progress.

    With `checkpoints`, it saves its state there and resumes from the last one.
    """

    def __init__(
        self,
        spec: TrainSpec,
        total: int,
        chunk: int,
        report: Callable[[float], None],
        checkpoints: Checkpoints | None = None,
    ):
        self.spec, self.left, self.chunk, self.report, self.checkpoints = spec, total, chunk, report, checkpoints
        self.structure, _ = part_spec(spec)
        self.ahead = 0.0  # networks of the current chunk that have been reported

    def finished(self, networks: float) -> None:
        """Account for networks that are finished, whether they were trained here or in an earlier run."""
        self.report(networks - self.ahead)
        self.left -= int(networks)
        self.ahead = 0.0

    def __call__(self, networks: dict[str, np.ndarray], constants: Constants) -> TrainingRecord:
        spec, record_of = self.spec, program(_record, self.structure)
        learner, over = program(_init_learner, self.structure)(networks, constants), _none_is_over(networks)
        records = [_on_host(record_of((networks, learner, over), constants))]
        work = hashlib.sha256(b"".join(networks[name].tobytes() for name in sorted(networks))).hexdigest()
        if saved := self.checkpoints and self.checkpoints.unfinished(work):
            learner, records = _restored(learner, records[0], saved)
            self._advanced(len(records) - 1)
        over = np.any([ends(spec, record) for record in records], axis=0)
        for count in np.diff(spec.recorded)[len(records) - 1 :]:
            if np.all(over):
                records.append(_blank(records[-1]))
            else:
                learner = program(_advance, self.structure)((networks, learner, over), (constants, np.int32(count)))
                records.append(_on_host(record_of((networks, learner, over), constants)))
                over = over | ends(spec, records[-1])
            self._advanced(1)
            if self.checkpoints:
                self.checkpoints.save_unfinished(work, lambda learner=learner: _leaves((learner, _stacked(records, 0))))
        return _stacked(records, 1)

    def _advanced(self, records: int) -> None:
        share = records * min(self.chunk, self.left) / len(self.spec.recorded)
        self.report(share)
        self.ahead += share

    def shapes(self, networks: blocks.Shapes, constants: Constants) -> blocks.Shapes:
        """Return the shapes of the result of a call, without computing it."""
        learner = program(_init_learner, self.structure).shapes(networks, constants)
        over = blocks.shapes_of(np.zeros(networks.leaves[0].shape, bool))
        record = program(_record, self.structure).shapes(blocks.together(networks, learner, over), constants)
        count = len(self.spec.recorded)
        return record._replace(
            leaves=tuple(
                jax.ShapeDtypeStruct((leaf.shape[0], count, *leaf.shape[1:]), leaf.dtype) for leaf in record.leaves
            )
        )

    def memory(self, networks: Any, constants: Constants) -> int:
        """Return the bytes that the updates take on all devices."""
        init_stage, advance_stage = (program(stage, self.structure) for stage in (_init_learner, _advance))
        over, more = _none_is_over(networks), (constants, np.int32(1))
        of_networks = blocks.shapes_of(networks)
        shapes = blocks.together(of_networks, init_stage.shapes(of_networks, constants), blocks.shapes_of(over))
        known_size = advance_stage.known_memory(shapes, more)
        if known_size is not None:
            return known_size
        return advance_stage.memory((networks, init_stage(networks, constants), over), more)


def _none_is_over(networks: dict[str, np.ndarray]) -> np.ndarray:
    return np.zeros(networks["seed"].shape, bool)


def _on_host(record: TrainingRecord) -> TrainingRecord:
    return jax.tree.map(np.asarray, record)


def _leaves(values: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(values)]


def _stacked(records: list[TrainingRecord], axis: int) -> TrainingRecord:
    return jax.tree.map(lambda *leaves: np.stack(leaves, axis=axis), *records)


def _restored(
    learner: Learner, record: TrainingRecord, saved: list[np.ndarray]
) -> tuple[Learner, list[TrainingRecord]]:
    """Return the learner and records of a checkpoint, which have the structure of those given."""
    count = len(jax.tree.leaves(learner))
    places = [jax.device_put(new, old.sharding) for new, old in zip(saved, jax.tree.leaves(learner), strict=False)]
    structure = jax.tree.structure(record)
    records = [jax.tree.unflatten(structure, leaves) for leaves in zip(*saved[count:], strict=True)]
    return jax.tree.unflatten(jax.tree.structure(learner), places), records


def _blank(record: TrainingRecord) -> TrainingRecord:
    """Return a copy of the last record with its measurements set to NaN."""
    return jax.tree.map(lambda leaf: np.full_like(leaf, np.nan) if leaf.dtype.kind == "f" else leaf, record)
