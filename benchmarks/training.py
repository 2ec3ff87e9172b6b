"""Training an ensemble, compared with what a user would write instead.

The timed work is updates of 64 tanh networks, N = 50, T = 100, 20 sequences of temporal order per update,
cross-entropy, the global norm clipped at 1 by c/(n + 1e-6), plain gradient descent, float32. Sequences are drawn
beforehand, the same for all; compiling and warming up are not timed. "drawing too" is this project's own `advance`,
which draws fresh sequences for every update. A case names `updates` and `start`, the file with the initial parameters
and sequences.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from bench import Bench
from contestants import JAX, OWN, TORCH, Arrays, Case, Ready, fastest
from rows import LESS, MORE, Row, row

from gradient_horizon.ensembles import devices
from gradient_horizon.ensembles.block_size import training_block

NETWORKS, N, T, BATCH = 64, 50, 100, 20
RATE, THRESHOLD = 0.01, 1.0
NAMES = ("recurrent", "input", "bias", "matrix", "offset")
# process, maker, and target: the least multiple of our time
PEERS = {
    "plain vmap(grad(scan))": (JAX, "training.plain", 4.0),
    "PyTorch, nn.RNN one by one": (TORCH, "training.one_by_one", 12.0),
    "PyTorch, batched by hand": (TORCH, "training.batched", 10.0),
}
TOLERANCE = 1e-4  # a few float32 roundings per step, over a hundred steps and a few updates


def _programs() -> tuple[Callable[[], Arrays], Callable[[int], Callable[[Arrays], Arrays]], Callable[[int], Any]]:
    """Return functions that draw the networks and their sequences, update them on these, and update while drawing."""
    import jax
    from jax import lax

    from gradient_horizon.cells import VanillaParams, make_cell
    from gradient_horizon.ensembles import blocks
    from gradient_horizon.tasks import Sample, make_task
    from gradient_horizon.training import Member, TrainSpec, advance, begin
    from gradient_horizon.training.learner import optimizer
    from gradient_horizon.training.network import Params, Readout, drawn, loss_and_gradient, sequences

    task = make_task("temporal_order", T)
    spec = TrainSpec(make_cell("tanh", N, task.input_size), task, clip="book", batch_size=BATCH)
    block = training_block(N, T, BATCH)
    seeds = np.arange(NETWORKS, dtype=np.uint32)

    def member(seed: Any) -> Member:
        return Member(jax.random.key(seed), *(jax.numpy.float32(number) for number in (1.0, RATE, THRESHOLD)))

    def over(program: blocks.Program, networks: Any) -> Any:
        return blocks.map_networks(program, networks, block=block)

    def start(seed: Any, _: Any) -> Any:
        params = drawn(spec, member(seed))
        batch = sequences(spec, member(seed).key, BATCH, None)
        cell, readout = params.cell, params.readout
        arrays = (cell.recurrent, cell.input, cell.bias, readout.matrix, readout.bias)
        return {**dict(zip(NAMES, arrays, strict=True)), "xs": batch.xs, "targets": batch.targets[:, 0]}

    def update_all(updates: int, network: Any, _: Any) -> Any:
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
        lambda: over(blocks.Program(start), seeds),
        lambda updates: partial(over, blocks.Program(partial(update_all, updates))),
        lambda updates: partial(over, blocks.Program(partial(drawing, updates)), seeds),
    )


def _plain(updates: int, start: Arrays) -> Callable[[], Arrays]:
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


def _one_by_one(updates: int, start: Arrays) -> Callable[[], Arrays]:
    """`nn.RNN`, one network at a time."""
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
        networks = [train(index) for index in range(NETWORKS)]
        return dict(zip(NAMES, map(np.stack, zip(*networks, strict=True)), strict=True))

    return call


def _batched(updates: int, start: Arrays) -> Callable[[], Arrays]:
    """The whole ensemble as batched matrix products in PyTorch, with U x_t computed for all steps at once."""
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
            # the sum over networks of the mean of each
            loss = torch.nn.functional.cross_entropy(outputs, targets, reduction="sum") / BATCH
            grads = torch.autograd.grad(loss, params)
            norm = torch.sqrt(sum((g * g).reshape(NETWORKS, -1).sum(1) for g in grads))
            rate = RATE * torch.clamp(THRESHOLD / (norm + 1e-6), max=1.0)
            with torch.no_grad():
                for p, g in zip(params, grads, strict=True):
                    p -= rate.reshape(-1, *[1] * (p.ndim - 1)) * g
        return dict(zip(NAMES, (p.detach().numpy() for p in params), strict=True))

    return call


def start(_: Case) -> Ready:
    """Parameters and sequences of each network, with which all contestants begin."""
    arrays = _programs()[0]()
    return Ready(lambda: arrays, lambda found: found)


def _start_of(case: Case) -> Arrays:
    with np.load(case["start"]) as arrays:
        return dict(arrays)


def own(case: Case) -> Ready:
    """This project's gradients and clip rule."""
    updating = _programs()[1](case["updates"])
    arrays = _start_of(case)
    return Ready(lambda: updating(arrays), lambda found: found)


