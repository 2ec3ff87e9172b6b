"""Cost of the spectral norm at every lag, and of the whole Lyapunov spectrum, relative to the Frobenius norm.

Each is timed alongside the Frobenius norms alone, on the same networks: T = 100, float32; g = 1 for norms, g = 1.5 for
exponents. Peers: LAPACK's SVD of each product, in this project's blocks; the packages lyapax and chaotax on the same
maps, from the same tangent basis, with a QR at every step.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from bench import Bench
from contestants import JAX, OWN, Case, Ready, fastest
from norms import case_of
from rows import LESS, MORE, Row, row

NETWORKS, QUICK = {64: 64, 128: 32, 256: 8}, {64: 32, 128: 16, 256: 2}
PACKAGES = {"lyapax": "spectra.lyapax", "chaotax": "spectra.chaotax"}
# Chaos amplifies the rounding of 100 steps, and QR's rounding moves growth between neighbouring exponents.
TOLERANCE = 1e-2


def _package(case: Case, exponents: Callable[[Any, Any, Any], Any]) -> Ready:
    """Compute `exponents(W, h, basis)` of every network, all at once or one by one, whichever is faster."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    warnings.simplefilter("ignore")  # lyapax advises float64, but the comparison is in float32
    with np.load(case["start"]) as start:
        matrices, h = (jnp.asarray(start[name]) for name in ("W", "h"))
        basis = jnp.asarray(start["basis"], jnp.float32)

    def one(network: Any) -> Any:
        matrix, state = network
        return exponents(matrix, state, basis)

    at_once = jax.jit(lambda matrices, h: jax.vmap(one)((matrices, h)))
    one_by_one = jax.jit(lambda matrices, h: lax.map(one, (matrices, h)))
    candidates = {
        "all at once": lambda: jax.block_until_ready(at_once(matrices, h)),
        "one by one": lambda: jax.block_until_ready(one_by_one(matrices, h)),
    }
    name, best = fastest(candidates)
    return Ready(best, lambda found: {"exponents": np.asarray(found)}, name)


def lyapax(case: Case) -> Ready:
    """`lyapax.lyapunov_spectrum`, resumed from a checkpoint that holds the basis."""
    package: Any = import_module("lyapax")
    import jax.numpy as jnp

    def exponents(matrix: Any, h: Any, basis: Any) -> Any:
        checkpoint = package.LyapunovCheckpoint(h, basis, jnp.zeros(len(h)), jnp.float32(0))
        return package.lyapunov_spectrum(
            lambda state: jnp.tanh(matrix @ state), h, 1.0, case["steps"], resume=checkpoint
        ).exponents

    return _package(case, exponents)


def chaotax(case: Case) -> Ready:
    """`chaotax.lyapunov_spectrum`, without its warm-up."""
    package: Any = import_module("chaotax")
    import jax
    import jax.numpy as jnp

    def exponents(matrix: Any, h: Any, basis: Any) -> Any:
        with jax.ensure_compile_time_eval():  # it computes a shape with JAX, which must not be a tracer
            spectrum = package.lyapunov_spectrum(
                lambda state: jnp.tanh(matrix @ state),
                rollout_steps=case["steps"], warmup_steps=0, discard_steps=0,
            )  # fmt: skip
            return -jnp.sort(-spectrum(h, basis.T))

    return _package(case, exponents)


def rows(bench: Bench) -> list[Row]:
    """Return the costs relative to Frobenius alone and the accuracy, for norms and then for exponents."""
    sizes = QUICK if bench.quick else NETWORKS
    return [
        *(found for n, networks in sizes.items() for found in _spectral(bench, case_of(bench, n, networks))),
        *(found for n, networks in sizes.items() for found in _exponents(bench, case_of(bench, n, networks, 1.5))),
    ]


def _label(case: Case) -> str:
    return f"N = {case['n']}, {case['networks']} networks"


def _spectral(bench: Bench, case: Case) -> list[Row]:
    own = bench.process(OWN)
    calls = {name: own.prepare(f"own.{name}", case) for name in ("frobenius", "both_norms", "lapack")}
    exact = np.abs(calls["both_norms"].arrays()["spectral"] - calls["lapack"].arrays()["spectral"]).max()
    taken = bench.alternate(calls)
    alone, label = taken["frobenius"], _label(case)
    return [
        row(
            "spectra",
            "spectral norm at every lag too: over Frobenius alone",
            label,
            taken["both_norms"] / alone,
            LESS,
            3,
        ),
        row("spectra", "LAPACK's SVD at every lag: over Frobenius alone", label, taken["lapack"] / alone, MORE),
        row("spectra", "spectral norm: log differs from LAPACK's by", label, [exact], LESS, 1e-5, unit=""),
    ]


def _exponents(bench: Bench, case: Case) -> list[Row]:
    own, label = bench.process(OWN), _label(case)
    calls = {name: own.prepare(f"own.{name}", case) for name in ("frobenius", "exponents")}
    ours = calls["exponents"].arrays()
    from_start = {**case, "start": str(own.prepare("own.start", case).path)}
    for name, maker in PACKAGES.items():
        calls[name] = bench.process(JAX).prepare(maker, from_start)
        difference = float(np.abs(calls[name].arrays()["exponents"] - ours["exponents"]).max())
        bench.agreed(f"{name}, N = {case['n']}", difference, TOLERANCE, calls[name].note)
    taken = bench.alternate(calls)
    cost = taken["exponents"] / taken["frobenius"]
    return [
        row("spectra", "whole Lyapunov spectrum: over Frobenius alone", label, cost, LESS, 6),
        row(
            "spectra",
            "sum rule broken by, per step and unit",
            label,
            [ours["sum_rule_error"].max()],
            LESS,
            1e-4,
            unit="",
        ),
        *(
            row("spectra", f"Lyapunov spectrum: times as fast as {name}", label, taken[name] / taken["exponents"], MORE)
            for name in PACKAGES
        ),
    ]
