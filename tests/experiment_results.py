"""Results of measurements as their experiments label them, of numbers that are known."""

import dataclasses
import json

import numpy as np
import xarray as xr

from gradient_horizon import names
from gradient_horizon.measures.horizon import horizon_of
from gradient_horizon.settings.validation import checked

N = 8
NETWORK = ("weight_scale", "seed")


def labelled(experiment, variables, coordinates, swept, weight_scales, seeds, **settings):
    config = checked(
        {
            "experiment": experiment,
            "weight_scales": weight_scales,
            "seeds": seeds,
            "hidden_size": N,
            **settings,
            **swept,
        }
    )
    shape = (len(weight_scales), seeds)
    return xr.Dataset(
        {"finite": (NETWORK, np.ones(shape, bool)), "state_size": ((), config.hidden_size), **variables},
        coords={"weight_scale": weight_scales, "seed": np.arange(seeds), **coordinates},
        attrs={
            "experiment": experiment,
            "swept": json.dumps(swept),
            "config": json.dumps(dataclasses.asdict(config)),
        },
    )


def offsets(seeds):
    """One whole number per seed, 0 for the median seed; not in order, so that a median is no place in the middle."""
    return np.roll(np.arange(seeds) - seeds // 2, 1)


def lyapunov_job(swept=None, weight_scales=(0.5, 1.0, 2.0), seeds=5, change=None, n=N, **settings):
    """Exponents that fall with their index and rise with g, and eigenvalues g times the same moduli below 1.

    Of the median seed, D_KY is 2.5 and the entropy rate 0.25 (see `offsets`).
    """
    rng = np.random.default_rng(1)
    g = np.maximum(weight_scales, 1e-3)[:, None, None]
    exponents = np.log(g) - np.linspace(0, 2, n) + 0.1 * rng.standard_normal((1, seeds, 1))
    moduli = np.log(g) + np.log(np.linspace(0.95, 0.1, n)) + 0.01 * offsets(seeds)[:, None]
    if change is not None:
        change(exponents)
    rows = {"index": np.arange(1, n + 1), "unit": np.arange(1, n + 1)}
    variables = {
        "lyapunov_exponent": ((*NETWORK, "index"), exponents),
        "log_eigenvalue_modulus": ((*NETWORK, "unit"), moduli),
        "kaplan_yorke_dimension": (NETWORK, np.broadcast_to(2.5 + 0.2 * offsets(seeds), exponents.shape[:2])),
        "entropy_rate": (NETWORK, np.broadcast_to(0.25 + 0.02 * offsets(seeds), exponents.shape[:2])),
        "sum_rule_error": (NETWORK, np.broadcast_to(3e-7 * 2.0 ** offsets(seeds), exponents.shape[:2])),
    }
    found = labelled(
        "lyapunov", variables, rows, swept or {}, list(weight_scales), seeds, **{"hidden_size": n, **settings}
    )
    finite = ~np.isnan(exponents).any(axis=-1)
    return found.assign(finite=(NETWORK, finite))


LAGS = (1, 3, 10)


def singular_values_job(swept=None, weight_scales=(0.5, 1.5), seeds=3, lags=LAGS, change=None, values=None, **settings):
    """log σ_i / τ: log g - i/N, exactly for the median seed; or log σ_i of these `values`."""
    growth = np.log(weight_scales)[:, None, None] - np.arange(1, N + 1) / N
    growth = growth + 0.1 * offsets(seeds)[:, None]
    logs = growth[:, :, None] * np.asarray(lags)[:, None] if values is None else values
    if change is not None:
        change(logs)
    variables = {"log_singular_value": ((*NETWORK, "lag", "index"), logs)}
    n = logs.shape[-1]
    rows = {"lag": list(lags), "index": np.arange(1, n + 1)}
    settings = {"hidden_size": n, **settings}
    return labelled("singular_values", variables, rows, swept or {}, list(weight_scales), seeds, **settings)


def jacobian_job(swept, growth, weight_scales, steps, **settings):
    """log(‖M‖_F/√n) = `growth` (weight scale, seed) times the lag, and the horizons of that."""
    growth = np.asarray(growth, float)
    log_norm = growth[..., None] * np.arange(1, steps + 1) + 0.5 * np.log(swept["hidden_size"])
    horizon, kind = horizon_of(log_norm, swept["hidden_size"])
    variables = {
        "log_norm": (("norm", *NETWORK, "lag"), log_norm[None]),
        "horizon": (NETWORK, horizon),
        "horizon_kind": (NETWORK, np.array(names.HORIZON_KINDS)[kind]),
    }
    rows = {"norm": ["frobenius"], "lag": np.arange(1, steps + 1)}
    return labelled("jacobian", variables, rows, swept, list(weight_scales), growth.shape[1], steps=steps, **settings)
