"""How far the gradient reaches: log norms of ∂h_T/∂h_t against lag, over seeds and weight scales."""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr

from gradient_horizon import names
from gradient_horizon.arrays import Step
from gradient_horizon.config import Config
from gradient_horizon.experiments.networks import NETWORK, CellSpec, Drawn, Networks, along
from gradient_horizon.horizon import gradient_horizon
from gradient_horizon.jacobian import ScaledNorms, in_float64, log_difference, scaled_norms
from gradient_horizon.rollout import Trajectory


@dataclass(frozen=True)
class Spec:
    """What is measured; seeds and weight scales are arguments of the compiled programs."""

    cell: CellSpec
    norms: tuple[str, ...]
    anchors: tuple[str, ...]
    method: str


def _measure(spec: Spec, steps: int, network: Drawn) -> dict[str, Any]:
    """One network: norms at each anchor as mantissa and exponent, and whether its states stayed finite."""
    step, trajectory = along(spec.cell, steps, network)
    return {"scaled": _products(spec, step, network, trajectory), "first_bad_step": trajectory.first_bad_step}


def _measure_in_float64(spec: Spec, steps: int, network: Drawn) -> dict[str, ScaledNorms]:
    """The same along the same states, the products in float64: for networks whose product collapsed in one step."""
    step, trajectory = along(spec.cell, steps, network)
    network, trajectory = in_float64((network, trajectory))
    return _products(spec, step, network, trajectory)


def _products(spec: Spec, step: Step, network: Drawn, trajectory: Trajectory) -> dict[str, ScaledNorms]:
    params, h0, xs = network
    return {
        anchor: scaled_norms(step, params, h0, trajectory, xs, anchor=anchor, norms=spec.norms, method=spec.method)
        for anchor in spec.anchors
    }


def _recheck(spec: Spec, steps: int, network: Drawn) -> Any:
    """The largest difference between the spec's method and `jacrev`, along the same states.

    (Two separately compiled rollouts of a chaotic network would part ways by rounding alone.)
    """
    step, trajectory = along(spec.cell, steps, network)
    ours = _products(spec, step, network, trajectory)
    reference = _products(replace(spec, method="jacrev"), step, network, trajectory)
    return jnp.stack(
        [log_difference(ours[anchor], reference[anchor], name) for anchor in spec.anchors for name in spec.norms]
    ).max()


def _log_norms(scaled: Any, name: str) -> np.ndarray:
    """Natural logs in float64 from mantissa and exponent, whatever the precision of the run."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(scaled.mantissa[name], np.float64)) + scaled.exponent * np.log(2.0)


def measure(config: Config, report: Any) -> xr.Dataset:
    """Measure every network of `config` and label the result."""
    networks = Networks(config)
    spec = Spec(
        cell=networks.cell,
        # the horizon is defined by the Frobenius norm, which costs little beside the product
        norms=tuple(dict.fromkeys(("frobenius", *config.norms))),
        anchors=tuple(config.anchors),
        method=config.method,
    )
    measured = networks.over(_measure, spec, report=report)
    log_norms = {
        anchor: {name: _log_norms(scaled, name) for name in spec.norms} for anchor, scaled in measured["scaled"].items()
    }
    suspects = np.flatnonzero(np.any([scaled.suspect for scaled in measured["scaled"].values()], axis=0))
    if config.precision == "float64":
        suspects = suspects[:0]
    if len(suspects):
        for anchor, scaled in networks.over(_measure_in_float64, spec, suspects).items():
            for name in spec.norms:
                log_norms[anchor][name][suspects] = _log_norms(scaled, name)

    dataset = _labelled(networks, log_norms, measured["first_bad_step"])
    in_double = networks.total if config.precision == "float64" else len(suspects)
    dataset.attrs.update(block_size=networks.block, products_in_float64=in_double)
    if config.recheck:
        places = np.unique(np.linspace(0, networks.total - 1, min(networks.block, networks.total)).astype(int))
        difference = float(networks.over(_recheck, spec, places).max())
        dataset.attrs.update(recheck_networks=len(places), recheck_difference=difference)
    return dataset


def _labelled(
    networks: Networks, log_norms: dict[str, dict[str, np.ndarray]], first_bad_step: np.ndarray
) -> xr.Dataset:
    config, shape = networks.config, networks.shape
    described: dict[str, Any] = {}
    for anchor, variable, title in (
        ("end", "log_norm", "log norm of ∂h_T/∂h_(T-lag)"),
        ("start", "log_norm_from_start", "log norm of ∂h_lag/∂h_0"),
    ):
        if anchor in log_norms:
            values = np.stack([log_norms[anchor][name].reshape(*shape, -1) for name in config.norms])
            described[variable] = (
                ("norm", *NETWORK, "lag"),
                values,
                {"long_name": title, "units": "1", "comment": "natural logarithm"},
            )
    if "end" in log_norms:
        horizon, kind = gradient_horizon(log_norms["end"]["frobenius"], networks.state_size, config.horizon_threshold)
        described["horizon"] = networks.per_network(horizon, title="gradient horizon", units="step")
        described["horizon_kind"] = networks.per_network(
            np.array(names.HORIZON_KINDS)[kind], title="what ends the gradient at its horizon"
        )
    described.update(networks.descriptions(first_bad_step, networks.eigenvalues()))
    norm = ("norm", list(config.norms), {"long_name": "matrix norm", "units": "1"})
    return xr.Dataset(described, coords={"norm": norm, **networks.coordinates(lag=True)})
