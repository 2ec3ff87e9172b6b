"""Training an ensemble, against what a user would write instead.

    make bench
    .venv/bin/python benchmarks/training.py                                  (3 min on two cores)
    .venv/bin/python benchmarks/training.py --quick                          (1 min)

What is timed: updates of 64 tanh networks, N = 50, T = 100, 20 sequences of temporal order an update, cross-entropy,
the global norm clipped at 1 by c/(n + 1e-6), plain gradient descent, float32. Sequences are drawn beforehand, the
same for all; compiling and warming up are left out. "drawing too" is this project's own `advance`, which draws fresh
sequences for every update.

Each peer runs in a process of its own with the settings that suit it (PyTorch with one thread or with all, whichever is
faster), starts from the same parameters and must end with the same ones before it is timed. The peers are asked in
turn, so that other work on the machine slows all alike; times are medians, the spread of a ratio is its
interquartile range.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import machine
import numpy as np
from machine import seconds
from rich.table import Table

from gradient_horizon import runtime

NETWORKS, N, T, BATCH = 64, 50, 100, 20
RATE, THRESHOLD = 0.01, 1.0
NAMES = ("recurrent", "input", "bias", "matrix", "offset")
# at least so many times as long as ours
PEERS = {
    "plain vmap(grad(scan))": 4.0,
    "PyTorch, nn.RNN one by one": 12.0,
    "PyTorch, batched by hand": 10.0,
}
OWN, DRAWING = "this project", "this project, drawing too"
Arrays = dict[str, np.ndarray]


def own_programs() -> tuple[Callable[[], Arrays], Callable[[int], Callable[[Arrays], Arrays]], Callable[[int], Any]]:
    """What draws the networks and their sequences; what updates them on these; what draws and updates."""
    import jax
    from jax import lax

    from gradient_horizon import ensemble
    from gradient_horizon.cells import VanillaParams, make_cell
    from gradient_horizon.tasks import Sample, make_task
    from gradient_horizon.training import Member, TrainSpec, advance, begin
    from gradient_horizon.training.learning import optimizer
    from gradient_horizon.training.network import Params, Readout, drawn, loss_and_gradient, sequences

    task = make_task("temporal_order", T)
    spec = TrainSpec(make_cell("tanh", N, task.input_size), task, clip="book", batch_size=BATCH)
    block = runtime.training_block(N, T, BATCH) * jax.device_count()
    parts = [slice(start, start + block) for start in range(0, NETWORKS, block)]
    seeds = np.arange(NETWORKS, dtype=np.uint32)

    def member(seed: Any) -> Member:
        return Member(jax.random.key(seed), *(jax.numpy.float32(number) for number in (1.0, RATE, THRESHOLD)))

    def chunks(program: ensemble.Program, networks: Any, constants: Any = None) -> Any:
        found = [
            jax.block_until_ready(program(jax.tree.map(lambda leaf, part=part: leaf[part], networks), constants))
            for part in parts
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)

    def start(seed: Any, _: Any) -> Any:
        params = drawn(spec, member(seed))
        batch = sequences(spec, member(seed).key, BATCH, None)
        cell, readout = params.cell, params.readout
        arrays = (cell.recurrent, cell.input, cell.bias, readout.matrix, readout.bias)
        return {**dict(zip(NAMES, arrays, strict=True)), "xs": batch.xs, "targets": batch.targets[:, 0]}

    def updated(updates: int, network: Any, _: Any) -> Any:
        recurrent, inputs, bias, matrix, offset = (network[name] for name in NAMES)
        batch = Sample(network["xs"], network["targets"][:, None])
        chain = optimizer(spec, member(0))
        params = Params(VanillaParams(recurrent, inputs, bias), Readout(matrix, offset))

        def update(_, carry):
            params, state = carry
            changes, state = chain.update(loss_and_gradient(spec, params, batch)[1], state, params)
            return jax.tree.map(jax.numpy.add, params, changes), state

        params, _ = lax.fori_loop(0, updates, update, (params, chain.init(params)))
        cell, readout = params.cell, params.readout
        arrays = (cell.recurrent, cell.input, cell.bias, readout.matrix, readout.bias)
        return dict(zip(NAMES, arrays, strict=True))

    def drawing(updates: int, seed: Any, _: Any) -> Any:
        learner = begin(spec, member(seed), None)
        return advance(spec, member(seed), None, learner, jax.numpy.int32(updates)).params.readout.bias

    return (
        lambda: chunks(ensemble.Program(start), seeds),
        lambda updates: partial(chunks, ensemble.Program(partial(updated, updates))),
        lambda updates: partial(chunks, ensemble.Program(partial(drawing, updates)), seeds),
    )


def plain(updates: int, start: Arrays) -> Callable[[], Arrays]:
    """`jax.vmap` of gradient descent through `jax.lax.scan`, every network in one program."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    def loss(params: Any, xs: Any, targets: Any) -> Any:
        def advance(h, x):
            return jnp.tanh(h @ params["recurrent"].T + x @ params["input"].T + params["bias"]), None

        last, _ = lax.scan(advance, jnp.zeros((BATCH, N)), xs)
        logits = jax.nn.log_softmax(last @ params["matrix"].T + params["offset"])
        return -jnp.mean(jnp.take_along_axis(logits, targets[:, None], axis=1))

    def train(params: Any, xs: Any, targets: Any) -> Any:
        def update(_, params):
            grads = jax.grad(loss)(params, xs, targets)
            norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))
            rate = RATE * jnp.minimum(THRESHOLD / (norm + 1e-6), 1.0)
            return jax.tree.map(lambda p, g: p - rate * g, params, grads)

        return lax.fori_loop(0, updates, update, params)

    program = jax.jit(jax.vmap(train))
    arguments = (
        {name: jnp.asarray(start[name]) for name in NAMES},
        jnp.asarray(start["xs"]),
        jnp.asarray(start["targets"]),
    )
    return lambda: jax.tree.map(np.asarray, program(*arguments))


