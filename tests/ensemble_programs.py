"""Runs every ensemble of weights on two devices many times over: what hangs in one of them, hangs here."""

from gradient_horizon import process

process.prepare_own(devices=2, compile_cache=False)

from functools import partial  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402

from gradient_horizon import ensemble, linalg, names  # noqa: E402
from gradient_horizon.weights import unit_weights  # noqa: E402


def measure(name, seed, _):
    return linalg.singular_values(unit_weights(name, jax.random.key(seed), 32))


for name in names.WEIGHTS:
    program = ensemble.Program(partial(measure, name))
    for _ in range(200):
        jax.block_until_ready(program(np.arange(16, dtype=np.uint32), None))
    print(name, flush=True)
