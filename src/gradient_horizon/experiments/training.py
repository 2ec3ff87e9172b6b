"""Train networks on a task, and record their gradients through time along the way."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import xarray as xr

from gradient_horizon import names
from gradient_horizon.ensembles.block_size import training_block
from gradient_horizon.experiments.grid import NetworkGrid, program
from gradient_horizon.experiments.networks import cell_of
from gradient_horizon.experiments.training_stage import Constants, Trainer, count_zeros, part_spec
from gradient_horizon.names import declare, rules
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints
from gradient_horizon.tasks.make import make_task
from gradient_horizon.training.initialisations import PUBLISHED
from gradient_horizon.training.record import TrainingRecord
from gradient_horizon.training.spec import Flossing, Omega, TrainSpec
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
        constants=Constants(part_spec(spec)[1], spec.task.data()),
        checkpoints=checkpoints,
    )
    grid.refuse_underflow(program(count_zeros, part_spec(spec)[0]))
    return grid


def slab_size(config: Config, budget: int) -> int | None:
    """Return how many networks may be trained at once in `budget` bytes; None: all of them."""
    spec = spec_of(config)
    grid = _grid(config, spec)
    return grid.slab_size([Trainer(spec, grid.total, grid.block, lambda _: None)], budget)


def measure(config: Config, report: Callable[[float], None], checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Train every network of `config` and label its history."""
    spec = spec_of(config)
    grid = _grid(config, spec, checkpoints)
    trainer = Trainer(spec, grid.total, grid.block * jax.device_count(), report, checkpoints)
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
