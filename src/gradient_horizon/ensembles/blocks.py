"""Thousands of networks in padded blocks of a fixed size, one block per device at a time.

A block always holds the same number of networks. Every network therefore goes through the same compiled code, and its
result is bit for bit the same whatever else is in the sweep and however many devices there are.
"""

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from gradient_horizon.ensembles import batch_last_vmap, process
from gradient_horizon.ensembles.block_size import block_size
from gradient_horizon.numerics.arrays import PyTree

Measure = Callable[[Any, Any], Any]  # measure(network, constants) -> arrays, for one network


class Shapes(NamedTuple):
    """The structure, shapes and dtypes of a tree of arrays; flat, because some trees accept only arrays as leaves."""

    structure: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]


def shapes_of(tree: PyTree) -> Shapes:
    """The `Shapes` of a tree of arrays."""
    leaves, structure = jax.tree.flatten(tree)
    return Shapes(structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves))


def together(*parts: Shapes) -> Shapes:
    """The `Shapes` of a tuple of trees, from those of its parts."""
    structure = jax.tree_util.treedef_tuple([part.structure for part in parts])
    return Shapes(structure, tuple(leaf for part in parts for leaf in part.leaves))


@runtime_checkable
class Stage(Protocol):
    """One stage of the work on a chunk of networks (see `Program`)."""

    def __call__(self, networks: PyTree, constants: PyTree, /) -> PyTree: ...

    def shapes(self, networks: Shapes, constants: PyTree, /) -> Shapes: ...

    def memory(self, networks: PyTree, constants: PyTree, /) -> int: ...


