"""The networks of a job, one per point of its axes: computed in chunks, resumed from checkpoints, and labelled.

A *block* is compiled together for one device, a *chunk* is a block on every device, and a *slab* is held in memory at
once.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon.ensembles import blocks
from gradient_horizon.names.rules import SettingError
from gradient_horizon.numerics.arrays import available
from gradient_horizon.store.checkpoints import Checkpoints

# A slab is the number of networks measured before they are labelled and written: about `SLAB` bytes of results, but at
# least `SLAB_CHUNKS` chunks, as the last is padded. Meanwhile each byte exists `HELD` times: in checkpoints, logs and
# files.
SLAB, SLAB_CHUNKS, HELD = 2**26, 16, 8
_SMALLEST_DRAWN = 46  # bits: entries of W⁰ below 2^-46, about 1e-14, are never drawn

# Plot labels of the axes.
AXES = {
    "learning_rate": "learning rate",
    "clip_threshold": "clip threshold",
    "weight_scale": "weight scale g",
    "seed": "seed",
}


@lru_cache(maxsize=64)
def program(function: Callable[..., Any], *arguments: Any, width: int = 1) -> blocks.Program:
    """Compile `function`, with `arguments` bound first, for a block of networks on each device.

    Cached: the same arguments give the same program.
    """
    return blocks.Program(partial(function, *arguments), width)


class NetworkGrid:
    """The networks at all points of `axes`, the last axis varying fastest. Seeds are uint32, all else has `precision`.

    `block` networks share a compiled block on one device; `constants` are the same for every network.
    """

    def __init__(
        self,
        axes: Mapping[str, Sequence[float]],
        block: int,
        *,
        precision: str,
        constants: Any = None,
        checkpoints: Checkpoints | None = None,
    ):
        available(precision)
        self.axes = {name: list(values) for name, values in axes.items()}
        self.block = block
        self.shape = tuple(len(values) for values in self.axes.values())
        self.total = math.prod(self.shape)
        self._constants, self._checkpoints = constants, checkpoints
        self._columns = {
            name: np.asarray(values, np.uint32 if name == "seed" else precision) for name, values in self.axes.items()
        }

    @cached_property
    def networks(self) -> dict[str, np.ndarray]:
        """The values of every network along each axis."""
        places = np.unravel_index(np.arange(self.total), self.shape)
        return {name: column[place] for (name, column), place in zip(self._columns.items(), places, strict=True)}

    def every(self, stages: Sequence[blocks.Stage], report: Callable[[float], None]) -> Any:
        """Return the output of the last of `stages` for every network, along a leading axis.

        Calls `report` after each chunk. Networks already in the job's checkpoints are read from there; the others are
        computed and added to them. With checkpoints, raises `SettingError` if memory is too small for even one chunk.
        """
        kept = self._checkpoints
        chunks = self._chunks(stages, self.networks) if kept is None else self._resumed(kept, stages)
        return blocks.gather(chunks, self.total, report)

    def slab_size(self, stages: Sequence[blocks.Stage], budget: int) -> int | None:
        """Return how many networks a slab holds if `budget` bytes may be filled; None if all networks fit into one.

        Their results may take half of the memory; the other half is for computing them.
        """
        chunk = self.block * jax.device_count()
        of_chunk = self._shapes(stages).leaves
        each = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in of_chunk) // chunk
        most = max(chunk, min(budget // (2 * HELD * each), max(SLAB // each, SLAB_CHUNKS * chunk)))
        return None if self.total <= most else most

    def over(self, stages: Sequence[blocks.Stage], networks: Mapping[str, np.ndarray]) -> Any:
        """Return the output for `networks`, given by their values along the axes, without using the checkpoints."""
        return blocks.gather(self._chunks(stages, networks), len(networks["seed"]))

    def at(self, places: Any) -> dict[str, np.ndarray]:
        """Return the values along the axes of the networks at `places`."""
        return {name: values[places] for name, values in self.networks.items()}

    def refuse_underflow(self, zeros: blocks.Program) -> None:
        """Raise `SettingError` for a weight scale at which an entry of W would be below the smallest normal number.

        XLA would flush that entry to 0, which gives a different network. `zeros` counts the parameters of a network
        that are 0.
        """
        dtype = self._columns["weight_scale"].dtype
        tiny = float(np.finfo(dtype).tiny)
        suspect = [scale for scale in self.axes["weight_scale"] if 0 < scale < tiny * 2**_SMALLEST_DRAWN]
        if not suspect:
            return
        seeds = np.asarray(self.axes["seed"], np.uint32)

        def count(scale: float) -> np.ndarray:
            networks = {name: np.full(len(seeds), column[0]) for name, column in self._columns.items()}
            networks |= {"seed": seeds, "weight_scale": np.full(len(seeds), scale, dtype)}
            return np.asarray(self.over([zeros], networks))

        ordinary = count(1.0)
        for scale in suspect:
            if np.any(count(scale) > ordinary):
                allowed = f"0, or scales at which no entry of W is below {tiny:.2g}, the smallest {dtype.name}"
                wider = "; or precision=float64" if dtype == np.float32 else ""
                raise SettingError("weight_scales", scale, allowed + wider)

    def _chunks(
        self,
        stages: Sequence[blocks.Stage],
        networks: Mapping[str, np.ndarray],
        check: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[slice, Any]]:
        return blocks.map_blocks(stages, self.block, networks, self._constants, check)

    def _resumed(self, kept: Checkpoints, stages: Sequence[blocks.Stage]) -> Iterator[tuple[slice, Any]]:
        structure = self._shapes(stages).structure
        done = 0
        for places, leaves in kept.stored():
            yield places, jax.tree.unflatten(structure, leaves)
            done = places.stop
        if done == self.total:
            return
        try:
            for chunk, values in self._chunks(stages, self.at(slice(done, None)), partial(self._check, kept.budget)):
                places = slice(done + chunk.start, done + chunk.stop)
                kept.add(places, jax.tree.leaves(values))
                yield places, values
        except BaseException:  # interrupted or failed: keep what is finished
            kept.flush()
            raise

    def _shapes(self, stages: Sequence[blocks.Stage]) -> blocks.Shapes:
        """Return the shapes of the last stage's output for a chunk, without computing it."""
        size = self.block * jax.device_count()
        shapes = blocks.shapes_of(
            {key: jax.ShapeDtypeStruct((size,), column.dtype) for key, column in self._columns.items()}
        )
        for stage in stages:
            shapes = stage.shapes(shapes, self._constants)
        return shapes

    def _check(self, budget: int, taken: int) -> None:
        if taken > budget:
            networks = f"{self.block} networks on each of {jax.device_count()} devices"
            least = f"at least {taken / 2**30:.2g} GiB, which {networks} take"
            allowed = f"{least}; or a smaller hidden_size, or fewer steps"
            raise SettingError("memory_budget", f"{budget / 2**30:.2g} GiB", allowed)

    def label(self, values: np.ndarray, *dims: str, title: str, units: str = "1", **more: Any) -> Any:
        """Return `values`, with networks along the leading axis, as a labelled variable along the axes and `dims`."""
        shaped = np.reshape(values, (*self.shape, *np.shape(values)[1:]))
        return (*self.axes, *dims), shaped, {"long_name": title, "units": units, **more}

    def coordinates(self) -> dict[str, Any]:
        """Return the axes as labelled coordinates."""
        return {name: (name, values, {"long_name": AXES[name], "units": "1"}) for name, values in self.axes.items()}


def zeros(params: Any) -> Any:
    """Count the entries of `params` that are 0, or below the smallest normal number, which XLA treats as 0."""
    return sum(jnp.sum(leaf == 0, dtype=jnp.int32) for leaf in jax.tree.leaves(params))
