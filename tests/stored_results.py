"""Results of jobs as the tests of files and commands make them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gradient_horizon import names
from gradient_horizon.store import records
from gradient_horizon.store.datasets import save


def made(
    swept: dict[str, Any], *, seeds=(0, 1), scales=(0.5, 1.0), lags=3, config: dict[str, Any] | None = None
) -> xr.Dataset:
    """A result whose every number tells where it belongs."""
    network = ("weight_scale", "seed")
    base = 1000.0 * np.array(scales)[:, None] + 10.0 * np.array(seeds)
    log_norm = (base[..., None] + np.arange(lags) / 10)[None]
    kinds = np.resize(np.array(names.HORIZON_KINDS), base.shape)
    return xr.Dataset(
        {
            "log_norm": (("norm", *network, "lag"), log_norm, {"long_name": "log norm", "units": "1"}),
            "horizon": (network, base, {"long_name": "horizon", "units": "step"}),
            "horizon_kind": (network, kinds, {"long_name": "kind", "units": "1"}),
            "first_bad_step": (network, np.full(base.shape, -1, np.int32), {"long_name": "first", "units": "step"}),
            "finite": (network, np.ones(base.shape, bool), {"long_name": "finite", "units": "1"}),
            "state_size": ((), 64, {"long_name": "size", "units": "1"}),
        },
        coords={
            "norm": ("norm", ["frobenius"]),
            "weight_scale": ("weight_scale", list(scales), {"long_name": "weight scale", "units": "1"}),
            "seed": ("seed", list(seeds)),
            "lag": ("lag", np.arange(1, lags + 1)),
        },
        attrs={"swept": json.dumps(swept), "config": json.dumps({**swept, **(config or {})}), "precision": "float32"},
    )


def write(folder: Path, dataset: xr.Dataset) -> Path:
    """A finished job."""
    folder.mkdir(parents=True)
    checksum = save(dataset, folder / records.RESULT)
    swept = json.loads(dataset.attrs["swept"])
    records.write_record(folder, records.JobRecord(records.FINISHED, "0" * 64, {}, swept, checksum, job=folder.name))
    return folder


def of_version(draws: int | None, swept: dict[str, Any]) -> xr.Dataset:
    """A result whose seeds draw what this version of the draws says; None: a version that did not record itself."""
    named = {} if draws is None else {"draws": draws}
    return made(swept).assign_attrs(experiment="jacobian", package_version="0.1.0", **named)
