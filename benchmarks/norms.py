"""Log Frobenius norms at every lag: throughput as a share of the machine's own matrix product, and against the peers.

The timed call is `log_jacobian_norms` from the end on tanh networks, g = 1, Gaussian weights, no inputs, T = 100,
float32. Work is counted as 2·N³ floating point operations per network and step: one matrix product. The trajectory, the
activation's derivative, the renormalisation and the norms themselves are not counted, so they lower the share.

The machine's rate is that of a float32 matrix product: one on each device at the same time, or one in a program that
splits it over all threads, whichever is faster.
"""

import numpy as np
from bench import Bench
from contestants import JAX, OWN, TORCH, Case, Prepared
from rows import MORE, Row, row

Taken = dict[tuple[int, str], np.ndarray]  # seconds of each repeat, by N and contestant
STEPS = 100
NETWORKS = {3: 4096, 16: 4096, 32: 2048, 64: 512, 128: 128, 256: 16}
QUICK = {3: 1024, 16: 512, 32: 256, 64: 64, 128: 32, 256: 4}
SHARES = {16: None, 32: 0.35, 64: 0.65, 128: 0.85, 256: 0.85}
BY_HAND, TORCH_FUNC, PLAIN = "PyTorch by hand", "PyTorch, torch.func", "plain vmap of jacrev"
PEERS: dict[str, tuple[str, str, dict[int, float]]] = {
    BY_HAND: (TORCH, "norm_peers.by_hand", {3: 2.5, 16: 1.3, 32: 2.5, 64: 2.5, 128: 2.5, 256: 1.6}),
    TORCH_FUNC: (TORCH, "norm_peers.torch_func", {3: 8, 16: 3.5, 32: 6, 64: 6, 128: 4.5, 256: 3}),
    PLAIN: (JAX, "norm_peers.plain", {}),
}
ON_DEVICES, ON_THREADS = "one product a device", "one product on all threads"
# Per lag: if a unit is saturated to 1 - h² = 0.01, a peer that rounds h to eps = 1e-7 keeps only five digits of it.
TOLERANCE = 1e-4


def case_of(bench: Bench, n: int, networks: int, scale: float = 1.0) -> Case:
    """Return a case with a whole number of chunks, whatever the machine's cores."""
    return {"n": n, "networks": bench.whole_chunks(n, STEPS, networks), "steps": STEPS, "scale": scale}


def _prepared(bench: Bench, case: Case) -> dict[str, Prepared]:
    """Prepare this project and its peers at one size; any disagreement ends the benchmark."""
    own = bench.process(OWN)
    found = {OWN: own.prepare("own.frobenius", case)}
    ours = found[OWN].arrays()["frobenius"]
    from_start = {**case, "start": str(own.prepare("own.start", case).path)}
    for name, (kind, maker, _) in PEERS.items():
        found[name] = bench.process(kind).prepare(maker, from_start)
        difference = float((np.abs(found[name].arrays()["frobenius"] - ours) / np.arange(1, STEPS + 1)).max())
        bench.agreed(f"{name}, N = {case['n']}, logs a lag", difference, TOLERANCE, found[name].note)
    return found


def rows(bench: Bench) -> list[Row]:
    """Return shares of the machine's product, then the ratios to each peer."""
    size = 1024 if bench.quick else 2048
    products = {
        ON_THREADS: bench.process(JAX).prepare("norm_peers.product", {"n": size}),
        ON_DEVICES: bench.process(OWN).prepare("own.product", {"n": size}),
    }
    cases = [case_of(bench, n, networks) for n, networks in (QUICK if bench.quick else NETWORKS).items()]
    calls = {}
    for case in cases:
        # the products again before each size, so that other work on the machine slows both sides of a share alike
        calls |= {(case["n"], name): prepared for name, prepared in {**products, **_prepared(bench, case)}.items()}
    taken = bench.alternate(calls)
    devices = int(products[ON_DEVICES].arrays()["devices"])
    work = {ON_DEVICES: 2.0 * size**3 * devices, ON_THREADS: 2.0 * size**3}
    rates = {
        kind: work[kind] / np.median([taken[case["n"], kind] for case in cases]) / 1e9
        for kind in (ON_DEVICES, ON_THREADS)
    }
    reference = max(rates, key=lambda kind: rates[kind])
    for kind, rate in rates.items():
        bench.say(f"{kind}, {size} × {size}: {rate:.0f} GFLOP/s{' <- the rate' if kind == reference else ''}")
    bench.roofline = float(rates[reference])
    return shares(bench, cases, taken, work[reference], reference) + ratios(cases, taken)


def _label(case: Case) -> str:
    return f"N = {case['n']}, {case['networks']} networks"


def shares(bench: Bench, cases: list[Case], taken: Taken, work: float, reference: str) -> list[Row]:
    """Return the share of the machine's rate, which is `work` operations in the time of `reference`.

    Rates are kept for the figure.
    """
    table = []
    for case in cases:
        n = case["n"]
        operations = 2.0 * n**3 * STEPS * case["networks"]
        for name in (OWN, *PEERS):
            bench.throughput.setdefault(name, {})[n] = operations / float(np.median(taken[n, name])) / 1e9
        if n not in SHARES:
            continue
        each = operations / taken[n, OWN] / (work / taken[n, reference])
        what = "log Frobenius norms: share of the machine's product"
        table.append(row("norms", what, _label(case), each, MORE, SHARES[n], unit="%"))
    return table


def ratios(cases: list[Case], taken: Taken) -> list[Row]:
    """Return how many times as long each peer takes as this project."""
    return [
        row("norms", f"times as fast as {name}", _label(case), taken[n, name] / taken[n, OWN], MORE, targets.get(n))
        for name, (_, _, targets) in PEERS.items()
        for case in cases
        for n in (case["n"],)
    ]
