"""The figures of the paper: one file each, named as the preset under `sweeps/` that makes its data.

Each module holds `TITLE`, `CAPTION`, `QUICK` (overrides that make a small version of its preset), `draw` (a joined
sweep in, a Figure out) and `numbers` (the same in, what is plotted out, a row a point).
"""

from importlib import import_module
from typing import Any

NAMES = (
    "notes",
    "edge",
    "phase",
    "reach",
    "isometry",
    "spectra",
    "triangle",
    "gates",
    "main_training",
    "thresholds",
    "pascanu_temporal_order",
    "story",
    "prediction",
)


def paper_figure(name: str) -> Any:
    """The module of the figure `name`; it loads matplotlib."""
    return import_module(f"gradient_horizon.figures.paper.{name}")
