"""How far the gradient reaches: log norms of ∂h_T/∂h_t against lag, over seeds and weight scales."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from gradient_horizon import ensemble, linalg, names, runtime
from gradient_horizon.arrays import Step
from gradient_horizon.cells import make_cell
from gradient_horizon.config import Config
from gradient_horizon.horizon import gradient_horizon
from gradient_horizon.inputs import digit_pixels, digit_sequence, noise_sequence
from gradient_horizon.jacobian import ScaledNorms, in_float64, log_difference, scaled_norms
from gradient_horizon.rollout import Trajectory, rollout


@dataclass(frozen=True)
class Draw:
    """What is drawn for a network: one compiled program for every cell of a family."""

    family: str
    weights: str
    hidden_size: int
    steps: int
    forget_bias: float
    bias_scale: float
    input_scale: float
    state_scale: float
    inputs: str
    input_size: int
    noise_scale: float
    precision: str


@dataclass(frozen=True)
class Spec:
    """What is measured on it; seeds and weight scales are arguments of the compiled programs."""

    cell: str
    leak: float
    hidden_size: int
    input_size: int
    norms: tuple[str, ...]
    anchors: tuple[str, ...]
    method: str


def _draw_of(config: Config) -> Draw:
    return Draw(
        family=names.FAMILY_OF_CELL[config.cell],
        weights=config.weights,
        hidden_size=config.hidden_size,
        steps=config.steps,
        forget_bias=config.forget_bias,
        bias_scale=config.bias_scale,
        input_scale=config.input_scale,
        state_scale=config.state_scale,
        inputs=config.inputs,
        input_size={"none": 0, "digits": 1, "noise": config.input_size or config.hidden_size}[config.inputs],
        noise_scale=config.noise_scale,
        precision=config.precision,
    )


def _spec_of(config: Config, input_size: int) -> Spec:
    return Spec(
        cell=config.cell,
        leak=config.leak,
        hidden_size=config.hidden_size,
        input_size=input_size,
        # the horizon is defined by the Frobenius norm, which costs little beside the product
        norms=tuple(dict.fromkeys(("frobenius", *config.norms))),
        anchors=tuple(config.anchors),
        method=config.method,
    )


def _drawn(draw: Draw, network: dict[str, Any], pixels: Any) -> tuple[Any, Any, Any]:
    """Parameters, initial state and inputs of one network."""
    cell = make_cell(draw.family, draw.hidden_size, draw.input_size, forget_bias=draw.forget_bias)
    dtype = jnp.dtype(draw.precision)
    key = jax.random.key(network["seed"])
    params = cell.init(key, network["weight_scale"], draw.weights, draw.bias_scale, draw.input_scale, dtype)
    h0 = cell.initial_state(key, draw.state_scale, dtype)
    xs = None
    if draw.inputs == "digits":
        xs = digit_sequence(key, pixels, draw.steps, dtype)
    elif draw.inputs == "noise":
        xs = noise_sequence(key, draw.input_size, draw.steps, draw.noise_scale, dtype)
    return params, h0, xs


def _along(spec: Spec, steps: int, drawn: tuple[Any, Any, Any]) -> tuple[Step, Trajectory]:
    step = make_cell(spec.cell, spec.hidden_size, spec.input_size, leak=spec.leak).step
    params, h0, xs = drawn
    return step, rollout(step, params, h0, xs, steps=steps)


def _measure(spec: Spec, steps: int, drawn: Any, _: Any) -> dict[str, Any]:
    """One network: norms at each anchor as mantissa and exponent, and whether its states stayed finite."""
    step, trajectory = _along(spec, steps, drawn)
    return {"scaled": _products(spec, step, drawn, trajectory), "first_bad_step": trajectory.first_bad_step}


def _measure_in_float64(spec: Spec, steps: int, drawn: Any, _: Any) -> dict[str, Any]:
    """The same along the same states, the products in float64: for networks whose product collapsed in one step."""
    step, trajectory = _along(spec, steps, drawn)
    drawn, trajectory = in_float64((drawn, trajectory))
    return _products(spec, step, drawn, trajectory)


def _products(spec: Spec, step: Step, drawn: Any, trajectory: Trajectory) -> dict[str, ScaledNorms]:
    params, h0, xs = drawn
    return {
        anchor: scaled_norms(step, params, h0, trajectory, xs, anchor=anchor, norms=spec.norms, method=spec.method)
        for anchor in spec.anchors
    }


def _recheck(spec: Spec, steps: int, drawn: Any, _: Any) -> Any:
    """The largest difference between the spec's method and `jacrev`, along the same states.

    (Two separately compiled rollouts of a chaotic network would part ways by rounding alone.)
    """
    step, trajectory = _along(spec, steps, drawn)
    ours = _products(spec, step, drawn, trajectory)
    reference = _products(replace(spec, method="jacrev"), step, drawn, trajectory)
    return jnp.stack(
        [log_difference(ours[anchor], reference[anchor], name) for anchor in spec.anchors for name in spec.norms]
    ).max()


def _spectrum(drawn: Any, _: Any) -> dict[str, Any]:
    """Spectral radius and largest singular value of W; of gru and lstm, the candidate's."""
    matrix = drawn[0].recurrent
    return {
        "spectral_radius": linalg.spectral_radius(matrix),
        "largest_singular_value": linalg.singular_values(matrix)[0],
    }


@lru_cache(maxsize=64)
def _program(function: Callable[..., Any], *arguments: Any) -> ensemble.Program:
    return ensemble.compile_blocks(partial(function, *arguments))


