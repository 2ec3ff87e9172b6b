"""Runs every ensemble of weights on two devices many times over: what hangs in one of them, hangs here."""

from gradient_horizon.ensembles import process

process.prepare_own(devices=2, compile_cache=False)

from functools import partial  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402

from gradient_horizon import names  # noqa: E402
from gradient_horizon.cells.weights import unit_weights  # noqa: E402
from gradient_horizon.ensembles import blocks  # noqa: E402
from gradient_horizon.numerics import lapack  # noqa: E402


def measure(name, seed, _):
    return lapack.singular_values(unit_weights(name, jax.random.key(seed), 32))


for name in names.WEIGHTS:
    program = blocks.Program(partial(measure, name))
    for _ in range(200):
        jax.block_until_ready(program(np.arange(16, dtype=np.uint32), None))
    print(name, flush=True)
