"""Lyapunov spectra over seeds and weight scales, each checked by the sum rule."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from gradient_horizon import names
from gradient_horizon.cells.cell import Cell
from gradient_horizon.cells.vanilla import VanillaCell
from gradient_horizon.experiments.networks import Measurement, Network, Networks
from gradient_horizon.measures.lyapunov import lyapunov_exponents
from gradient_horizon.names import declare, rules
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints

TRANSIENT = 300  # the usual number of steps that are discarded, or a quarter of all, if that is less
DECLARES = declare.Experiment(
    "lyapunov",
    "Lyapunov exponents, each spectrum checked by the sum rule",
    make="measure",
    slab_size="slab_size",
    reads=declare.DRAWN,
    defaults={"steps": 1300},  # 1,000 are counted, after the usual 300 that are discarded
    settings={
        "transient": declare.Setting(
            None,
            rules.whole_or_null(0),
            "number of steps to discard before counting starts; null: 300, but at most a quarter of the steps",
            type=int | None,
            usual=lambda settings: min(TRANSIENT, settings["steps"] // 4),
            usual_from=("steps",),
        ),
        "exponents": declare.Setting(
            None, rules.whole_or_null(1), "number of exponents to compute, from the largest; null: all", type=int | None
        ),
    },
    needs=(
        declare.Need(
            "transient",
            lambda settings: settings.transient < settings.steps,
            lambda settings: f"less than steps={settings.steps}",
        ),
        declare.Need(
            "exponents",
            lambda settings: settings.exponents is None or settings.exponents <= declare.state_size(settings),
            lambda settings: f"at most {declare.state_size(settings)}, the size of the state",
        ),
    ),
)


@dataclass(frozen=True)
class Spec:
    """The static part of a measurement; seeds, scales and the cell's numbers are arguments of the compiled program."""

    transient: int
    count: int | None


def _measure(spec: Spec, cell: Cell, network: Network) -> dict[str, Any]:
    params, h0, xs, trajectory = network
    spectrum = lyapunov_exponents(
        cell.step,
        params,
        h0,
        xs,
        steps=trajectory.length,
        transient=spec.transient,
        count=spec.count,
        log_det=cell.log_abs_det if isinstance(cell, VanillaCell) and cell.has_one_path else None,
        trajectory=trajectory,
    )
    return {**spectrum._asdict(), "first_bad_step": trajectory.first_bad_step}


def _measurement(config: Config) -> Measurement:
    return Measurement(_measure, Spec(config.transient, config.exponents))


def slab_size(config: Config, budget: int) -> int | None:
    """Return how many networks may be measured at once in `budget` bytes; None: all of them."""
    return Networks(config).slab_size(_measurement(config), budget)


def measure(config: Config, report: Any, checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Measure the Lyapunov exponents of every network of `config` and label the result."""
    networks = Networks(config, checkpoints)
    measured = networks.every(_measurement(config), report)
    eigenvalues = networks.eigenvalues()
    label = networks.per_network
    described = {
        "lyapunov_exponent": label(
            measured["exponents"], "index", title="Lyapunov exponent", units="1/step", comment="natural logarithm"
        ),
        "standard_error": label(
            measured["standard_error"],
            "index",
            title="standard error of the exponent",
            units="1/step",
            comment="from the means over 10 consecutive blocks of steps",
        ),
        "sum_rule_error": label(
            measured["sum_rule_error"],
            title="|sum of the exponents - mean log|det J|| / n",
            units="1/step",
            comment="per step and unit; NaN where some J is singular, or unless every exponent was requested",
        ),
        "kaplan_yorke_dimension": label(measured["kaplan_yorke_dimension"], title="Kaplan-Yorke dimension"),
        "entropy_rate": label(measured["entropy_rate"], title="sum of the positive exponents", units="1/step"),
        **networks.descriptions(measured["first_bad_step"], eigenvalues),
    }
    if config.cell in names.VANILLA_CELLS:
        with np.errstate(divide="ignore"):
            described["log_eigenvalue_modulus"] = (
                ("weight_scale", "seed", "unit"),
                np.log(eigenvalues["eigenvalue_moduli"]),
                {"long_name": "log modulus of W's eigenvalues, descending", "units": "1/step"},
            )
    count = measured["exponents"].shape[1]
    index = ("index", np.arange(1, count + 1), {"long_name": "number of the exponent, from the largest", "units": "1"})
    coordinates = {"index": index, **networks.coordinates()}
    if "log_eigenvalue_modulus" in described:
        coordinates["unit"] = (
            "unit", np.arange(1, config.hidden_size + 1), {"long_name": "number of the eigenvalue", "units": "1"}
        )  # fmt: skip
    dataset = xr.Dataset(described, coords=coordinates)
    return dataset.assign_attrs(block_size=networks.block)
