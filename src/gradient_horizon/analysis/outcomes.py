"""Outcomes of trained networks, and predictions of them from gradients before the first update."""

from collections.abc import Collection

import numpy as np
import xarray as xr
from jaxtyping import Float

from gradient_horizon.analysis.intervals import Interval, area_under_curve, share
from gradient_horizon.measures.horizon import horizon_of

AXES = ("learning_rate", "clip_threshold", "weight_scale", "seed")  # of the networks of one job


def has_solved(data: xr.Dataset) -> xr.DataArray:
    """True for networks that have solved their task."""
    return data["solved_at"] >= 0


def has_diverged(data: xr.Dataset) -> xr.DataArray:
    """True for networks with a parameter that is not finite."""
    return data["diverged_at"] >= 0


def exists(data: xr.Dataset) -> xr.DataArray:
    """True for networks that exist: some jobs of a joined sweep may be missing."""
    return data["solved_at"].notnull()


def share_solved(data: xr.Dataset) -> Interval:
    """Return the share of networks that have solved their task, with its interval."""
    return share(int(has_solved(data).sum()), int(exists(data).sum()))


def held(values: Float[np.ndarray, "*networks U"]) -> Float[np.ndarray, "*networks U"]:
    """Replace each NaN by the last number before it along the last axis, if there is one."""
    places = np.where(np.isnan(values), 0, np.arange(values.shape[-1]))
    return np.take_along_axis(values, np.maximum.accumulate(places, axis=-1), axis=-1)


def final_error(data: xr.Dataset) -> xr.DataArray:
    """Return the last recorded error of each network; NaN if it has diverged."""
    error = data["error"].transpose(..., "update")
    return error.isel(update=-1, drop=True).copy(data=held(error.values)[..., -1]).where(~has_diverged(data))


def best_over(data: xr.Dataset, axes: Collection[str]) -> tuple[xr.Dataset, dict[str, float]]:
    """Select, from one job's `data`, the values of `axes` with which most networks solved their task.

    Ties are broken by the lowest mean final error, a diverged network counting as 1. Also returns the selected values,
    for those axes that make any difference.
    """
    others = [dim for dim in AXES if dim in data.dims and dim not in axes]
    solved = has_solved(data).sum(others)
    error = final_error(data).fillna(1.0).mean(others)
    best = error.where(solved == solved.max(), np.inf).argmin([axis for axis in axes if axis in data.dims])
    chosen = data.isel(best)
    matters = [axis for axis in best if (error != error.isel({axis: 0})).any()]
    return chosen, {str(axis): chosen[axis].item() for axis in matters}


def initial_log_norms(data: xr.Dataset) -> Float[np.ndarray, "*networks T"]:
    """Return log(‖∂h_T/∂h_(T-lag)‖_F / √n) of one job's networks before the first update.

    Natural logs, lags along the last axis; only the lags that the job recorded.
    """
    before = data["log_norm"].isel(update=0).transpose(..., "lag")
    values = before.values[..., before.notnull().any([dim for dim in before.dims if dim != "lag"]).values]
    return values - 0.5 * np.log(float(data["state_size"]))


def initial_growth(data: xr.Dataset) -> Float[np.ndarray, "*networks"]:
    """Return the natural log of ‖∂h_T/∂h_0‖_F / √n before the first update, over T: the growth per step."""
    norms = initial_log_norms(data)
    return norms[..., -1] / norms.shape[-1]


def initial_horizon(data: xr.Dataset) -> Float[np.ndarray, "*networks"]:
    """Return the gradient horizon of each of one job's networks before the first update; T + 1 if it lies beyond T."""
    size = float(data["state_size"])
    return horizon_of(initial_log_norms(data) + 0.5 * np.log(size), int(size))[0]


def horizon_auc(data: xr.Dataset) -> Interval | None:
    """Return how well the initial gradient horizon predicts which networks of a job solve their task.

    The AUC of `area_under_curve`. Networks with the same seed, which have one W⁰ at all weight scales, form a cluster.
    Those that overflow have no known horizon and are left out.
    """
    solved = has_solved(data)
    seeds = data["seed"].broadcast_like(solved).transpose(*solved.dims).values.ravel()
    horizon, solved = np.ravel(initial_horizon(data)), np.ravel(solved.values)
    known = ~np.isnan(horizon)
    return area_under_curve(horizon[known], solved[known], seeds[known])
