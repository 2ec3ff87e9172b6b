"""Log Frobenius norms at every lag, against the machine's own large matrix product.

    make bench
    .venv/bin/python benchmarks/jacobian_norms.py                            (2 min on two cores)
    .venv/bin/python benchmarks/jacobian_norms.py --sizes 64 128 --repeats 21
    .venv/bin/python benchmarks/jacobian_norms.py --quick                    (30 s)

What is timed: `log_jacobian_norms` from the end on tanh networks, g = 1, Gaussian weights, no inputs, T = 100,
float32, in the blocks and on the devices that a sweep uses; drawing the weights, compiling and labelling are left out.
Work is counted as 2·N³ floating point operations a network and step: one matrix product. The trajectory, the
activation's derivative, the renormalisation and the norms themselves count nothing, so they lower the share.

What it is held against: a float32 matrix product, one on each device at the same time; or one program that
splits it over all threads, where that is faster. Both are timed before every measurement, so that other work on the
machine slows both sides of a share alike. Times are medians over the repeats; the spread is the interquartile range
of the share.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import machine
from machine import seconds

from gradient_horizon import runtime

_GIVEN_FLAGS = os.environ.get("XLA_FLAGS", "")
runtime.prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from gradient_horizon import ensemble  # noqa: E402
from gradient_horizon.cells import make_cell  # noqa: E402
from gradient_horizon.jacobian import log_jacobian_norms  # noqa: E402

STEPS = 100
NETWORKS = {16: 4096, 32: 2048, 64: 512, 128: 128, 256: 16}
ON_DEVICES, ON_THREADS = "one product a device", "one product on all threads"


@dataclass
class Timing:
    """Seconds of each repeat: of the norms, and of each kind of product just before them."""

    n: int
    networks: int
    block: int
    norms: list[float] = field(default_factory=list)
    products: dict[str, list[float]] = field(default_factory=lambda: {ON_DEVICES: [], ON_THREADS: []})

    @property
    def work(self) -> float:
        """Floating point operations."""
        return 2.0 * self.n**3 * STEPS * self.networks


def norms_of(n: int, networks: int, block: int) -> Callable[[], Any]:
    """A call that measures `networks` networks, drawn beforehand, chunk by chunk as a sweep does."""
    cell = make_cell("tanh", n)

    def drawn(seed: Any, _: Any) -> Any:
        key = jax.random.key(seed)
        return cell.init(key), cell.initial_state(key)

    def measured(network: Any, _: Any) -> Any:
        return log_jacobian_norms(cell.step, *network, steps=STEPS)

    chunk = block * jax.device_count()
    seeds = np.arange(networks, dtype=np.uint32).reshape(-1, chunk)
    drawing, measuring = ensemble.Program(drawn), ensemble.Program(measured)
    chunks = [jax.block_until_ready(drawing(part, None)) for part in seeds]

    def call() -> None:
        for part in chunks:
            jax.block_until_ready(measuring(part, None))

    call()
    return call


def product_on_devices(size: int) -> Callable[[], Any]:
    """A call that forms one product of `size` × `size` matrices on each device at the same time."""
    program = ensemble.Program(lambda matrix, _: matrix @ matrix)
    matrices = np.random.default_rng(0).standard_normal((jax.device_count(), size, size), np.float32)
    placed = jax.block_until_ready(ensemble.Program(lambda matrix, _: matrix + 0)(matrices, None))

    def call() -> Any:
        return jax.block_until_ready(program(placed, None))

    call()
    return call


def serve_product(size: int) -> None:
    """Answer each line of the standard input with the seconds that one product takes in this process."""
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32))
    program = jax.jit(lambda a: a @ a)
    jax.block_until_ready(program(matrix))
    for _ in sys.stdin:
        print(seconds(lambda: jax.block_until_ready(program(matrix))), flush=True)


@contextmanager
def product_on_threads(size: int):
    """A call that gives the seconds of one product in a program of its own that may use every thread."""
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        "XLA_FLAGS": f"{_GIVEN_FLAGS} --xla_cpu_multi_thread_eigen=true".strip(),
    }
    command = [sys.executable, __file__, "--serve-product", str(size)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        asked, answers = server.stdin, server.stdout

        def ask() -> float:
            print(file=asked, flush=True)
            return float(answers.readline())

        try:
            ask()
            yield ask
        finally:
            asked.close()


def measure(sizes: list[int], repeats: int, product_size: int, fraction: int) -> list[Timing]:
    """Time every size `repeats` times, in turn, each just after the two products."""
    timings, calls = [], []
    for n in sizes:
        block = runtime.block_size(n, STEPS)
        chunk = block * jax.device_count()
        wanted = NETWORKS.get(n, max(1, 2**28 // n**3)) // fraction
        timings.append(Timing(n, max(1, wanted // chunk) * chunk, block))
        calls.append(norms_of(n, timings[-1].networks, block))
    on_devices = product_on_devices(product_size)
    with product_on_threads(product_size) as on_threads:
        for _ in range(repeats):
            for timing, call in zip(timings, calls, strict=True):
                timing.products[ON_THREADS].append(on_threads())
                timing.products[ON_DEVICES].append(seconds(on_devices))
                timing.norms.append(seconds(call))
    return timings


def report(screen: Console, timings: list[Timing], product_size: int) -> None:
    """The machine's rate, and each size's share of it."""
    work = {ON_DEVICES: 2.0 * product_size**3 * jax.device_count(), ON_THREADS: 2.0 * product_size**3}
    rates = {
        kind: work[kind] / np.median([time for timing in timings for time in timing.products[kind]]) / 1e9
        for kind in work
    }
    reference = max(rates, key=lambda kind: rates[kind])
    for kind, rate in rates.items():
        chosen = "  <- the machine's rate" if kind == reference else ""
        screen.print(f"{kind}, {product_size} × {product_size}: {rate:.0f} GFLOP/s{chosen}", markup=False)
    table = Table(
        "N", "networks", "block", "median ms", "GFLOP/s", "share", "spread of the share",
        title=f"log_jacobian_norms, T = {STEPS}, float32, Frobenius, from the end",
    )  # fmt: skip
    for column in table.columns:
        column.justify = "right"
    for timing in timings:
        median = float(np.median(timing.norms))
        machine = work[reference] / np.array(timing.products[reference])
        low, share, high = np.percentile(timing.work / np.array(timing.norms) / machine, (25, 50, 75))
        table.add_row(
            str(timing.n),
            str(timing.networks),
            str(timing.block),
            f"{1e3 * median:.1f}",
            f"{timing.work / median / 1e9:.1f}",
            f"{share:.0%}",
            f"{low:.0%} to {high:.0%}",
        )
    screen.print(table)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(NETWORKS), metavar="N", help="hidden sizes")
    parser.add_argument("--repeats", type=int, default=15, help="of every measurement (default 15, at least 7)")
    parser.add_argument("--quick", action="store_true", help="fewer networks, smaller products, 7 repeats")
    parser.add_argument("--serve-product", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_product:
        serve_product(options.serve_product)
        return
    if options.repeats < 7:
        parser.error(f"--repeats: {options.repeats} is not allowed; allowed: at least 7")
    if min(options.sizes) < 1:
        parser.error(f"--sizes: {min(options.sizes)} is not allowed; allowed: whole numbers of at least 1")
    repeats, product_size, fraction = (7, 1024, 4) if options.quick else (options.repeats, 2048, 1)

    screen = machine.console()
    machine.describe(screen, repeats)
    report(screen, measure(options.sizes, repeats, product_size, fraction), product_size)


if __name__ == "__main__":
    main()
