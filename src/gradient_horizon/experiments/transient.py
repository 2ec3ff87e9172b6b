"""Transient growth over seeds and weight scales: overshoot, departure from normality, and parallelisability in time."""

from dataclasses import dataclass
from typing import Any

import xarray as xr

from gradient_horizon.cells.cell import Cell
from gradient_horizon.experiments.networks import Measurement, Network, Networks
from gradient_horizon.measures.normality import henrici_departure
from gradient_horizon.measures.overshoot import transient_growth
from gradient_horizon.names import VERDICTS, declare, rules
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints

ALIGNING = 300  # the usual number of steps before λ₁ is measured, or a quarter of all, if that is less
DECLARES = declare.Experiment(
    "transient",
    "overshoot of the Jacobian products, departure from normality, and whether time can be parallelised",
    make="measure",
    slab_size="slab_size",
    reads=declare.DRAWN,
    defaults={"steps": 400},
    settings={
        "aligning": declare.Setting(
            None,
            rules.whole_or_null(0),
            "number of steps before the exponent is measured; null: 300, but at most a quarter of the steps",
            type=int | None,
            usual=lambda settings: min(ALIGNING, settings["steps"] // 4),
            usual_from=("steps",),
        ),
        "jacobians": declare.Setting(
            8, rules.whole(0), "number of step Jacobians whose departure from normality is measured"
        ),
    },
    needs=(
        declare.Need(
            "aligning",
            lambda settings: settings.aligning < settings.steps,
            lambda settings: f"less than steps={settings.steps}",
        ),
    ),
)
_KEPT = (
    *("log_overshoot", "log_overshoot_bound", "overshoot_lag", "log_peak", "peak_lag", "exponent", "standard_error"),
    *("parallelisable", "henrici_mean", "henrici_max"),
)


@dataclass(frozen=True)
class Spec:
    """The static part of a measurement."""

    aligning: int
    jacobians: int


def _measure(spec: Spec, cell: Cell, network: Network) -> dict[str, Any]:
    params, h0, xs, trajectory = network
    growth = transient_growth(
        cell.step, params, h0, xs, steps=trajectory.length, transient=spec.aligning, samples=spec.jacobians,
        trajectory=trajectory,
    )  # fmt: skip
    kept = {name: getattr(growth, name) for name in _KEPT}
    return {**kept, "henrici_of_w": henrici_departure(params.recurrent).relative, "bad": trajectory.first_bad_step}


def _measurement(config: Config) -> Measurement:
    return Measurement(_measure, Spec(config.aligning, config.jacobians))


def slab_size(config: Config, budget: int) -> int | None:
    """Return how many networks may be measured at once in `budget` bytes; None: all of them."""
    return Networks(config).slab_size(_measurement(config), budget)


def measure(config: Config, report: Any, checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Measure the transient growth of every network of `config` and label the result."""
    networks = Networks(config, checkpoints)
    measured = networks.every(_measurement(config), report)
    label = networks.per_network
    natural = {"comment": "natural logarithm"}
    described = {
        "log_overshoot": label(
            measured["log_overshoot"],
            title="largest log(‖∂h_k/∂h_0‖₂ exp(-λ₁ k)) over lags k",
            comment="natural logarithm; from a search, a lower bound; inf where λ₁ is -inf",
        ),
        "log_overshoot_bound": label(
            measured["log_overshoot_bound"], title="upper bound on log_overshoot, from Frobenius norms", **natural
        ),
        "overshoot_lag": label(measured["overshoot_lag"], title="lag of the overshoot", units="step"),
        "log_peak": label(measured["log_peak"], title="largest log ‖∂h_k/∂h_0‖₂ over lags k", **natural),
        "peak_lag": label(measured["peak_lag"], title="lag of the peak", units="step"),
        "largest_exponent": label(measured["exponent"], title="largest Lyapunov exponent λ₁", units="1/step"),
        "largest_exponent_error": label(
            measured["standard_error"],
            title="standard error of λ₁",
            units="1/step",
            comment="from the means over 10 consecutive blocks of steps",
        ),
        "parallelisable": label(
            measured["parallelisable"],
            title="whether the recurrence can be parallelised over time",
            comment="; ".join(f"{code}: {verdict}" for code, verdict in enumerate(VERDICTS))
            + "; λ₁ ± 3 standard errors",
        ),
        "henrici_of_w": label(
            measured["henrici_of_w"], title="departure from normality of W, relative to ‖W‖_F (gates: the candidate's)"
        ),
        "henrici_mean": label(measured["henrici_mean"], title="departure from normality of J_t, relative, mean over t"),
        "henrici_max": label(measured["henrici_max"], title="departure from normality of J_t, relative, maximum"),
        **networks.descriptions(measured["bad"], networks.eigenvalues()),
    }
    return xr.Dataset(described, coords=networks.coordinates()).assign_attrs(block_size=networks.block)
