"""How far the gradient reaches: log norms of ∂h_T/∂h_t against lag, over seeds and weight scales."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from gradient_horizon import names
from gradient_horizon.cells.cell import Cell
from gradient_horizon.experiments.networks import NETWORK, Measurement, Network, Networks
from gradient_horizon.measures.horizon import horizon_of
from gradient_horizon.measures.jacobian_norms import MOST_CARE, Block, ScaledNorms, scaled_norms
from gradient_horizon.measures.trajectory import system_of
from gradient_horizon.names import declare, rules
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints

DECLARES = declare.Experiment(
    "jacobian",
    "how far the gradient reaches: norms of the Jacobian product against lag",
    make="measure",
    slab_size="slab_size",
    reads=declare.DRAWN,
    settings={
        "norms": declare.Setting(
            ["frobenius"],
            rules.some_of(names.NORMS),
            "norms of the Jacobian product to measure",
            type=Any,
            coordinate="norm",
        ),
        "block": declare.Setting(
            "state",
            rules.one_of(names.BLOCKS),
            "part of the state to differentiate: all of it or, for lstm, hidden (dh_T/dh_t) or cell (dc_T/dc_t) alone",
            idle=lambda settings: "" if declare.cell_of(settings).blocks else f"cell={settings.cell}",
        ),
        "anchors": declare.Setting(
            ["end"],
            rules.some_of(names.ANCHORS),
            "fixed end of the product; end: dh_T/dh_t for every t; start: dh_t/dh_0 for every t",
            type=Any,
            coordinate="anchor",
        ),
        "horizon_threshold": declare.Setting(
            3.0, rules.POSITIVE, "number of decades by which the gradient has changed at its horizon"
        ),
        "method": declare.Setting(
            "auto", rules.one_of(names.METHODS), "method by which the product is formed; jacrev is the reference"
        ),
        "recheck": declare.Setting(
            False, rules.SWITCH, "measure one block again with method=jacrev and record the difference"
        ),
    },
    needs=(
        declare.Need(
            "block",
            lambda settings: settings.block in ("state", *declare.cell_of(settings).blocks),
            lambda settings: f"state where cell={settings.cell}, whose state is one vector",
        ),
        *(
            declare.Need(
                "method",
                lambda settings, anchor=anchor, fitting=fitting: (
                    anchor not in settings.anchors or settings.method in ("auto", "jacrev", fitting)
                ),
                lambda settings, anchor=anchor, fitting=fitting: (
                    f"auto, jacrev or {fitting} where anchors holds {anchor}"
                ),
            )
            for anchor, fitting in names.METHOD_OF_ANCHOR.items()
        ),
    ),
)


@dataclass(frozen=True)
class Spec:
    """The static part of a measurement; seeds, scales and the cell's numbers are arguments of the compiled programs."""

    norms: tuple[str, ...]
    block: str
    anchors: tuple[str, ...]
    method: str
    care: int = 0  # see `scaled_norms`


def _measure(spec: Spec, cell: Cell, network: Network) -> dict[str, Any]:
    """Return the norms of one network at each anchor, as mantissa and exponent, and its first non-finite step."""
    return {"scaled": _products(spec, cell, network), "first_bad_step": network.trajectory.first_bad_step}


def _products(spec: Spec, cell: Cell, network: Network) -> dict[str, ScaledNorms]:
    params, h0, xs, trajectory = network
    system = system_of(cell.step, params, h0, xs, trajectory=trajectory)
    return {
        anchor: scaled_norms(
            system,
            anchor=anchor,
            norms=spec.norms,
            method=spec.method,
            block=_attribute(cell.name, spec.block),
            care=spec.care,
        )
        for anchor in spec.anchors
    }


def _attribute(cell: str, block: str) -> Block | None:
    """Return the function that takes the `block` from the state of a cell; None for the whole state."""
    name = declare.declared(declare.Cell)[cell].blocks.get(block)
    return None if name is None else lambda state: getattr(state, name)


LogNorms = dict[str, dict[str, np.ndarray]]  # by anchor, then norm; shape (networks, lags)


def _log_norms(products: dict[str, ScaledNorms]) -> LogNorms:
    """Return natural logs in float64 from mantissa and exponent, whatever the precision of the run."""
    with np.errstate(divide="ignore"):
        return {
            anchor: {
                name: np.log(np.asarray(mantissa, np.float64)) + scaled.exponent * np.log(2.0)
                for name, mantissa in scaled.mantissa.items()
            }
            for anchor, scaled in products.items()
        }


