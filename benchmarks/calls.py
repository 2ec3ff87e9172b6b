"""Cost of a call outside `jax.jit` compared with inside, and of a user's own step for many networks under `jax.vmap`.

A second call outside compiles nothing, but inspects everything that its functions read and waits to see whether its
result must be computed again with more care. It may take three times as long as the same function inside `jax.jit`,
plus a millisecond. The two alternate in one process with JAX's own settings, on one tanh network: g = 1, Gaussian
weights, no inputs, T = 100, float32.

A user's own step is h -> tanh(W h) as a plain function: `jax.jit` of `jax.vmap` of `log_jacobian_norms`, over all
networks at once or in this project's blocks one after another, whichever is faster. It is compared with this project's
own ensemble of tanh cells, from the same W and h_0: once in a process with JAX as it starts, and once in a process set
up by `gh.prepare`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from bench import Bench
from contestants import JAX, OWN, Arrays, Case, Ready, fastest
from norms import NETWORKS, QUICK, STEPS, TOLERANCE, case_of
from rows import LESS, Row, row

SIZES = (16, 64, 128)
LAGS = (1, 10, STEPS)
TIMES, PLUS = 3, 1e-3  # a call outside may take this many times the time inside, plus this many seconds
MEASURES = (
    "log_jacobian_norms",
    "log_jacobian_norms_all_pairs",
    "log_singular_values_at_lags",
    "rollout",
    "node_split",
    "log_state_gradient_norms",
    "lyapunov_exponents",
    "largest_lyapunov_exponent",
)
PREPARED, UNPREPARED = "after gh.prepare", "as JAX starts"


def _measures(n: int) -> tuple[dict[str, Callable[[Any, Any], Any]], Any, Any]:
    """Return each measure as a function of a network's parameters and h_0, and one network's parameters and h_0."""
    import jax
    import jax.numpy as jnp

    from gradient_horizon.cells import make_cell
    from gradient_horizon.measures.all_pairs import log_jacobian_norms_all_pairs
    from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
    from gradient_horizon.measures.largest_exponent import largest_lyapunov_exponent
    from gradient_horizon.measures.lyapunov import lyapunov_exponents
    from gradient_horizon.measures.nodes import log_state_gradient_norms, node_split
    from gradient_horizon.measures.singular_values import log_singular_values_at_lags
    from gradient_horizon.measures.trajectory import rollout

    cell = make_cell("tanh", n)
    key = jax.random.key(0)
    params, h0 = cell.init(key, 1.0), cell.initial_state(key)
    trajectory = rollout(cell.step, params, h0, steps=STEPS)
    read = jnp.zeros((STEPS, n), jnp.float32).at[-1].set(1)
    measures: dict[str, Callable[[Any, Any], Any]] = {
        "log_jacobian_norms": lambda params, h0: log_jacobian_norms(cell.step, params, h0, steps=STEPS),
        "log_jacobian_norms_all_pairs": lambda params, h0: log_jacobian_norms_all_pairs(
            cell.step, params, h0, steps=STEPS
        ),
        "log_singular_values_at_lags": lambda params, h0: log_singular_values_at_lags(
            cell.step, params, h0, steps=STEPS, lags=LAGS
        ),
        "rollout": lambda params, h0: rollout(cell.step, params, h0, steps=STEPS).states,
        "node_split": lambda params, h0: node_split(cell, params, h0, steps=STEPS),
        "log_state_gradient_norms": lambda params, h0: log_state_gradient_norms(
            cell.step, params, h0, trajectory, None, read
        ),
        "lyapunov_exponents": lambda params, h0: lyapunov_exponents(cell.step, params, h0, steps=STEPS),
        "largest_lyapunov_exponent": lambda params, h0: largest_lyapunov_exponent(cell.step, params, h0, trajectory),
    }
    return measures, params, h0


def _ready(case: Case, transform: Callable[[Any], Any]) -> Ready:
    import jax

    measures, params, h0 = _measures(case["n"])
    measure = transform(measures[case["measure"]])

    def arrays(result: Any) -> Arrays:
        return {str(place): np.asarray(leaf) for place, leaf in enumerate(jax.tree.leaves(result))}

    return Ready(lambda: jax.block_until_ready(measure(params, h0)), arrays)


def outside(case: Case) -> Ready:
    """Call a measure outside `jax.jit`."""
    return _ready(case, lambda measure: measure)


def inside(case: Case) -> Ready:
    """Call the same measure inside `jax.jit`."""
    import jax

    return _ready(case, jax.jit)


def by_vmap(case: Case) -> Ready:
    """Apply `jax.vmap` to `log_jacobian_norms` of a plain function, over all networks at once or in blocks."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from gradient_horizon.ensembles.block_size import block_size
    from gradient_horizon.measures.jacobian_norms import log_jacobian_norms

    def step(matrix: Any, h: Any, _: Any) -> Any:
        return jnp.tanh(matrix @ h)

    @jax.vmap
    def norms(matrix: Any, h: Any) -> Any:
        return log_jacobian_norms(step, matrix, h, steps=case["steps"])["frobenius"]

    with np.load(case["start"]) as start:
        matrices, h = jnp.asarray(start["W"]), jnp.asarray(start["h"])
    n, block = case["n"], block_size(case["n"], case["steps"])
    cut = matrices.reshape(-1, block, n, n), h.reshape(-1, block, n)
    at_once = jax.jit(norms)
    in_blocks = jax.jit(lambda matrices, h: lax.map(lambda block: norms(*block), (matrices, h)))
    candidates = {
        "all at once": lambda: jax.block_until_ready(at_once(matrices, h)),
        f"blocks of {block}": lambda: jax.block_until_ready(in_blocks(*cut)),
    }
    name, best = fastest(candidates)
    return Ready(best, lambda logs: {"frobenius": np.asarray(logs).reshape(-1, case["steps"])}, name)