def _log_norms(scaled: Any, name: str) -> np.ndarray:
    """Natural logs in float64 from mantissa and exponent, whatever the precision of the run."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(scaled.mantissa[name], np.float64)) + scaled.exponent * np.log(2.0)


def measure(config: Config, report: Any) -> xr.Dataset:
    """Measure every network of `config` and label the result."""
    draw = _draw_of(config)
    spec = _spec_of(config, draw.input_size)
    state_size = make_cell(config.cell, config.hidden_size).state_size
    block = runtime.block_size(state_size, draw.steps, precision=draw.precision, backend=jax.default_backend())
    pixels = digit_pixels() if draw.inputs == "digits" else None
    seeds, scales = np.asarray(config.seeds, np.uint32), np.asarray(config.weight_scales, np.float64)
    shape = (len(scales), len(seeds))
    total = len(scales) * len(seeds)
    networks = {
        "seed": np.tile(seeds, len(scales)),
        "weight_scale": np.repeat(scales, len(seeds)).astype(draw.precision),
    }
    drawing = _program(_drawn, draw)

    def over(places: Any, function: Callable[..., Any], told: Any = None) -> Any:
        measuring = _program(function, spec, draw.steps)
        chosen = {key: values[places] for key, values in networks.items()}
        chunks = ensemble.map_blocks([drawing, measuring], block, chosen, pixels)
        return ensemble.gather(chunks, len(chosen["seed"]), told)

    measured = over(slice(None), _measure, report)
    log_norms = {
        anchor: {name: _log_norms(scaled, name) for name in spec.norms} for anchor, scaled in measured["scaled"].items()
    }
    suspects = np.flatnonzero(np.any([scaled.suspect for scaled in measured["scaled"].values()], axis=0))
    if draw.precision == "float64":
        suspects = suspects[:0]
    if len(suspects):
        for anchor, scaled in over(suspects, _measure_in_float64).items():
            for name in spec.norms:
                log_norms[anchor][name][suspects] = _log_norms(scaled, name)

    unit = {"seed": seeds, "weight_scale": np.ones(len(seeds), draw.precision)}
    chunks = ensemble.map_blocks([drawing, _program(_spectrum)], block, unit, pixels)
    spectrum = ensemble.gather(chunks, len(seeds))

    dataset = _labelled(config, shape, log_norms, measured["first_bad_step"].reshape(shape), spectrum)
    dataset.attrs.update(block_size=block, products_in_float64=len(suspects) if draw.precision == "float32" else total)
    if config.recheck:
        places = np.unique(np.linspace(0, total - 1, min(block, total)).astype(int))
        dataset.attrs.update(recheck_networks=len(places), recheck_difference=float(over(places, _recheck).max()))
    return dataset


def _labelled(
    config: Config,
    shape: tuple[int, int],
    log_norms: dict[str, dict[str, np.ndarray]],
    first_bad_step: np.ndarray,
    spectrum: dict[str, np.ndarray],
) -> xr.Dataset:
    network = ("weight_scale", "seed")
    described: dict[str, Any] = {}
    state_size = make_cell(config.cell, config.hidden_size).state_size
    for anchor, variable, title in (
        ("end", "log_norm", "log norm of ∂h_T/∂h_(T-lag)"),
        ("start", "log_norm_from_start", "log norm of ∂h_lag/∂h_0"),
    ):
        if anchor in log_norms:
            values = np.stack([log_norms[anchor][name].reshape(*shape, -1) for name in config.norms])
            described[variable] = (
                ("norm", *network, "lag"),
                values,
                {"long_name": title, "units": "1", "comment": "natural logarithm"},
            )
    if "end" in log_norms:
        frobenius = log_norms["end"]["frobenius"].reshape(*shape, -1)
        horizon, kind = gradient_horizon(frobenius, state_size, config.horizon_threshold)
        described["horizon"] = (network, horizon, {"long_name": "gradient horizon", "units": "step"})
        described["horizon_kind"] = (
            network,
            np.array(names.HORIZON_KINDS)[kind],
            {"long_name": "what ends the gradient at its horizon", "units": "1"},
        )
    scales = np.asarray(config.weight_scales)[:, None]
    described["spectral_radius"] = (
        network,
        scales * spectrum["spectral_radius"][None].astype(np.float64),
        {"long_name": "spectral radius of W (gru, lstm: of the candidate's W)", "units": "1"},
    )
    described["largest_singular_value"] = (
        network,
        scales * spectrum["largest_singular_value"][None].astype(np.float64),
        {"long_name": "largest singular value of W (gru, lstm: of the candidate's W)", "units": "1"},
    )
    described["finite"] = (network, first_bad_step < 0, {"long_name": "whether every state is finite", "units": "1"})
    described["first_bad_step"] = (
        network,
        first_bad_step,
        {"long_name": "first step whose state is not finite, or -1", "units": "step"},
    )
    described["state_size"] = ((), state_size, {"long_name": "size n of the state", "units": "1"})
    coordinates = {
        "norm": ("norm", list(config.norms), {"long_name": "matrix norm", "units": "1"}),
        "weight_scale": ("weight_scale", config.weight_scales, {"long_name": "weight scale g", "units": "1"}),
        "seed": ("seed", config.seeds, {"long_name": "seed", "units": "1"}),
        "lag": ("lag", np.arange(1, config.steps + 1), {"long_name": "lag", "units": "step"}),
    }
    return xr.Dataset(
        described,
        coords=coordinates,
    )
