"""`gh.ensemble` of steps as a user writes them, beside the built-in cell as a sweep measures it.

The timed call is `gh.ensemble(gh.log_jacobian_norms, step, params, h0, steps=100)` on given arrays, float32: for
h ↦ tanh(W h + b), and for a residual step with layer normalisation. The same steps go through the programs of the
command line (`Networks`' stages: rolled out, then measured), and through plain `jax.vmap` of `jax.jacrev`. `without
prepare` runs in a process that never calls `gh.prepare`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench import Bench
from contestants import JAX, OWN, Case, Ready
from jax import lax
from rows import MORE, Row, row

import gradient_horizon as gh
from gradient_horizon.cells.activations import ACTIVATIONS
from gradient_horizon.ensembles import blocks
from gradient_horizon.ensembles.block_size import batch_last_width, block_size
from gradient_horizon.ensembles.lanes import gains_from_lanes
from gradient_horizon.measures.jacobian_norms import scaled_norms
from gradient_horizon.measures.trajectory import rollout, system_of

STEPS = 100
NETWORKS = {16: 4096, 64: 512, 128: 128, 256: 16}
QUICK = {16: 512, 64: 64, 128: 32, 256: 4}
BUILT_IN, TANH, RESIDUAL = "built_in", "tanh", "residual"
TOLERANCE = 1e-4  # per lag, as in `norms`


def _tanh(params: Any, h: Any, x: Any) -> Any:
    return jnp.tanh(params["W"] @ h + params["b"])


def _residual(params: Any, h: Any, x: Any) -> Any:
    normalised = (h - h.mean()) / jnp.sqrt(h.var() + 1e-5)
    return h + 0.3 * jnp.tanh(params["W"] @ (params["gain"] * normalised) + params["b"])


def _step(case: Case) -> Callable[..., Any]:
    if case["step"] != BUILT_IN:
        return {TANH: _tanh, RESIDUAL: _residual}[case["step"]]
    value = ACTIVATIONS["tanh"].value

    def step(params: Any, h: Any, x: Any) -> Any:
        return value(params["W"] @ h + params["b"])

    return step


def _networks(case: Case) -> tuple[dict[str, Any], Any]:
    rng, many, n = np.random.default_rng(0), case["networks"], case["n"]
    weights = rng.standard_normal((many, n, n), np.float32) / np.float32(n**0.5)
    params = {"W": weights, "b": np.zeros((many, n), np.float32), "gain": np.ones((many, n), np.float32)}
    return params, rng.standard_normal((many, n), np.float32)


def _named(norms: Any) -> dict[str, Any]:
    return {"frobenius": np.asarray(norms)}


def ensemble(case: Case) -> Ready:
    """`gh.ensemble`."""
    params, h0 = _networks(case)
    step = _step(case)
    return Ready(
        lambda: gh.ensemble(gh.log_jacobian_norms, step, params, h0, steps=STEPS),
        lambda norms: _named(norms["frobenius"]),
    )


def sweep(case: Case) -> Ready:
    """The programs that the command line runs for a cell with this step."""
    params, h0 = _networks(case)
    step, n = _step(case), case["n"]
    block = block_size(n, STEPS)
    width = batch_last_width(n, block)
    params_of_one, h0_of_one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), (params, h0))
    width = width if width > 1 and gains_from_lanes(step, params_of_one, h0_of_one, None) else 1

    def rolled(network: Any, _: Any) -> Any:
        return *network, rollout(step, *network, steps=STEPS)

    def measured(network: Any, _: Any) -> Any:
        params, h0, trajectory = network
        return scaled_norms(system_of(step, params, h0, trajectory=trajectory))

    stages = [blocks.Program(rolled, width), blocks.Program(measured, width)]

    def call() -> Any:
        return blocks.gather(blocks.map_blocks(stages, block, (params, h0)), len(h0))

    return Ready(call, lambda scaled: _named(scaled.log()["frobenius"]))


def plain(case: Case) -> Ready:
    """`jax.vmap` of a scan over `jax.jacrev`, the product scaled by its norm."""
    params, h0 = _networks(case)
    step = _step(case)

    def one(params: Any, h0: Any) -> Any:
        states = lax.scan(lambda h, _: (step(params, h, None), h), h0, None, length=STEPS)[1]

        def advance(carry: Any, h: Any) -> Any:
            product, log = carry
            product = product @ jax.jacrev(lambda h: step(params, h, None))(h)
            norm = jnp.linalg.norm(product)
            return (product / norm, log + jnp.log(norm)), log + jnp.log(norm)

        return lax.scan(advance, (jnp.eye(len(h0)), 0.0), states, reverse=True)[1][::-1]

    compiled = jax.jit(jax.vmap(one))
    return Ready(lambda: jax.block_until_ready(compiled(params, h0)), _named)


def rows(bench: Bench) -> list[Row]:
    """Return throughputs relative to the built-in cell, to the command line, and to plain `vmap(jacrev)`."""
    prepared, unprepared = bench.process(OWN), bench.process(JAX)
    makers = {
        "built in": (prepared, "sweep", BUILT_IN),
        "tanh": (prepared, "ensemble", TANH),
        "tanh without": (unprepared, "ensemble", TANH),
        "tanh plain": (unprepared, "plain", TANH),
        "residual": (prepared, "ensemble", RESIDUAL),
        "residual sweep": (prepared, "sweep", RESIDUAL),
        "residual plain": (unprepared, "plain", RESIDUAL),
    }
    compared = (
        ("own tanh step: throughput relative to the built-in cell", "built in", "tanh", lambda n: 0.9),
        ("the same without prepare", "built in", "tanh without", lambda n: 0.6),
        ("own tanh step: times as fast as plain vmap of jacrev", "tanh plain", "tanh", lambda n: None),
        ("own residual step: relative to its sweep", "residual sweep", "residual", lambda n: 0.9),
        ("own residual step: relative to the own tanh step", "tanh", "residual", lambda n: 0.5 if n >= 64 else None),
        ("own residual step: times as fast as plain vmap of jacrev", "residual plain", "residual", lambda n: None),
    )
    table = []
    for n, many in (QUICK if bench.quick else NETWORKS).items():
        case = {"n": n, "networks": bench.whole_chunks(n, STEPS, many)}
        calls = {
            name: process.prepare(f"own_ensembles.{maker}", {**case, "step": step})
            for name, (process, maker, step) in makers.items()
        }
        for first, second in (("built in", "tanh"), ("tanh", "tanh plain"), ("residual", "residual plain")):
            gap = np.abs(calls[first].arrays()["frobenius"] - calls[second].arrays()["frobenius"])
            bench.agreed(
                f"{first}, {second}, N = {n}, logs a lag", float((gap / np.arange(1, STEPS + 1)).max()), TOLERANCE
            )
        taken = bench.alternate(calls)
        size = f"N = {n}, {case['networks']} networks"
        table += [
            row("own_ensembles", what, size, taken[slow] / taken[fast], MORE, target(n))
            for what, slow, fast, target in compared
        ]
    return table