class Program:
    """`measure` applied to one block of networks on each device; all leaves have shape (devices · block, ...).

    `width`, a divisor of the block, is the number of networks that share the processor's vector lanes
    (`batch_last_vmap`); with 1 there is no sharing.
    """

    def __init__(self, measure: Measure, width: int = 1):
        mesh = jax.make_mesh((jax.device_count(),), ("networks",), axis_types=(AxisType.Auto,))
        split, whole = PartitionSpec("networks"), PartitionSpec()
        # check_vma=False, because the check rejects a scan whose carry starts from a constant (jax 0.10)
        block = jax.vmap(measure, in_axes=(0, None)) if width == 1 else batch_last_vmap.vmap(measure, width)

        def unflattened(tree: Any, leaves: list[Any], constants: PyTree) -> PyTree:
            fixed, fixed_tree = jax.tree.flatten(constants)
            each = len(leaves[0]) // jax.device_count()

            shapes = [jax.ShapeDtypeStruct((each, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]

            def on_one_device(own: list[Any], own_fixed: list[Any]) -> PyTree:
                networks = jax.tree.unflatten(tree, _put_back(own, shapes))
                return block(networks, jax.tree.unflatten(fixed_tree, _put_back(own_fixed, fixed)))

            mapped = jax.shard_map(on_one_device, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False)
            return mapped(_with_entries(leaves), _with_entries(fixed))

        options = process.compiler_options() if jax.default_backend() == "cpu" else {}
        self._compiled = jax.jit(unflattened, static_argnums=0, compiler_options=options or None)
        self._memory: dict[Hashable, int] = {}
        self._shapes: dict[Hashable, Shapes] = {}

    def __call__(self, networks: PyTree, constants: PyTree) -> PyTree:
        """The result of `measure` for each of the networks."""
        leaves, tree = jax.tree.flatten(networks)
        return self._compiled(tree, leaves, constants)

    def shapes(self, networks: Shapes, constants: PyTree) -> Shapes:
        """The shapes of the result of a call, which is not run."""
        key = networks, shapes_of(constants)
        if key not in self._shapes:
            structure = None

            def call(leaves: list[Any]) -> list[Any]:
                nonlocal structure
                results, structure = jax.tree.flatten(self(jax.tree.unflatten(networks.structure, leaves), constants))
                return results

            leaves = tuple(jax.eval_shape(call, [*networks.leaves]))
            self._shapes[key] = Shapes(structure, leaves)
        return self._shapes[key]

    def known_memory(self, networks: Shapes, constants: PyTree) -> int | None:
        """The result of `memory` for networks of these shapes; None if it has not been computed yet."""
        return self._memory.get((networks, shapes_of(constants)))

    def memory(self, networks: PyTree, constants: PyTree) -> int:
        """Bytes that a call takes on all devices; 0 if unknown. The call reuses what is compiled here."""
        key = shapes_of(networks), shapes_of(constants)
        if key not in self._memory:
            leaves, tree = jax.tree.flatten(networks)
            analysis = self._compiled.lower(tree, leaves, constants).compile().memory_analysis()
            sizes = ("argument", "output", "temp")
            each = sum(getattr(analysis, f"{size}_size_in_bytes") for size in sizes) if analysis else 0
            self._memory[key] = each * jax.device_count()
        return self._memory[key]


def _with_entries(arrays: Sequence[Any]) -> list[Any]:
    """Drop empty arrays, such as U of a network without inputs.

    Not every jaxlib accepts an empty array as an argument of a program on several devices.
    """
    return [array for array in arrays if array.size]


def _put_back(nonempty: Sequence[Any], shapes: Sequence[Any]) -> list[Any]:
    """Arrays of these `shapes` and dtypes: the `nonempty` ones in order, and the empty ones made anew."""
    rest = iter(nonempty)
    return [next(rest) if math.prod(one.shape) else jnp.zeros(one.shape, one.dtype) for one in shapes]


def map_blocks(
    stages: Sequence[Stage],
    block: int,
    networks: PyTree,
    constants: PyTree = None,
    check: Callable[[int], None] | None = None,
    threads: int = 1,
) -> Iterator[tuple[slice, PyTree]]:
    """Run `stages` over `networks` (leaves with one leading axis), yielding finished chunks in order.

    Each stage takes the result of the one before, and starts only once that is ready: CPU devices share one pool of
    threads, in which a program must not wait for another one. The last chunk is padded with its own last network, and
    the padding is cut off again. Before a stage runs for the first time, `check` is called with the bytes it takes, and
    may raise.

    `threads`: how many chunks are computed at the same time. More than 1 only on a single device, and only if no
    product is large enough to be split over that pool (2¹⁵ entries): two programs may then wait for it for a minute.
    """
    chunk = block * jax.device_count()
    total = len(jax.tree.leaves(networks)[0])

    def compute(start: int) -> tuple[slice, PyTree]:
        rows = slice(start, min(start + chunk, total))
        is_full = rows.stop - rows.start == chunk
        places = rows if is_full else np.minimum(np.arange(start, start + chunk), rows.stop - 1)
        values = jax.tree.map(lambda leaf: leaf[places], networks)
        for stage in stages:
            if check is not None and start == 0:
                check(stage.memory(values, constants))
            values = jax.block_until_ready(stage(values, constants))
        size = rows.stop - rows.start
        return rows, jax.tree.map(lambda leaf: np.asarray(leaf)[:size], values)

    starts = range(0, total, chunk)
    if threads == 1 or len(starts) == 1:
        yield from map(compute, starts)
        return
    yield compute(0)  # compiles
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(compute, start) for start in starts[1 : 1 + threads])
        for start in starts[1 + threads :]:
            yield waiting.popleft().result()
            waiting.append(pool.submit(compute, start))
        while waiting:
            yield waiting.popleft().result()


def gather(chunks: Iterator[tuple[slice, PyTree]], total: int, report: Callable[[float], None] | None = None) -> PyTree:
    """Join the chunks of `map_blocks`; `report` is called for each one with the number of networks that it finished."""
    result = None
    for rows, values in chunks:
        if result is None:
            result = jax.tree.map(lambda leaf: np.empty((total, *leaf.shape[1:]), leaf.dtype), values)
        for whole, part in zip(jax.tree.leaves(result), jax.tree.leaves(values), strict=True):
            whole[rows] = part
        if report is not None:
            report(rows.stop - rows.start)
    return result


def map_networks(measure: Callable[[Any], Any] | Program, networks: PyTree, *, block: int | None = None) -> PyTree:
    """`measure(network)` for each of many networks: `jax.vmap` for thousands of them, in a fixed amount of memory.

        networks = {"W": weights, "h0": states}  # (networks, n, n) and (networks, n)

        def measure(network):
            return log_jacobian_norms(step, network["W"], network["h0"], steps=100)["frobenius"]

        log_norms = map_networks(measure, networks)  # (networks, 100)

    The networks are computed in blocks of a fixed size, one block per device at a time; the last block is padded. A
    network's result therefore has the same bits whatever other networks there are, and on any number of devices (see
    `prepare` for one device per core).

    **Arguments:**

    - `measure`: a function of one network that JAX can trace, from a pytree of arrays to a pytree of arrays. It is
      compiled at every call of `map_networks`; to compile it only once, pass the same `Program` each time.
    - `networks`: a pytree of arrays whose leading axis counts the networks.
    - `block`: the number of networks in a block. None: `block_size` of a network whose largest array is an n × n
      matrix. Fewer take less memory, for example if T is in the thousands; results may then differ in their last
      digits.

    **Returns:** NumPy arrays, each with the networks along its leading axis.

    **Raises:** `ValueError` if there are no networks, or if the leading axes differ.
    """
    leaves = [np.asarray(leaf) if np.isscalar(leaf) else leaf for leaf in jax.tree.leaves(networks)]
    totals = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(totals) != 1 or 0 in totals:
        raise ValueError(f"networks: leading axes {sorted(totals)}; allowed: one number of networks for every array")
    program = measure if isinstance(measure, Program) else Program(lambda network, _: measure(network))
    chunks = map_blocks([program], _block_of(leaves) if block is None else block, networks)
    return gather(chunks, totals.pop())


def _block_of(leaves: Sequence[Any]) -> int:
    """`block_size` of networks with these arrays, the largest of which is treated as a square matrix."""
    n = math.isqrt(max(1, *(math.prod(leaf.shape[1:]) for leaf in leaves)) - 1) + 1
    precision = "float64" if any(leaf.dtype == np.float64 for leaf in leaves) else "float32"
    return block_size(n, 1, precision=precision, backend=jax.default_backend())