def rows(bench: Bench) -> list[Row]:
    """Time second calls outside and inside `jax.jit`, then a user's own step under `jax.vmap` and the ensemble."""
    second = [each for measure in MEASURES for n in SIZES for each in _second_calls(bench, n, measure)]
    sizes = QUICK if bench.quick else NETWORKS
    return second + [each for n in SIZES for each in _own_step(bench, case_of(bench, n, sizes[n]))]


def worst_difference(ours: Arrays, theirs: Arrays) -> float:
    """Return the largest difference, relative for numbers above 1; inf if anything that is not finite differs."""
    worst = 0.0
    for name, own in ours.items():
        other, is_finite = theirs[name], np.isfinite(own)
        if not np.array_equal(np.where(is_finite, 0, own), np.where(np.isfinite(other), 0, other), equal_nan=True):
            return float("inf")
        gaps = np.abs(own[is_finite] - other[is_finite]) / np.maximum(1, np.abs(own[is_finite]))
        worst = max(worst, float(gaps.max(initial=0)))
    return worst


def second_calls(measure: str, n: int, taken: dict[str, np.ndarray]) -> list[Row]:
    """Return rows for the time of a call outside, with a target set by the time inside, and for the time inside."""
    size, target = f"{measure}, N = {n}", 1e3 * (TIMES * float(np.median(taken["inside"])) + PLUS)
    return [
        row("calls", "second eager call", size, 1e3 * taken["outside"], LESS, target, unit="ms"),
        row("calls", "the same inside jax.jit", size, 1e3 * taken["inside"], LESS, unit="ms"),
    ]


def _second_calls(bench: Bench, n: int, measure: str) -> list[Row]:
    process, case = bench.process(JAX), {"n": n, "measure": measure}
    calls = {name: process.prepare(f"calls.{name}", case) for name in ("outside", "inside")}
    difference = worst_difference(calls["outside"].arrays(), calls["inside"].arrays())
    bench.agreed(f"{measure} outside and inside jax.jit, N = {n}", difference, TOLERANCE)
    taken = bench.alternate(calls)
    process.forget()
    return second_calls(measure, n, taken)


def _own_step(bench: Bench, case: Case) -> list[Row]:
    own, size = bench.process(OWN), f"N = {case['n']}, {case['networks']} networks"
    calls = {OWN: own.prepare("own.frobenius", case)}
    ours = calls[OWN].arrays()["frobenius"]
    from_start = {**case, "start": str(own.prepare("own.start", case).path)}
    for name, process in {PREPARED: own, UNPREPARED: bench.process(JAX)}.items():
        calls[name] = process.prepare("calls.by_vmap", from_start)
        difference = float((np.abs(calls[name].arrays()["frobenius"] - ours) / np.arange(1, STEPS + 1)).max())
        bench.agreed(
            f"own step by jax.vmap {name}, N = {case['n']}, logs a lag", difference, TOLERANCE, calls[name].note
        )
    taken = bench.alternate(calls)
    bench.forget()
    each = {name: 1e6 * seconds / case["networks"] for name, seconds in taken.items()}
    return [
        row("calls", "log Frobenius norms of a network of the ensemble", size, each[OWN], LESS, unit="µs"),
        *(
            row("calls", f"own step by jax.vmap, {name}: over that", size, each[name] / each[OWN], LESS)
            for name in (PREPARED, UNPREPARED)
        ),
    ]
