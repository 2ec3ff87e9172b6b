"""Train networks on a task, and record their gradients through time along the way."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from gradient_horizon import names
from gradient_horizon.ensembles import blocks
from gradient_horizon.ensembles.block_size import training_block
from gradient_horizon.experiments.grid import NetworkGrid, program, zeros
from gradient_horizon.experiments.networks import cell_of
from gradient_horizon.experiments.structure import Structure, joined, parted
from gradient_horizon.names import declare, rules
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints
from gradient_horizon.tasks.make import make_task
from gradient_horizon.training.ending import ends, remaining
from gradient_horizon.training.initialisations import PUBLISHED
from gradient_horizon.training.learner import Learner, make_advance, make_init
from gradient_horizon.training.network import init_network
from gradient_horizon.training.record import TrainingRecord, blanked, make_record
from gradient_horizon.training.spec import Flossing, Member, Omega, TrainSpec
from gradient_horizon.training.train import solved_at

DECLARES = declare.Experiment(
    "training",
    "train networks on a task and follow their gradients through time",
    make="measure",
    slab_size="slab_size",
    reads=(
        *("experiment", "cell", "weights", "hidden_size", "steps", "seeds", "weight_scales"),
        *("bias_scale", "input_scale", "initialisation", "batch_size", "precision"),
    ),
    defaults={"hidden_size": 50, "weight_scales": [1.0], "learning_rates": [0.1]},
    settings={
        "task": declare.Setting("temporal_order", rules.one_of(names.TASKS), "task to learn"),
        "updates": declare.Setting(1000, rules.whole(1), "number of updates"),
        "record_every": declare.Setting(
            None,
            rules.whole_or_null(1),
            "number of updates between records; null: a twentieth of all updates",
            type=int | None,
        ),
        "test_size": declare.Setting(1000, rules.whole(1), "number of fresh sequences on which each record is made"),
        "optimizer": declare.Setting(
            "sgd", rules.one_of(names.OPTIMIZERS), "optimiser that turns gradients into updates"
        ),
        "learning_rates": declare.Setting(
            [0.01], rules.RATES, "learning rates, each with its own networks", type=Any, coordinate="learning_rate"
        ),
        "clip": declare.Setting(
            "book", rules.one_of(names.CLIP_RULES), "rule by which gradients that are too long are clipped"
        ),
        "clip_thresholds": declare.Setting(
            [1.0],
            rules.RATES,
            "thresholds of the clip rule, each with its own networks",
            type=Any,
            coordinate="clip_threshold",
            idle=declare.where("clip", "none"),
        ),
        "output_scale": declare.Setting(
            1.0,
            rules.NOT_NEGATIVE,
            "scale of the readout weights, whose variance is output_scale^2 / N",
            idle=declare.unless("initialisation", None),
        ),
        "solved_below": declare.Setting(
            None,
            rules.POSITIVE_OR_NULL,
            "error below which the task counts as solved; null: the task's own",
            type=float | None,
        ),
        "until_solved": declare.Setting(False, rules.SWITCH, "stop updating a network once it has solved its task"),
        "omega": declare.Setting(0.0, rules.NOT_NEGATIVE, "weight of Pascanu's regulariser; 0: none"),
        "omega_squared": declare.Setting(
            True,
            rules.SWITCH,
            "use the regulariser of squared norms rather than of norms",
            idle=declare.where("omega", 0),
        ),
        "floss_updates": declare.Setting(
            0, rules.whole(0), "number of gradient-flossing updates before training; 0: none"
        ),
        "floss_exponents": declare.Setting(
            1,
            rules.whole(1),
            "number of Lyapunov exponents that flossing pushes to zero",
            idle=declare.where("floss_updates", 0),
        ),
        "floss_rate": declare.Setting(
            0.001, rules.POSITIVE, "learning rate of flossing", idle=declare.where("floss_updates", 0)
        ),
        "floss_every": declare.Setting(
            0,
            rules.whole(0),
            "number of updates between repetitions of flossing during training; 0: not repeated",
            idle=declare.where("floss_updates", 0),
        ),
    },
    needs=(
        declare.Need(
            "record_every",
            lambda settings: settings.record_every is None or settings.record_every <= settings.updates,
            lambda settings: f"at most updates={settings.updates}",
        ),
        declare.Need(
            "cell",
            lambda settings: not settings.omega or declare.cell_of(settings).one_path,
            lambda settings: f"{', '.join(names.ONE_PATH_CELLS)} where omega is above 0",
        ),
        declare.Need(
            "floss_exponents",
            lambda settings: settings.floss_exponents <= declare.state_size(settings),
            lambda settings: f"at most {declare.state_size(settings)}, the size of the state",
        ),
    ),
)


def spec_of(config: Config) -> TrainSpec:
    """Return the `TrainSpec` that the settings describe."""
    declared = declare.declared(declare.Task)[config.task]
    task = make_task(config.task, config.steps, **{key: getattr(config, key) for key in declared.settings})
    cell = cell_of(config, config.cell, task.input_size)
    gain, input_scale, output_scale = 1.0, config.input_scale, config.output_scale
    if config.initialisation is not None:
        published = PUBLISHED[config.initialisation]
        gain, std = published.gain, published.std
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
        solved_below=config.solved_below or declared.solved_below,
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


def _grid(config: Config, spec: TrainSpec, checkpoints: Checkpoints | None = None) -> NetworkGrid:
    # without a clip rule the thresholds make no difference: one is trained and its result is used for all
    thresholds = config.clip_thresholds[:1] if config.clip == "none" else config.clip_thresholds
    grid = NetworkGrid(
        {
            "learning_rate": config.learning_rates,
            "clip_threshold": thresholds,
            "weight_scale": config.weight_scales,
            "seed": config.seeds,
        },
        training_block(
            spec.cell.state_size,
            config.steps,
            config.batch_size,
            precision=config.precision,
            backend=jax.default_backend(),
        ),
        precision=config.precision,
        constants=Constants(_parted(spec)[1], spec.task.data()),
        checkpoints=checkpoints,
    )
    grid.refuse_underflow(program(_zeros, _parted(spec)[0]))
    return grid


def slab_size(config: Config, budget: int) -> int | None:
    """Return how many networks may be trained at once in `budget` bytes; None: all of them."""
    spec = spec_of(config)
    grid = _grid(config, spec)
    return grid.slab_size([_Trainer(spec, grid.total, grid.block, lambda _: None)], budget)


def measure(config: Config, report: Callable[[float], None], checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Train every network of `config` and label its history."""
    spec = spec_of(config)
    grid = _grid(config, spec, checkpoints)
    trainer = _Trainer(spec, grid.total, grid.block * jax.device_count(), report, checkpoints)
    history = grid.every([trainer], trainer.finished)
    dataset = _labelled(spec, grid, history)
    if len(config.clip_thresholds) > len(grid.axes["clip_threshold"]):
        dataset = dataset.isel(clip_threshold=[0] * len(config.clip_thresholds))
        attributes = dataset.clip_threshold.attrs
        dataset = dataset.assign_coords(clip_threshold=("clip_threshold", config.clip_thresholds, attributes))
    return dataset.assign_attrs(block_size=grid.block)


def _references(spec: TrainSpec) -> dict[str, Any]:
    """Return the reference values for the histories: the level of chance, and the error that counts as solved."""
    described = {
        "chance_loss": (spec.task.chance_loss, "smallest loss without reading the input", "nat"),
        "chance_error": (spec.task.chance_error, "smallest error without reading the input", "1"),
        "solved_below": (spec.solved_below, "error below which the task counts as solved", "1"),
    }
    return {
        name: ((), value, {"long_name": title, "units": units}) for name, (value, title, units) in described.items()
    }


def _labelled(spec: TrainSpec, grid: NetworkGrid, history: TrainingRecord) -> xr.Dataset:
    label = grid.label
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
        **_references(spec),
    }
    steps = np.arange(1, spec.task.steps + 1)
    coordinates = {
        **grid.coordinates(),
        "update": ("update", np.asarray(spec.recorded), {"long_name": "update", "units": "1"}),
        "time": ("time", steps, {"long_name": "time t of the state", "units": "step"}),
        "lag": ("lag", steps, {"long_name": "lag", "units": "step"}),
    }
    return xr.Dataset(described, coords=coordinates)
