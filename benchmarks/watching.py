"""Cost of a watch at its default settings, beside the training that it watches.

    python benchmarks/watching.py

A tanh network of 64 units reads 100 steps of 2 inputs in batches of 32, trained by optax with a plain scan; the watch
measures along four sequences after every 100 updates and looks at the parameters after each. Rounds of 100 updates with
and without the watch alternate in one process; the cost is the median ratio of neighbouring rounds, less 1, in
processor time of the whole process and in wall time. Compilation is left out.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import gradient_horizon as gh

N, STEPS, BATCH, PROBE, EVERY = 64, 100, 32, 4, 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    cell = gh.make_cell("tanh", N, 2)
    for_weights, for_data = jax.random.split(jax.random.key(0))
    params = {"cell": cell.init(for_weights), "readout": jnp.full(N, 0.1)}
    xs = jax.random.normal(for_data, (BATCH, STEPS, 2))

    def step(params, h, x):
        return cell.step(params["cell"], h, x)

    def loss(params, xs):
        def output(xs):
            return jax.lax.scan(lambda h, x: (step(params, h, x), None), jnp.zeros(N), xs)[0] @ params["readout"]

        return jnp.mean((jax.vmap(output)(xs) - xs[:, 0, 0]) ** 2)

    optimizer = optax.sgd(0.01)

    @jax.jit
    def train(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params, xs), state)
        return optax.apply_updates(params, updates), state

    watch = gh.Watch(step, xs[:PROBE], EVERY, jnp.zeros(N), loss)
    state = optimizer.init(params)

    def seconds(is_watched: bool) -> tuple[float, float]:
        """Processor and wall time of a round."""
        nonlocal params, state
        start, wall = time.process_time(), time.perf_counter()
        for _ in range(EVERY):
            params, state = train(params, state)
            if is_watched:
                watch(params)
        jax.block_until_ready(params)
        return time.process_time() - start, time.perf_counter() - wall

    for is_watched in (True, False, True):  # compiles
        seconds(is_watched)
    pairs = [(seconds(False), seconds(True)) for _ in range(rounds)]
    for name, clock in (("processor", 0), ("wall", 1)):
        plain = statistics.median(one[clock] for one, _ in pairs) / EVERY
        ratios = [watched[clock] / one[clock] - 1 for one, watched in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        print(
            f"{name} time: an update {1e3 * plain:.2f} ms; watched {100 * middle:+.1f} %, quartiles {100 * low:+.1f} to"
            f" {100 * high:+.1f} %, {rounds} pairs"
        )
    print(f"a measurement {1e3 * float(watch.table().seconds[2:].median()):.1f} ms")


if __name__ == "__main__":
    main()
