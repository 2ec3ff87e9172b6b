"""Makers of this project: tanh networks without inputs, in the blocks and on the devices that a sweep uses.

A case names `n`, `networks`, `steps` and `scale`. Neither compiling nor drawing the networks is timed, except that
`sweep` includes drawing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from contestants import Arrays, Case, Ready
from jax import lax

from gradient_horizon.cells import make_cell
from gradient_horizon.cells.vanilla import plain_cell
from gradient_horizon.ensembles import blocks, devices
from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.measures.lyapunov import lyapunov_exponents
from gradient_horizon.measures.states import flatten_step
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.numerics import lapack as linalg
from gradient_horizon.numerics.derivatives import pull
from gradient_horizon.numerics.exponents import normalise
from gradient_horizon.numerics.keys import fixed_orthogonal

Measure = Callable[[Any, Any, Case], Any]  # measure(params, h0, case), for one network


def _drawing(case: Case) -> blocks.Program:
    cell = make_cell("tanh", case["n"])

    def drawn(seed: Any, _: Any) -> Any:
        key = jax.random.key(seed)
        return cell.init(key, case["scale"]), cell.initial_state(key)

    return blocks.Program(drawn)


def _measuring(measure: Measure, case: Case, width: int = 1) -> blocks.Program:
    def measured(network: Any, _: Any) -> Any:
        params, h0 = network
        return measure(params, h0, case)

    return blocks.Program(measured, width)


def _chunks(case: Case) -> list[Any]:
    """Draw the networks; seeds count from 0."""
    chunk = devices.block_size(case["n"], case["steps"]) * jax.device_count()
    seeds = np.arange(case["networks"], dtype=np.uint32).reshape(-1, chunk)
    draw = _drawing(case)
    return [jax.block_until_ready(draw(part, None)) for part in seeds]


def _joined(found: list[Any]) -> Arrays:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)


def _over_chunks(measure: Measure, case: Case, width: int = 1) -> Ready:
    chunks, program = _chunks(case), _measuring(measure, case, width)
    return Ready(lambda: [jax.block_until_ready(program(part, None)) for part in chunks], _joined)


def _frobenius(params: Any, h0: Any, case: Case) -> Any:
    return log_jacobian_norms(make_cell("tanh", case["n"]).step, params, h0, steps=case["steps"])


def _both(params: Any, h0: Any, case: Case) -> Any:
    step = make_cell("tanh", case["n"]).step
    return log_jacobian_norms(step, params, h0, steps=case["steps"], norms=("frobenius", "spectral"))


def _by_lapack(params: Any, h0: Any, case: Case) -> Any:
    step = make_cell("tanh", case["n"]).step
    flat_step, _ = flatten_step(step, h0)

    def advance(carry, h):
        matrix, exponent = carry
        matrix, gained = normalise(pull(flat_step, params, h, None, matrix))
        exponent = exponent + gained
        largest = linalg.singular_values(matrix)[0]
        return (matrix, exponent), jnp.log(largest) + exponent.astype(largest.dtype) * jnp.float32(np.log(2))

    start = (jnp.eye(case["n"], dtype=jnp.float32), jnp.zeros((), jnp.int32))
    _, logs = lax.scan(advance, start, rollout(step, params, h0, steps=case["steps"]).states[:-1], reverse=True)
    return {"spectral": logs[::-1]}


def _exponents(params: Any, h0: Any, case: Case) -> Any:
    cell = plain_cell("tanh", case["n"], 0)
    found = lyapunov_exponents(cell.step, params, h0, steps=case["steps"], log_det=cell.log_abs_det)
    return {"exponents": found.exponents, "sum_rule_error": found.sum_rule_error}


def start(case: Case) -> Ready:
    """W and h_0 of each network, and the basis from which exponents start, as given to peers."""
    chunks = _chunks(case)
    networks = [{"W": params.recurrent, "h": h0} for params, h0 in chunks]
    return Ready(lambda: networks, lambda found: {**_joined(found), "basis": fixed_orthogonal(case["n"])})


def frobenius(case: Case) -> Ready:
    """Log Frobenius norms at every lag."""
    width = devices.lane_width(case["n"], devices.block_size(case["n"], case["steps"]))
    return _over_chunks(_frobenius, case, width)


def both_norms(case: Case) -> Ready:
    """Log Frobenius and spectral norms at every lag."""
    return _over_chunks(_both, case)


def lapack(case: Case) -> Ready:
    """Log spectral norms at every lag by LAPACK's SVD of each product."""
    return _over_chunks(_by_lapack, case)


def exponents(case: Case) -> Ready:
    """The whole Lyapunov spectrum, with its sum rule."""
    return _over_chunks(_exponents, case)


def product(case: Case) -> Ready:
    """One product of `n` × `n` matrices on each device at the same time; there are no numbers to compare."""
    size = case["n"]
    program = blocks.Program(lambda matrix, _: matrix @ matrix)
    matrices = np.random.default_rng(0).standard_normal((jax.device_count(), size, size), np.float32)
    placed = jax.block_until_ready(blocks.Program(lambda matrix, _: matrix + 0)(matrices, None))
    return Ready(
        lambda: jax.block_until_ready(program(placed, None)), lambda _: {"devices": np.array(jax.device_count())}
    )


def sweep(case: Case) -> Ready:
    """Draw and measure networks chunk by chunk, as a sweep does; the results are not kept."""
    stages = [_drawing(case), _measuring(_frobenius, case)]
    block = devices.block_size(case["n"], case["steps"])
    seeds = np.arange(case["networks"], dtype=np.uint32)

    def call() -> None:
        for _ in blocks.map_blocks(stages, block, seeds):
            pass

    return Ready(call, lambda _: {"chunk": np.array(block * jax.device_count())})
