"""Closing lines of a run: what the numbers of its experiment mean, and which figure to look at first."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gradient_horizon.names import declare

_MEANING = {
    "jacobian": (
        "The horizon is the first lag at which the norm of ∂h_T/∂h_(T-lag) has lost (vanished) or gained (exploded)"
        " {horizon_threshold} decades; beyond: it had done neither after T = {steps} steps.",
        "norm_against_lag",
    ),
    "lyapunov": (
        "λ₁, in nats per step, is the rate at which a small difference between two states grows: below 0 gradients"
        " vanish, above 0 they explode and the network is chaotic.",
        "lyapunov_spectrum",
    ),
    "singular_values": (
        "Each curve shows, for one lag, the logs of all singular values of ∂h_T/∂h_(T-lag) over the lag: the growth per"
        " step of the gradient in every direction.",
        "singular_values",
    ),
    "covariant": (
        "The smallest angle is that between directions in which differences grow and all others: near 0, the two"
        " almost meet.",
        "smallest_angle",
    ),
    "pairs": ("Each point is the log norm of ∂h_t/∂h_s for one pair of times s < t.", "pairs"),
    "nodes": (
        "The growth of the log gradient norm at each step is split into the contributions of the activation and of W.",
        "nodes",
    ),
    "input_gradients": (
        "Each curve is the log norm of ∂h_T/∂x_(T-lag): how strongly the last state still depends on an input that lies"
        " lag steps back.",
        "input_gradients",
    ),
    "transient": (
        "The overshoot is how far ‖∂h_k/∂h_0‖₂ rises above exp(λ₁ k), its rate in the long run; a recurrence with"
        " λ₁ < 0 can be run in parallel over time.",
        "overshoot",
    ),
    "fixed_points": (
        "A network with several stable fixed points can remember: which of them it settles in depends on where it"
        " started. Points to which no start leads are not found.",
        "multistability",
    ),
    "notes": (
        "The norms are those of the demonstration in the study notes, from the same random numbers.",
        "norm_growth_and_decay",
    ),
    "training": (
        "A network has solved its task at the first record whose error lies below {solved_below}; its gradient through"
        " time is recorded before, during and after learning.",
        "solved",
    ),
}


def meaning_lines(dataset: xr.Dataset, folder: Path) -> list[str]:
    """Return three lines: what is measured, which figure to look at first, and how to load all of the numbers."""
    attributes = dataset.attrs
    experiment = attributes["experiment"]
    sentence, picture = _MEANING.get(experiment) or (_help(experiment), experiment)
    configs = [job["config"] for job in json.loads(attributes["jobs"])] if "jobs" in attributes else []
    configs = configs or [json.loads(attributes["config"])]
    words = {key: _words(dataset, configs, key) for key in ("horizon_threshold", "steps", "solved_below")}
    return [
        sentence.format(**words),
        f"Look at {folder / picture}.pdf first.",
        f"In Python, gradient_horizon.load({str(folder)!r}) holds every number, as an xarray Dataset.",
    ]


def _help(experiment: str) -> str:
    """Return the help of an experiment of an installed package as a sentence."""
    text = declare.declared(declare.Experiment)[experiment].help
    return f"{text[:1].upper()}{text[1:]}.".replace("{", "{{").replace("}", "}}")


def _words(dataset: xr.Dataset, configs: Sequence[Mapping[str, Any]], key: str) -> str:
    """Return the value or values of a setting as text."""
    values = [config.get(key) for config in configs]
    if None in values and key in dataset.variables:  # decided by each job's task
        values = np.unique(dataset[key]).tolist()
    return " or ".join(dict.fromkeys("an unknown one" if value is None else f"{value:g}" for value in values))