def one_by_one(updates: int, start: Arrays) -> Callable[[], Arrays]:
    """`nn.RNN`, network after network."""
    torch: Any = import_module("torch")
    nn = torch.nn

    def train(index: int) -> list[np.ndarray]:
        rnn, readout = nn.RNN(start["input"].shape[2], N), nn.Linear(N, start["matrix"].shape[1])
        places = (rnn.weight_hh_l0, rnn.weight_ih_l0, rnn.bias_ih_l0, readout.weight, readout.bias)
        with torch.no_grad():
            rnn.bias_hh_l0.zero_().requires_grad_(False)
            for place, name in zip(places, NAMES, strict=True):
                place.copy_(torch.from_numpy(start[name][index]))
        xs, targets = torch.from_numpy(start["xs"][index]), torch.from_numpy(start["targets"][index]).long()
        descent = torch.optim.SGD(places, lr=RATE)
        for _ in range(updates):
            descent.zero_grad()
            nn.functional.cross_entropy(readout(rnn(xs)[0][-1]), targets).backward()
            nn.utils.clip_grad_norm_(places, THRESHOLD)
            descent.step()
        return [place.detach().numpy() for place in places]

    def call() -> Arrays:
        found = [train(index) for index in range(NETWORKS)]
        return dict(zip(NAMES, map(np.stack, zip(*found, strict=True)), strict=True))

    return call


def batched(updates: int, start: Arrays) -> Callable[[], Arrays]:
    """The whole ensemble as batched matrix products in PyTorch, U x_t taken for all steps at once."""
    torch: Any = import_module("torch")

    def call() -> Arrays:
        params = [torch.from_numpy(start[name].copy()).requires_grad_() for name in NAMES]
        xs = torch.from_numpy(start["xs"]).reshape(NETWORKS, T * BATCH, -1)
        targets = torch.from_numpy(start["targets"]).long().reshape(-1)
        for _ in range(updates):
            recurrent, inputs, bias, matrix, offset = params
            drives = torch.baddbmm(bias[:, None], xs, inputs.mT).reshape(NETWORKS, T, BATCH, N)
            transposed = recurrent.mT.contiguous()
            h = torch.zeros(NETWORKS, BATCH, N)
            for step in drives.unbind(1):
                h = torch.tanh(torch.baddbmm(step, h, transposed))
            outputs = torch.baddbmm(offset[:, None], h, matrix.mT).reshape(NETWORKS * BATCH, -1)
            # the sum over networks of each one's mean
            loss = torch.nn.functional.cross_entropy(outputs, targets, reduction="sum") / BATCH
            grads = torch.autograd.grad(loss, params)
            norm = torch.sqrt(sum((g * g).reshape(NETWORKS, -1).sum(1) for g in grads))
            rate = RATE * torch.clamp(THRESHOLD / (norm + 1e-6), max=1.0)
            with torch.no_grad():
                for p, g in zip(params, grads, strict=True):
                    p -= rate.reshape(-1, *[1] * (p.ndim - 1)) * g
        return dict(zip(NAMES, (p.detach().numpy() for p in params), strict=True))

    return call