def _largest_difference(log_norms: LogNorms, reference: LogNorms, places: np.ndarray) -> float:
    """Return the largest difference over all anchors, norms and lags of the networks at `places`.

    Entries that are both -inf or both NaN do not differ.
    """
    largest = 0.0
    for anchor, by_name in reference.items():
        for name, b in by_name.items():
            a = log_norms[anchor][name][places]
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            with np.errstate(invalid="ignore"):
                apart = np.where(same, 0, np.abs(a - b))
            # a number on one side and NaN on the other are infinitely far apart
            largest = max(largest, float(np.where(np.isnan(apart), np.inf, apart).max()))
    return largest


def _spec(config: Config) -> Spec:
    return Spec(
        # the horizon is defined by the Frobenius norm, which costs little compared with the product
        norms=tuple(dict.fromkeys(("frobenius", *config.norms))),
        block=config.block,
        anchors=tuple(config.anchors),
        method=config.method,
    )


def _measurement(config: Config) -> Measurement:
    spec = _spec(config)
    products_alone = spec.norms == ("frobenius",) and spec.method != "jacrev"
    return Measurement(_measure, spec, side_by_side=products_alone)


def slab_size(config: Config, budget: int) -> int | None:
    """Return how many networks may be measured at once in `budget` bytes; None: all of them."""
    return Networks(config).slab_size(_measurement(config), budget)


def measure(config: Config, report: Any, checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Measure every network of `config` and label the result."""
    networks, spec = Networks(config, checkpoints), _spec(config)
    log_norms, first_bad_step, with_exponents = every_log_norm(networks, report)
    rechecked: dict[str, Any] = {}
    if config.recheck:
        places = np.unique(np.linspace(0, networks.total - 1, min(networks.block, networks.total)).astype(int))
        reference = _log_norms(networks.over(Measurement(_products, replace(spec, method="jacrev")), places))
        difference = _largest_difference(log_norms, reference, places)
        rechecked = {"recheck_networks": len(places), "recheck_difference": difference}

    dataset = _labelled(networks, log_norms, first_bad_step)
    return dataset.assign_attrs(block_size=networks.block, products_with_exponents=with_exponents, **rechecked)


def every_log_norm(networks: Networks, report: Any) -> tuple[LogNorms, np.ndarray, int]:
    """Return the log norms of every network, the first step of each that is not finite, or -1, and a count.

    The count is that of the networks whose products needed an exponent for each entry.
    """
    spec = _spec(networks.config)
    measured = networks.every(_measurement(networks.config), report)
    log_norms = _log_norms(measured["scaled"])
    suspect = _suspect(measured["scaled"])
    with_exponents = np.zeros(networks.total, bool)
    for care in range(1, MOST_CARE + 1):
        places = np.flatnonzero(suspect)
        if not len(places) or spec.method == "jacrev":
            break
        again = networks.over(Measurement(_products, replace(spec, care=care)), places)
        for anchor, by_name in _log_norms(again).items():
            for name, values in by_name.items():
                log_norms[anchor][name][places] = values
        suspect[places] = _suspect(again)
        with_exponents[places] = care == MOST_CARE
    return log_norms, measured["first_bad_step"], int(with_exponents.sum())


def measured_size(networks: Networks) -> int:
    """Return n, the size of the state, or of the block of it that is differentiated."""
    config = networks.config
    return networks.state_size if config.block == "state" else config.hidden_size


def _suspect(products: dict[str, ScaledNorms]) -> np.ndarray:
    """True for networks with a product, at any anchor, that must be measured again with more care."""
    return np.any([scaled.suspect for scaled in products.values()], axis=0)


def _labelled(
    networks: Networks, log_norms: dict[str, dict[str, np.ndarray]], first_bad_step: np.ndarray
) -> xr.Dataset:
    config, shape = networks.config, networks.shape
    size = measured_size(networks)
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
        horizon, kind = horizon_of(log_norms["end"]["frobenius"], size, config.horizon_threshold)
        described["horizon"] = networks.per_network(horizon, title="gradient horizon", units="step")
        described["horizon_kind"] = networks.per_network(
            np.array(names.HORIZON_KINDS)[kind], title="how the gradient ends at its horizon"
        )
    described.update(networks.descriptions(first_bad_step, networks.eigenvalues()))
    described["state_size"] = ((), size, {"long_name": "size n of the state, or of its block", "units": "1"})
    norm = ("norm", list(config.norms), {"long_name": "matrix norm", "units": "1"})
    return xr.Dataset(described, coords={"norm": norm, **networks.coordinates(lag=True)})
