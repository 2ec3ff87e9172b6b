"""The figures of the paper, one per file, each named after the preset under `sweeps/` that makes its data.

Each module holds `TITLE`, `CAPTION`, `QUICK` (overrides for a small version of its preset), `draw` (returns a Figure of
a joined sweep) and `numbers` (returns what is plotted of the same sweep, one row per point).
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
