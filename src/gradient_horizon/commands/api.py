"""Run a sweep from Python or a notebook."""

import subprocess
import sys
from collections.abc import Sequence

import xarray as xr


def run(overrides: Sequence[str]) -> xr.Dataset:
    """Run `gradient-horizon run OVERRIDES` in a separate process, show its progress, and load the result.

    A separate process is needed because thread and device settings must be in place before JAX starts. Several values
    (`cell=tanh,relu`) make a sweep, as with `-m`; finished jobs are not computed again. Raises `ValueError` for a wrong
    setting and `RuntimeError` if a job failed.
    """
    from gradient_horizon.commands import sweep
    from gradient_horizon.store import datasets

    folder = sweep.plan(overrides, multirun=True).folder  # raises for a wrong setting
    finished = subprocess.run([sys.executable, "-m", "gradient_horizon", "run", "-m", *overrides], check=False)
    if finished.returncode:
        raise RuntimeError(f"gradient-horizon run ended with status {finished.returncode}; see its output above")
    return datasets.load(folder)
