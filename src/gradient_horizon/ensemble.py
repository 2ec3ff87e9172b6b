"""Thousands of networks in fixed-size padded blocks, one block a device at a time.

A block always holds the same number of networks, so every network goes through the same compiled code and its
result is bit for bit the same whatever else is in the sweep and however many devices there are.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from gradient_horizon.arrays import PyTree

Measure = Callable[[Any, Any], Any]  # measure(network, constants) -> arrays, for one network
IN_FLIGHT = 3  # calls handed to the devices before the first one's result is awaited


def compile_blocks(measure: Measure, block: int) -> Callable[[PyTree, PyTree], PyTree]:
    """`measure` over `block` networks on each device: leaves of shape (devices · block, ...) in and out."""
    mesh = jax.make_mesh((jax.device_count(),), ("networks",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("networks"), PartitionSpec()
    # check_vma: a scan whose carry starts from a constant is refused with it (jax 0.10)
    return jax.jit(
        jax.shard_map(
            jax.vmap(measure, in_axes=(0, None)), mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False
        )
    )


def map_blocks(
    program: Callable[[PyTree, PyTree], PyTree], block: int, networks: PyTree, constants: PyTree = None
) -> Iterator[tuple[slice, PyTree]]:
    """Run a `compile_blocks` program over `networks` (leaves with one leading axis), yielding finished chunks in order.

    The last chunk is padded with its own last network; the padding is cut off again.
    """
    chunk = block * jax.device_count()
    total = len(jax.tree.leaves(networks)[0])
    waiting: deque[tuple[slice, PyTree]] = deque()

    def finish() -> tuple[slice, PyTree]:
        rows, values = waiting.popleft()
        return rows, jax.tree.map(lambda leaf: np.asarray(leaf)[: rows.stop - rows.start], values)

    for start in range(0, total, chunk):
        rows = slice(start, min(start + chunk, total))
        places = np.minimum(np.arange(start, start + chunk), rows.stop - 1)
        waiting.append((rows, program(jax.tree.map(lambda leaf: leaf[places], networks), constants)))
        if len(waiting) == IN_FLIGHT:
            yield finish()
    while waiting:
        yield finish()


def gather(chunks: Iterator[tuple[slice, PyTree]], total: int, report: Callable[[int], None] | None = None) -> PyTree:
    """The chunks of `map_blocks` put together; `report` is told how many networks each one finished."""
    result = None
    for rows, values in chunks:
        if result is None:
            result = jax.tree.map(lambda leaf: np.empty((total, *leaf.shape[1:]), leaf.dtype), values)
        for whole, part in zip(jax.tree.leaves(result), jax.tree.leaves(values), strict=True):
            whole[rows] = part
        if report is not None:
            report(rows.stop - rows.start)
    return result
