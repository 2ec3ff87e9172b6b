"""Makers of this project: tanh networks without inputs, in the blocks and on the devices that a sweep uses.

A case names `n`, `networks`, `steps` and `scale`. Neither compiling nor drawing the networks is timed, except that
`sweep` includes drawing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from contestants import Case, Ready
from jax import lax

from gradient_horizon.cells import make_cell
from gradient_horizon.cells.vanilla import VanillaParams
from gradient_horizon.ensembles import blocks
from gradient_horizon.ensembles.block_size import batch_last_width, block_size
from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
from gradient_horizon.measures.lyapunov import cell_log_det, lyapunov_exponents
from gradient_horizon.measures.states import flatten_step
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.numerics.derivatives import vjp_rows
from gradient_horizon.numerics.exponents import log_of, normalise
from gradient_horizon.numerics.keys import fixed_orthogonal
from gradient_horizon.numerics.lapack import singular_values

Measure = Callable[[Any, Any, Case], Any]  # measure(params, h0, case), for one network


def _drawing(case: Case) -> blocks.Program:
    cell = make_cell("tanh", case["n"])

    def draw(seed: Any, _: Any) -> Any:
        key = jax.random.key(seed)
        return cell.init(key, case["scale"]), cell.initial_state(key)

    return blocks.Program(draw)


def _measuring(measure: Measure, case: Case, width: int = 1) -> blocks.Program:
    def of_network(network: Any, _: Any) -> Any:
        params, h0 = network
        return measure(params, h0, case)

    return blocks.Program(of_network, width)


def _block(case: Case) -> int:
    return block_size(case["n"], case["steps"])


def _networks(case: Case) -> tuple[VanillaParams, np.ndarray]:
    """Parameters and h_0 of the networks, with seeds that count from 0."""
    seeds = np.arange(case["networks"], dtype=np.uint32)
    return blocks.map_networks(_drawing(case), seeds, block=_block(case))


def _over_networks(measure: Measure, case: Case, width: int = 1) -> Ready:
    networks, program = _networks(case), _measuring(measure, case, width)
    return Ready(lambda: blocks.map_networks(program, networks, block=_block(case)), lambda arrays: arrays)


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
        matrix, gained = normalise(vjp_rows(flat_step, params, h, None, matrix))
        exponent = exponent + gained
        return (matrix, exponent), log_of(singular_values(matrix)[0], exponent)

    start = (jnp.eye(case["n"], dtype=jnp.float32), jnp.zeros((), jnp.int32))
    _, logs = lax.scan(advance, start, rollout(step, params, h0, steps=case["steps"]).states[:-1], reverse=True)
    return {"spectral": logs[::-1]}


def _exponents(params: Any, h0: Any, case: Case) -> Any:
    cell = make_cell("tanh", case["n"])
    spectrum = lyapunov_exponents(cell.step, params, h0, steps=case["steps"], log_det=cell_log_det(cell))
    return {"exponents": spectrum.exponents, "sum_rule_error": spectrum.sum_rule_error}


def start(case: Case) -> Ready:
    """W and h_0 of each network, and the basis from which exponents start, as given to peers."""
    params, h0 = _networks(case)
    arrays: dict[str, Any] = {"W": np.asarray(params.recurrent), "h": h0, "basis": fixed_orthogonal(case["n"])}
    return Ready(lambda: arrays, lambda arrays: arrays)


def frobenius(case: Case) -> Ready:
    """Log Frobenius norms at every lag."""
    return _over_networks(_frobenius, case, batch_last_width(case["n"], _block(case)))


def both_norms(case: Case) -> Ready:
    """Log Frobenius and spectral norms at every lag."""
    return _over_networks(_both, case)


def lapack(case: Case) -> Ready:
    """Log spectral norms at every lag by LAPACK's SVD of each product."""
    return _over_networks(_by_lapack, case)


def exponents(case: Case) -> Ready:
    """The whole Lyapunov spectrum, with its sum rule."""
    return _over_networks(_exponents, case)


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
    block = _block(case)
    seeds = np.arange(case["networks"], dtype=np.uint32)

    def call() -> None:
        for _ in blocks.map_blocks(stages, block, seeds):
            pass

    return Ready(call, lambda _: {"chunk": np.array(block * jax.device_count())})
