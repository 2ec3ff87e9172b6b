"""The networks of a job: drawn, measured in blocks across devices, and described in the same way in every result."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon import names
from gradient_horizon.cells.cell import Cell, make_cell
from gradient_horizon.ensembles import blocks
from gradient_horizon.ensembles.block_size import batch_last_width, block_size
from gradient_horizon.ensembles.lanes import gains_from_lanes
from gradient_horizon.experiments.grid import NetworkGrid, program, zeros
from gradient_horizon.experiments.structure import Structure, joined, parted
from gradient_horizon.measures.trajectory import Trajectory, rollout
from gradient_horizon.names import declare
from gradient_horizon.numerics import lapack
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints
from gradient_horizon.tasks.drives import digit_pixels, digit_sequence, noise_sequence

NETWORK = ("weight_scale", "seed")


class Network(NamedTuple):
    """One network and its trajectory."""

    params: Any
    h0: Any
    xs: Any
    trajectory: Trajectory


# measure(spec, cell, network) -> arrays; compiled once per `spec` and structure of the cell, for all of its numbers
Measure = Callable[[Any, Cell, Network], Any]


class Measurement(NamedTuple):
    """What an experiment measures of each network.

    `side_by_side`: small networks share the vector lanes, which pays off if `measure` consists only of products and
    loops.
    """

    measure: Measure
    spec: Hashable = None
    side_by_side: bool = False


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["cell", "bias_scale", "input_scale", "state_scale", "noise_scale"],
    meta_fields=["weights", "steps", "inputs", "precision"],
)
@dataclass(frozen=True)
class Draw:
    """How a network is drawn. All cells of a family share one compiled program, whatever the scales."""

    cell: Cell
    weights: str
    steps: int
    bias_scale: float
    input_scale: float
    state_scale: float
    inputs: str
    noise_scale: float
    precision: str


class Constants(NamedTuple):
    """Values shared by all networks of a job, passed to its compiled programs as an argument."""

    draw: np.ndarray  # the numeric leaves of `Draw`
    cell: np.ndarray  # those of the cell
    pixels: Any


def draw_of(config: Config) -> Draw:
    """Return the `Draw` that the settings describe."""
    size = {"none": 0, "digits": 1, "noise": config.input_size or config.hidden_size}[config.inputs]
    return Draw(
        cell=cell_of(config, names.FAMILY_OF_CELL[config.cell], size),
        weights=config.weights,
        steps=config.steps,
        bias_scale=config.bias_scale,
        input_scale=config.input_scale,
        state_scale=config.state_scale,
        inputs=config.inputs,
        noise_scale=config.noise_scale,
        precision=config.precision,
    )


def cell_of(config: Config, name: str, input_size: int) -> Cell:
    """Return the cell `name` with the settings of `config`."""
    own = {key: getattr(config, key) for key in declare.declared(declare.Cell)[name].settings}
    return make_cell(name, config.hidden_size, input_size, **own)


def init_network(draw: Draw, network: dict[str, Any], pixels: Any) -> tuple[Any, Any, Any]:
    """Draw the parameters, initial state and inputs of one network."""
    cell = draw.cell
    dtype = jnp.dtype(draw.precision)
    key = jax.random.key(network["seed"])
    params = cell.init(key, network["weight_scale"], draw.weights, draw.bias_scale, draw.input_scale, dtype)
    h0 = cell.initial_state(key, draw.state_scale, dtype)
    xs = None
    if draw.inputs == "digits":
        xs = digit_sequence(key, pixels, draw.steps, dtype)
    elif draw.inputs == "noise":
        xs = noise_sequence(key, cell.input_size, draw.steps, draw.noise_scale, dtype)
    return params, h0, xs


def _init_network(draw: Structure, network: dict[str, Any], constants: Constants) -> tuple[Any, Any, Any]:
    return init_network(joined(draw, constants.draw), network, constants.pixels)


def _zeros(draw: Structure, network: dict[str, Any], constants: Constants) -> Any:
    params, _, _ = _init_network(draw, network, constants)
    return zeros(params)


def _rolled(cell: Structure, steps: int, rescale: bool, network: Any, constants: Constants) -> Network:
    """Add its trajectory to a network, so that every program that measures it sees the same states.

    (Two separately compiled rollouts of a chaotic network would diverge through rounding alone.)
    """
    params, h0, xs = network
    trajectory = rollout(joined(cell, constants.cell).step, params, h0, xs, steps=steps, rescale=rescale)
    return Network(params, h0, xs, trajectory)


def _measured(measure: Measure, spec: Hashable, cell: Structure, network: Network, constants: Constants) -> Any:
    return measure(spec, joined(cell, constants.cell), network)


@lru_cache(maxsize=64)
def _gains_from_lanes(draw: Structure, cell: Structure) -> bool:
    """True if networks of this cell run faster side by side in the vector lanes, if they are small."""
    found: list[bool] = []

    def probe(network: dict[str, Any], constants: Constants) -> Any:
        params, h0, xs = _init_network(draw, network, constants)
        x = None if xs is None else xs[0]
        found.append(gains_from_lanes(joined(cell, constants.cell).step, params, h0, x))
        return h0

    network = {"seed": np.uint32(0), "weight_scale": np.float32(1)}
    of_draw, of_cell = (np.ones(structure.num_leaves) for structure in (draw, cell))
    pixels = digit_pixels() if joined(draw, of_draw).inputs == "digits" else None
    jax.eval_shape(probe, network, Constants(of_draw, of_cell, pixels))
    return found[-1]


def _eigenvalues(network: Any, _: Any) -> dict[str, Any]:
    """Return the moduli of W's eigenvalues, descending, and its largest singular value.

    For GRU and LSTM, W is that of the candidate.
    """
    matrix = network[0].recurrent
    return {
        "eigenvalue_moduli": -jnp.sort(-jnp.abs(lapack.eigenvalues(matrix))),
        "largest_singular_value": lapack.singular_values(matrix)[0],
    }


class Networks:
    """Every network of a job: all its seeds at each of its weight scales, with the seed varying fastest."""

    def __init__(self, config: Config, checkpoints: Checkpoints | None = None):
        self.config = config
        draw = draw_of(config)
        cell = cell_of(config, config.cell, draw.cell.input_size)
        self.state_size = cell.state_size
        # without bias and inputs the state of a homogeneous cell may be scaled, by a different program
        rescale = getattr(cell, "is_homogeneous", False) and config.bias_scale == 0 and config.inputs == "none"
        (self._draw, scales), (self._cell, numbers) = parted(draw), parted(cell)
        self._rollout = (self._cell, config.steps, rescale)
        self.grid = NetworkGrid(
            {"weight_scale": config.weight_scales, "seed": config.seeds},
            block_size(self.state_size, config.steps, precision=config.precision, backend=jax.default_backend()),
            precision=config.precision,
            constants=Constants(scales, numbers, digit_pixels() if config.inputs == "digits" else None),
            checkpoints=checkpoints,
        )
        self.grid.refuse_underflow(program(_zeros, self._draw))
        self.total, self.block = self.grid.total, self.grid.block
        width = batch_last_width(self.state_size, self.block, precision=config.precision, backend=jax.default_backend())
        is_gain = width > 1 and (config.cell in names.VANILLA_CELLS or _gains_from_lanes(self._draw, self._cell))
        self.width = width if is_gain else 1
        self.shape, self.per_network = self.grid.shape, self.grid.label

    def every(self, measurement: Measurement, report: Callable[[float], None]) -> Any:
        """Return the measurement of every network, along a leading axis; `report` is called after each chunk."""
        return self.grid.every(self._stages(measurement), report)

    def over(self, measurement: Measurement, places: Any) -> Any:
        """Return the measurement of the networks at `places` only."""
        return self.grid.over(self._stages(measurement), self.grid.at(places))

    def slab_size(self, measurement: Measurement, budget: int) -> int | None:
        """Return how many networks may be measured at once in `budget` bytes (see `NetworkGrid.slab_size`)."""
        return self.grid.slab_size(self._stages(measurement), budget)

    def _stages(self, measurement: Measurement) -> list[blocks.Program]:
        measure, spec, side_by_side = measurement
        return [
            program(_init_network, self._draw),
            program(_rolled, *self._rollout, width=self.width),
            program(_measured, measure, spec, self._cell, width=self.width if side_by_side else 1),
        ]

    def eigenvalues(self) -> dict[str, np.ndarray]:
        """Return the `eigenvalue_moduli` of W, descending, and its `largest_singular_value`.

        Of shapes (scales, seeds, N) and (scales, seeds).
        """
        seeds = np.asarray(self.config.seeds, np.uint32)
        unit = {"seed": seeds, "weight_scale": np.ones(len(seeds), self.config.precision)}
        values_of_unit = self.grid.over([program(_init_network, self._draw), program(_eigenvalues)], unit)
        scales = np.asarray(self.config.weight_scales)
        return {key: np.multiply.outer(scales, values.astype(np.float64)) for key, values in values_of_unit.items()}

    def coordinates(self, *, lag: bool = False) -> dict[str, Any]:
        """Return weight scales and seeds as coordinates and, with `lag`, the lags 1 .. T."""
        lags = np.arange(1, self.config.steps + 1)
        along_lags = {"lag": ("lag", lags, {"long_name": "lag", "units": "step"})} if lag else {}
        return {**self.grid.coordinates(), **along_lags}

    def descriptions(self, first_bad_step: np.ndarray, eigenvalues: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the variables common to all experiments: W's extremes, finiteness of the states, and state size."""
        of = "of W (gru, lstm: of the candidate's W)"
        return {
            "spectral_radius": (
                NETWORK,
                eigenvalues["eigenvalue_moduli"][..., 0],
                {"long_name": f"spectral radius {of}", "units": "1"},
            ),
            "largest_singular_value": (
                NETWORK,
                eigenvalues["largest_singular_value"],
                {"long_name": f"largest singular value {of}", "units": "1"},
            ),
            "finite": self.per_network(first_bad_step < 0, title="whether every state is finite"),
            "first_bad_step": self.per_network(
                first_bad_step, title="first step whose state is not finite, or -1", units="step"
            ),
            "state_size": ((), self.state_size, {"long_name": "size n of the state", "units": "1"}),
        }
