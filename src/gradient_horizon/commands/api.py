"""A sweep from Python or a notebook."""

import subprocess
import sys
from collections.abc import Sequence

import xarray as xr


def run(overrides: Sequence[str]) -> xr.Dataset:
    """Run `gradient-horizon run OVERRIDES` in a process of its own, show its progress, and load the result.

    A process of its own, because thread and device settings must stand before JAX starts. Several values
    (`cell=tanh,relu`) make a sweep, as `-m` does; what is finished is not computed again.
    Raises `ValueError` for a wrong setting and `RuntimeError` where a job failed.
    """
    from gradient_horizon.commands import sweep
    from gradient_horizon.store import datasets

    folder = sweep.plan(overrides, multirun=True).folder  # a wrong setting is told here
    finished = subprocess.run([sys.executable, "-m", "gradient_horizon", "run", "-m", *overrides], check=False)
    if finished.returncode:
        raise RuntimeError(f"gradient-horizon run ended with status {finished.returncode}; see its output above")
    return datasets.load(folder)