def drawing(case: Case) -> Ready:
    """This project, drawing fresh sequences for every update; there are no parameters to compare."""
    return Ready(_programs()[2](case["updates"]), lambda _: {})


def plain(case: Case) -> Ready:
    """`jax.vmap` of gradient descent through `jax.lax.scan`."""
    return Ready(_plain(case["updates"], _start_of(case)), lambda found: found)


def _on_threads(call: Callable[[], Arrays]) -> Ready:
    """Use PyTorch with one thread or with all, whichever is faster."""
    torch: Any = import_module("torch")

    def on(threads: int) -> Arrays:
        torch.set_num_threads(threads)
        return call()

    name, best = fastest({f"{threads} threads": partial(on, threads) for threads in sorted({1, devices.cpu_count()})})
    return Ready(best, lambda found: found, name)


def one_by_one(case: Case) -> Ready:
    """`nn.RNN`, one network at a time."""
    return _on_threads(_one_by_one(case["updates"], _start_of(case)))


def batched(case: Case) -> Ready:
    """The whole ensemble as batched products in PyTorch."""
    return _on_threads(_batched(case["updates"], _start_of(case)))


def worst_difference(ours: Arrays, theirs: Arrays) -> float:
    """Return the largest difference of a parameter, relative to the largest of its kind."""
    return max(float(np.abs(ours[name] - theirs[name]).max() / np.abs(ours[name]).max()) for name in NAMES)


def rows(bench: Bench) -> list[Row]:
    """Return the ratio to each peer, and this project's own time."""
    updates = 4 if bench.quick else 20
    process = bench.process(OWN)
    case = {"updates": updates, "start": str(process.prepare("training.start", {}).path)}
    calls = {OWN: process.prepare("training.own", case), "drawing": process.prepare("training.drawing", case)}
    ours = calls[OWN].arrays()
    for name, (kind, maker, _) in PEERS.items():
        calls[name] = bench.process(kind).prepare(maker, case)
        bench.agreed(name, worst_difference(ours, calls[name].arrays()), TOLERANCE, calls[name].note)
    taken = bench.alternate(calls)
    size = f"{NETWORKS} networks, N = {N}, T = {T}"
    each = {name: 1e3 * taken[name] / updates / NETWORKS for name in (OWN, "drawing")}
    return [
        *(
            row("training", f"training: times as fast as {name}", size, taken[name] / taken[OWN], MORE, target)
            for name, (_, _, target) in PEERS.items()
        ),
        row("training", "training: an update of a network", size, each[OWN], LESS, unit="ms"),
        row("training", "training: the same, drawing sequences too", size, each["drawing"], LESS, unit="ms"),
    ]
