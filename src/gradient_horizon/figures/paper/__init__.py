"""The figures of the paper, one per file, each named after the preset under `sweeps/` that makes its data.

Each module holds `TITLE`, `CAPTION`, `QUICK` (overrides for a small version of its preset), `draw` (draws a joined
sweep as a Figure) and `numbers` (returns the plotted data of the same sweep as a table, one row per point).
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
    """Return the module of the figure `name`; this loads matplotlib."""
    return import_module(f"gradient_horizon.figures.paper.{name}")
