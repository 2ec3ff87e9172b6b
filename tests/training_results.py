"""Results of training as the experiment labels them, of networks whose fate is given instead of trained."""

import dataclasses
import json
from typing import Any

import numpy as np
import xarray as xr

from gradient_horizon.settings.validation import checked

NETWORK = ("learning_rate", "clip_threshold", "weight_scale", "seed")
N = 16
SPREAD = 0.01  # of the initial growth per step, from seed to seed


def trained(
    swept=None,
    *,
    solved: Any = -1,
    diverged: Any = -1,
    weight_scales=(0.5, 1.0),
    seeds=4,
    learning_rates=(0.1,),
    clip_thresholds=(1.0,),
    steps: int | None = 12,
    updates=40,
    record_every: int | None = 10,
    chance=(1.5, 0.75),
    solved_below=0.01,
    **settings,
):
    """One job. `solved` and `diverged`: the updates at which each network does so, or -1, broadcast over the networks.

    Before the first update log(‖∂h_T/∂h_(T-lag)‖_F / √n) is lag (log g + `SPREAD` seed). The error is at chance until
    the task is solved, and 0 from then on; all else is drawn at random, and NaN from the divergence on.
    """
    swept = swept or {}
    given = {"experiment": "training", "hidden_size": N, "weight_scales": list(weight_scales), "seeds": seeds}
    given |= {"learning_rates": list(learning_rates), "clip_thresholds": list(clip_thresholds), "steps": steps}
    given |= {"updates": updates, "record_every": record_every, **settings, **swept}
    config = checked(given)
    steps, record_every = config.steps, int(config.record_every or -(-updates // 20))
    shape = (len(learning_rates), len(clip_thresholds), len(weight_scales), seeds)
    solved, diverged = (np.broadcast_to(values, shape) for values in (solved, diverged))
    update = np.array([*range(0, updates, record_every), updates])
    rng = np.random.default_rng([*json.dumps(swept).encode()])  # no two jobs of a sweep are alike

    def history(values, *, first=True):
        lost = (diverged[..., None] >= 0) & (update >= diverged[..., None])
        values = np.where(lost.reshape(*lost.shape, *[1] * (values.ndim - lost.ndim)), np.nan, values)
        if not first:
            values[..., 0] = np.nan
        return values

    def drawn(*more):
        return rng.lognormal(size=(*shape, len(update), *more))

    error = np.where((solved[..., None] >= 0) & (update >= solved[..., None]), 0.0, chance[1])
    norm = history(drawn(), first=False)
    growth = np.log(weight_scales)[:, None] + SPREAD * np.arange(seeds)
    lag = np.arange(1, config.steps + 1)
    log_norm = np.broadcast_to(growth[..., None, None] * lag, (*shape, len(update), len(lag))) + 0.5 * np.log(N)
    series = {
        "loss": history(drawn()),
        "error": history(error),
        "gradient_norm": norm,
        "clipped_gradient_norm": np.minimum(norm, 1.0),
        "clip_fraction": history(rng.uniform(size=(*shape, len(update))), first=False),
        "spectral_radius": history(drawn()),
        "largest_singular_value": history(1 + drawn()),
        "saturation": history(rng.uniform(size=(*shape, len(update)))),
        "lyapunov_exponent": history(-drawn()),
    }
    logs = history(np.log(drawn(config.steps)))
    return xr.Dataset(
        {name: ((*NETWORK, "update"), values) for name, values in series.items()}
        | {
            "state_gradient_norm": ((*NETWORK, "update", "time"), np.exp(logs)),
            "log_state_gradient_norm": ((*NETWORK, "update", "time"), logs),
            "log_norm": ((*NETWORK, "update", "lag"), log_norm),
            "solved_at": (NETWORK, np.array(solved)),
            "diverged_at": (NETWORK, np.array(diverged)),
            "state_size": ((), N),
            "chance_loss": ((), chance[0]),
            "chance_error": ((), chance[1]),
            "solved_below": ((), config.solved_below or solved_below),
        },
        coords={
            "learning_rate": list(learning_rates),
            "clip_threshold": list(clip_thresholds),
            "weight_scale": list(weight_scales),
            "seed": np.arange(seeds),
            "update": update,
            "time": lag,
            "lag": lag,
        },
        attrs={
            "experiment": "training",
            "swept": json.dumps(swept),
            "config": json.dumps(dataclasses.asdict(config)),
        },
    )