_MADE_BY = dict(zip(PEERS, (plain, one_by_one, batched), strict=True))


def serve(peer: str, updates: int, folder: Path) -> None:
    """Train once and keep the parameters; then answer each line of the standard input with the seconds of a run."""
    with np.load(folder / "start.npz") as arrays:
        start = dict(arrays)
    call = _MADE_BY[peer](updates, start)
    best = None
    if peer.startswith("PyTorch"):
        torch: Any = import_module("torch")
        taken = {}
        for threads in {1, runtime.cpu_count()}:
            torch.set_num_threads(threads)
            call()
            taken[threads] = seconds(call)
        best = min(taken, key=lambda threads: taken[threads])
        torch.set_num_threads(best)
    np.savez(folder / f"{list(PEERS).index(peer)}.npz", **call())  # type: ignore[arg-type]
    print(best or "", flush=True)
    for _ in sys.stdin:
        print(seconds(call), flush=True)


@contextmanager
def served(peer: str, updates: int, folder: Path):
    """A call that gives the seconds of one run of `peer` in a process of its own, and its number of threads."""
    mine = {*machine.SETTINGS, "JAX_ENABLE_X64"}  # what `runtime.prepare` has set here
    environment = {key: value for key, value in os.environ.items() if key not in mine}
    command = [sys.executable, __file__, "--serve", peer, "--updates", str(updates), "--folder", str(folder)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        asked, answers = server.stdin, server.stdout

        def ask() -> float:
            print(file=asked, flush=True)
            return float(answers.readline())

        try:
            yield ask, answers.readline().strip()
        finally:
            asked.close()


def worst_difference(ours: Arrays, theirs: Arrays) -> float:
    """The largest difference of a parameter, as a share of the largest of its kind."""
    return max(float(np.abs(ours[name] - theirs[name]).max() / np.abs(ours[name]).max()) for name in NAMES)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=11, help="of every measurement (default 11, at least 5)")
    parser.add_argument("--updates", type=int, default=10, help="of every network in one measurement (default 10)")
    parser.add_argument("--quick", action="store_true", help="5 repeats of 3 updates")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.updates, options.folder)
        return
    if options.repeats < 5 or options.updates < 1:
        parser.error(f"--repeats, --updates: {options.repeats}, {options.updates}; allowed: at least 5, at least 1")
    repeats, updates = (5, 3) if options.quick else (options.repeats, options.updates)
    runtime.prepare()
    draw, updating, drawing = own_programs()
    screen = machine.console()
    machine.describe(screen, repeats, ("jax", "jaxlib", "numpy", "torch"))
    start = draw()
    own = partial(updating(updates), start)
    taken: dict[str, list[float]] = {name: [] for name in (OWN, DRAWING, *PEERS)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        np.savez(folder / "start.npz", **start)  # type: ignore[arg-type]
        calls: dict[str, Callable[[], float]] = {
            OWN: partial(seconds, own),
            DRAWING: partial(seconds, drawing(updates)),
        }
        ours = own()
        for place, peer in enumerate(PEERS):
            try:
                calls[peer], threads = stack.enter_context(served(peer, updates, folder))
                with np.load(folder / f"{place}.npz") as theirs:
                    difference = worst_difference(ours, dict(theirs))
            except (OSError, ValueError):
                raise SystemExit(f"{peer} did not start; PyTorch comes with pip install '.[bench]'") from None
            of = f", {threads} threads" if threads else ""
            screen.print(f"{peer}{of}: parameters differ by {difference:.1e} at most", markup=False)
            if not difference < 1e-4:  # some float32 roundings a step, over a hundred steps and a few updates
                raise SystemExit(f"{peer} trains another network; not timed")
        calls[DRAWING]()
        for _ in range(repeats):
            for name, call in calls.items():
                taken[name].append(call())
    table = Table(
        "", "ms per update and network", "times ours", "spread", "target",
        title=f"{NETWORKS} tanh networks, N = {N}, T = {T}, batch {BATCH}, float32",
    )  # fmt: skip
    for name, times in taken.items():
        low, ratio, high = np.percentile(np.array(times) / np.array(taken[OWN]), (25, 50, 75))
        target = PEERS.get(name)
        met = "" if target is None else f"at least {target:g}: {'met' if ratio >= target else 'missed'}"
        each = 1e3 * float(np.median(times)) / updates / NETWORKS
        table.add_row(name, f"{each:.2f}", f"{ratio:.2f}", f"{low:.2f} to {high:.2f}", met)
    screen.print(table)


if __name__ == "__main__":
    main()
