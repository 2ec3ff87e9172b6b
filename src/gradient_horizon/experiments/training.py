"""Train networks on a task, and record their gradients through time along the way."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from gradient_horizon.cells.cell import make_cell
from gradient_horizon.ensembles import blocks, devices
from gradient_horizon.experiments.population import Population, program, zeros
from gradient_horizon.experiments.structure import Structure, joined, parted
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Parts
from gradient_horizon.tasks.limits import SOLVED_BELOW, SOLVED_BELOW_OTHERS
from gradient_horizon.tasks.make import make_task
from gradient_horizon.training.ending import ends, remaining
from gradient_horizon.training.initialisations import PUBLISHED
from gradient_horizon.training.learner import Learner, make_advance, make_init
from gradient_horizon.training.network import init_network
from gradient_horizon.training.record import TrainingRecord, blanked, make_record
from gradient_horizon.training.spec import Flossing, Member, Omega, TrainSpec
from gradient_horizon.training.train import solved_at


def spec_of(config: Config) -> TrainSpec:
    """Return the `TrainSpec` that the settings describe."""
    task = make_task(config.task, config.steps, distance=config.distance)
    cell = make_cell(config.cell, config.hidden_size, task.input_size, leak=config.leak, forget_bias=config.forget_bias)
    gain, input_scale, output_scale = 1.0, config.input_scale, config.output_scale
    if config.initialisation is not None:
        chosen = PUBLISHED[config.initialisation]
        gain, std = chosen.gain, chosen.std
        input_scale, output_scale = std * task.input_size**0.5, std * config.hidden_size**0.5
    floss = Flossing(config.floss_updates, config.floss_exponents, config.floss_rate, config.floss_every)
    return TrainSpec(
        cell=cell,
        task=task,
        weights=config.weights,
        gain=gain,
        bias_scale=config.bias_scale,
        input_scale=input_scale,
        output_scale=output_scale,
        optimizer=config.optimizer,
        clip=config.clip,
        batch_size=config.batch_size,
        updates=config.updates,
        record_every=config.record_every or -(-config.updates // 20),
        test_size=config.test_size,
        solved_below=config.solved_below or SOLVED_BELOW.get(config.task, SOLVED_BELOW_OTHERS),
        until_solved=config.until_solved,
        omega=Omega(config.omega, config.omega_squared) if config.omega else None,
        flossing=floss if floss.updates else None,
        precision=config.precision,
    )


class Constants(NamedTuple):
    """Values shared by all networks of a job, passed to its compiled programs as an argument."""

    numbers: np.ndarray  # the numeric leaves of `TrainSpec`
    data: Any  # the task's data


def _parted(spec: TrainSpec) -> tuple[Structure, np.ndarray]:
    # the number of updates between records is an argument of the programs
    return parted(replace(spec, updates=1, record_every=1))


def _member(network: dict[str, Any]) -> Member:
    key = jax.random.key(network["seed"])
    return Member(key, network["weight_scale"], network["learning_rate"], network["clip_threshold"])


def _zeros(structure: Structure, network: dict[str, Any], constants: Constants) -> Any:
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


class _Trainer:
    """The stage that trains a chunk of networks from record to record and reports its progress.

    With `parts`, it writes checkpoints there and resumes from the last one.
    """

    def __init__(
        self, spec: TrainSpec, total: int, chunk: int, report: Callable[[float], None], parts: Parts | None = None
    ):
        self.spec, self.left, self.chunk, self.report, self.parts = spec, total, chunk, report, parts
        self.structure, _ = _parted(spec)
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
        if kept := self.parts and self.parts.checkpointed(work):
            learner, records = _restored(learner, records[0], kept)
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
            if self.parts:
                self.parts.checkpoint(work, lambda learner=learner: _leaves((learner, _stacked(records, 0))))
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
        init, advanced = (program(stage, self.structure) for stage in (_init_learner, _advance))
        over, more = _none_is_over(networks), (constants, np.int32(1))
        given = blocks.shapes_of(networks)
        shapes = blocks.together(given, init.shapes(given, constants), blocks.shapes_of(over))
        known = advanced.known_memory(shapes, more)
        return advanced.memory((networks, init(networks, constants), over), more) if known is None else known


def _none_is_over(networks: dict[str, np.ndarray]) -> np.ndarray:
    return np.zeros(networks["seed"].shape, bool)


def _on_host(record: TrainingRecord) -> TrainingRecord:
    return jax.tree.map(np.asarray, record)


def _leaves(values: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(values)]


def _stacked(records: list[TrainingRecord], axis: int) -> TrainingRecord:
    return jax.tree.map(lambda *leaves: np.stack(leaves, axis=axis), *records)


def _restored(learner: Learner, record: TrainingRecord, kept: list[np.ndarray]) -> tuple[Learner, list[TrainingRecord]]:
    """Return the learner and records of a checkpoint, which have the structure of those given."""
    count = len(jax.tree.leaves(learner))
    places = [jax.device_put(new, old.sharding) for new, old in zip(kept, jax.tree.leaves(learner), strict=False)]
    structure = jax.tree.structure(record)
    records = [jax.tree.unflatten(structure, leaves) for leaves in zip(*kept[count:], strict=True)]
    return jax.tree.unflatten(jax.tree.structure(learner), places), records


def _blank(record: TrainingRecord) -> TrainingRecord:
    """Return a copy of the last record with its measurements set to NaN."""
    return jax.tree.map(lambda leaf: np.full_like(leaf, np.nan) if leaf.dtype.kind == "f" else leaf, record)


_SERIES = {
    "loss": ("loss", "nat"),
    "error": ("share of wrong answers", "1"),
    "gradient_norm": ("global norm of the gradient", "1"),
    "clipped_gradient_norm": ("global norm of the gradient after clipping", "1"),
    "spectral_radius": ("spectral radius of W (gru, lstm: of the candidate's W)", "1"),
    "largest_singular_value": ("largest singular value of W (gru, lstm: of the candidate's W)", "1"),
    "saturation": ("share of saturated (relu: dead) units", "1"),
    "lyapunov_exponent": ("largest Lyapunov exponent on the task's sequences", "1/step"),
}


def measure(config: Config, report: Callable[[float], None], parts: Parts | None = None) -> xr.Dataset:
    """Train every network of `config` and label its history."""
    spec = spec_of(config)
    # without a clip rule the thresholds make no difference: one is trained and its result is used for all
    thresholds = config.clip_thresholds[:1] if config.clip == "none" else config.clip_thresholds
    population = Population(
        {
            "learning_rate": config.learning_rates,
            "clip_threshold": thresholds,
            "weight_scale": config.weight_scales,
            "seed": config.seeds,
        },
        devices.training_block(
            spec.cell.state_size,
            config.steps,
            config.batch_size,
            precision=config.precision,
            backend=jax.default_backend(),
        ),
        precision=config.precision,
        constants=Constants(_parted(spec)[1], spec.task.data()),
        parts=parts,
    )
    population.refuse_underflow(program(_zeros, _parted(spec)[0]))
    trainer = _Trainer(spec, population.total, population.block * jax.device_count(), report, parts)
    history = population.every([trainer], trainer.finished)
    dataset = _labelled(spec, population, history)
    if len(config.clip_thresholds) > len(thresholds):
        dataset = dataset.isel(clip_threshold=[0] * len(config.clip_thresholds))
        attributes = dataset.clip_threshold.attrs
        dataset = dataset.assign_coords(clip_threshold=("clip_threshold", config.clip_thresholds, attributes))
    return dataset.assign_attrs(block_size=population.block)


def _given(spec: TrainSpec) -> dict[str, Any]:
    """Return the reference values for the histories: the level of chance, and the error that counts as solved."""
    described = {
        "chance_loss": (spec.task.chance_loss, "smallest loss without reading the input", "nat"),
        "chance_error": (spec.task.chance_error, "smallest error without reading the input", "1"),
        "solved_below": (spec.solved_below, "error under which the task counts as solved", "1"),
    }
    return {
        name: ((), value, {"long_name": title, "units": units}) for name, (value, title, units) in described.items()
    }


def _labelled(spec: TrainSpec, population: Population, history: TrainingRecord) -> xr.Dataset:
    label = population.label
    described = {
        name: label(getattr(history, name), "update", title=title, units=units)
        for name, (title, units) in _SERIES.items()
    }
    changed = np.diff(history.changed, axis=1) / np.diff(spec.recorded)
    fraction = np.concatenate([np.full_like(changed[:, :1], np.nan), changed], axis=1)
    fraction = np.where(np.isnan(history.loss), np.nan, fraction)
    logs = history.log_state_gradient_norm.astype(np.float64)
    described |= {
        "clip_fraction": label(fraction, "update", title="share of the gradients clipped since the last record"),
        "state_gradient_norm": label(
            np.exp(logs),
            "update",
            "time",
            title="‖∂L/∂h_t‖, root mean square over sequences",
            comment="0 below 1e-308: see log_state_gradient_norm",
        ),
        "log_state_gradient_norm": label(
            logs,
            "update",
            "time",
            title="log of ‖∂L/∂h_t‖, root mean square over sequences",
            comment="natural logarithm",
        ),
        "log_norm": label(
            history.log_norm.astype(np.float64),
            "update",
            "lag",
            title="log Frobenius norm of ∂h_T/∂h_(T-lag), mean over sequences",
            comment="natural logarithm",
        ),
        "solved_at": label(
            solved_at(spec, history.error), title="update at which the task was solved, or -1", units="update"
        ),
        "diverged_at": label(
            history.diverged_at.max(axis=1),
            title="update after which a parameter was not finite (0: as it was drawn), or -1",
            units="update",
        ),
        "state_size": ((), spec.cell.state_size, {"long_name": "size n of the state", "units": "1"}),
        **_given(spec),
    }
    steps = np.arange(1, spec.task.steps + 1)
    coordinates = {
        **population.coordinates(),
        "update": ("update", np.asarray(spec.recorded), {"long_name": "update", "units": "1"}),
        "time": ("time", steps, {"long_name": "time t of the state", "units": "step"}),
        "lag": ("lag", steps, {"long_name": "lag", "units": "step"}),
    }
    return xr.Dataset(described, coords=coordinates)
