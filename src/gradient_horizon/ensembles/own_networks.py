"""Any measure of any step over thousands of networks, in blocks on all devices.

A network is drawn or given, rolled out, and measured, each by a program of its own, so that every measurement sees the
same states. The measure first runs without its careful branches (see `fallback`); networks whose results are suspect
are measured again with more care, and only those. A result is therefore as exact as that of a single call, and no
block pays for care that it does not need.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon.ensembles import blocks
from gradient_horizon.ensembles.arguments import Argument
from gradient_horizon.ensembles.block_size import batch_last_width, block_size
from gradient_horizon.ensembles.devices import cpu_count
from gradient_horizon.ensembles.lanes import gains_from_lanes
from gradient_horizon.ensembles.task import Task, arrays_of, drawn, measured, rolled
from gradient_horizon.measures import jacobian_norms
from gradient_horizon.measures.states import layout_of
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.numerics.fingerprint import NotComparableError, fingerprint

_MOST_MADE = 128
_MOST_CARE = 3  # levels of care that leave out what is not needed; beyond, each network decides for itself
_LARGEST_PRODUCT = 2**15  # entries of one that XLA does not split over threads
_MOST_BYTES = 2**27  # of one block's arguments and results
_made: OrderedDict[Hashable, Any] = OrderedDict()  # programs and plans
_lock = threading.Lock()


class Draws(NamedTuple):
    """How networks are drawn: the numbers from which each one's key is made, and its values of further parameters."""

    key: Any  # (networks, k): integers folded into the seed's key one after another; or each network's key itself
    values: dict[str, np.ndarray]  # by parameter of the drawing functions
    is_key: bool
    key_type: Any  # of keys that are given: their implementation, or None for raw ones
    seed: int


def _identity(task: Task) -> Hashable | None:
    """A key that equal tasks share; None if it cannot be decided what the functions read."""
    try:
        parts = fingerprint((task.measure, task.keywords, task.step, [(*one,) for one in task.arguments]))
    except NotComparableError:
        return None
    return parts, task.interface, task.steps, task.rescale, str(task.key_type), task.is_key


def _kept(key: Hashable | None, make: Callable[[], Any]) -> Any:
    """What `make` returns, made once for each key that is not None."""
    if key is None:
        return make()
    with _lock:
        if key not in _made:
            _made[key] = make()
            if len(_made) > _MOST_MADE:
                _made.popitem(last=False)
        _made.move_to_end(key)
        return _made[key]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


def _check_step(task: Task, one: Any, many: Any, constants: Any) -> None:
    """Raise `ValueError` if the step fails for the first network; `many` are all of them."""
    shapes: list[tuple[int, ...]] = []  # of the state of one network

    def at_first(network: Any, constants: Any) -> list[Any]:
        params, h0, xs = task.network(_with_draws(task, network, constants), constants)
        shapes[:] = map(jnp.shape, jax.tree.leaves(h0))
        return jax.tree.leaves(task.step_function(params, h0, jax.tree.map(lambda leaf: leaf[0], xs)))

    try:
        jax.eval_shape(at_first, one, constants)
    except Exception as error:
        described = ", ".join(map(str, shapes)) or "()"
        total = len(jax.tree.leaves(many)[0])
        if _takes_all(task, many, constants, total):
            every = ", ".join(str((total, *shape)) for shape in shapes)
            raise ValueError(
                f"step: is written for all networks at once, h of shape {every}; allowed: a step of one network, "
                f"h of shape {described}"
            ) from error
        raise ValueError(f"step: fails for one network, h of shape {described}: {_first_line(error)}") from error


def _with_draws(task: Task, network: Any, constants: Any) -> Any:
    return network if network[1] is None else drawn(task, network, constants)


def _takes_all(task: Task, many: Any, constants: Any, total: int) -> bool:
    """True if the step accepts the states of all networks together, and returns as many."""

    def of_all(time_axis: int, networks: Any, constants: Any) -> jax.Array:
        if networks[1] is not None:
            networks = jax.vmap(partial(drawn, task), in_axes=(0, None))(networks, constants)
        params, h0, xs = task.network(networks, constants)
        if not jax.tree.leaves(networks[0][1]):  # one initial state for all
            h0 = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (total, *leaf.shape)), h0)
        after = task.step_function(params, h0, jax.tree.map(lambda leaf: jnp.take(leaf, 0, time_axis), xs))
        fits.append([*map(jnp.shape, jax.tree.leaves(after))] == [*map(jnp.shape, jax.tree.leaves(h0))])
        return jnp.zeros(())

    fits: list[bool] = []
    for time_axis in (0, 1):  # of inputs that are shared, or of each network's own
        with suppress(Exception):
            jax.eval_shape(partial(of_all, time_axis), many, constants)
    return any(fits)


class _Plan(NamedTuple):
    """How networks are cut, from what one of them is; see `block_size`."""

    block: int
    width: int  # of the rollout
    width_of_measure: int
    is_small: bool  # no product is so large that XLA would split it over threads
    result: Any  # what the measure returns of one network, as shapes


def _plan(task: Task, one: Any, constants: Any, block: int | None) -> _Plan:
    """How networks like the first `one` are cut. Raises `ValueError`, in one line, for what cannot work."""
    plans: list[_Plan] = []
    backend = jax.default_backend()

    def probe(network: Any, constants: Any) -> list[Any]:
        network = _with_draws(task, network, constants)
        params, h0, xs = task.network(network, constants)
        layout, length = layout_of(h0), task.length(xs)
        trajectory = rollout(task.step_function, params, h0, xs, steps=task.steps, rescale=task.rescale)
        result = arrays_of(task.call(params, h0, xs, trajectory))
        precision = "float64" if layout.dtype == np.float64 else "float32"
        size = block or block_size(layout.size, length, precision=precision, backend=backend)
        arrays = [leaf for leaf in jax.tree.leaves((network[0], trajectory, result)) if hasattr(leaf, "dtype")]
        each = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in arrays)
        while block is None and size > 1 and size * each > _MOST_BYTES:
            size //= 2
        width = batch_last_width(layout.size, size, precision=precision, backend=backend)
        x = jax.tree.map(lambda leaf: leaf[0], xs)
        width = math.gcd(width, size) if width > 1 and gains_from_lanes(task.step_function, params, h0, x) else 1
        sizes = [leaf.size for leaf in jax.tree.leaves(params) if hasattr(leaf, "dtype")]
        is_small = size * max([layout.size**2, *sizes]) <= _LARGEST_PRODUCT
        is_small = is_small and task.measure is jacobian_norms.log_jacobian_norms
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), result)
        plans.append(_Plan(size, width, width if _is_products_alone(task) else 1, is_small, shapes))
        return jax.tree.leaves(result)

    jax.eval_shape(probe, one, constants)
    return plans[-1]


def _is_products_alone(task: Task) -> bool:
    """True for norms that need only products and loops, the measurement that gains from vector lanes."""
    return (
        task.measure is jacobian_norms.log_jacobian_norms
        and tuple(task.keywords.get("norms", ("frobenius",))) == ("frobenius",)
        and task.keywords.get("method", "auto") != "jacrev"
    )


class Ensemble:
    """Networks, and what is measured of them.

    `results` are arrays with a leading axis for the networks, of which the first `done` have been measured; `suspect`
    marks those that have yet to be measured again with more care.
    """

    def __init__(
        self, task: Task, arguments: Sequence[Argument], draws: Draws | None, total: int, block: int | None = None
    ):
        self.task, self.total, self.done = task, total, 0
        self.results: Any = None
        self.suspect = np.zeros(total, bool)
        own = tuple(argument.own for argument in arguments)
        self._networks = (own, None) if draws is None else (own, {"key": draws.key, "values": draws.values})
        self._constants = tuple(argument.shared for argument in arguments), np.uint32(draws.seed if draws else 0)
        self._identity = _identity(task)
        one = jax.tree.map(lambda leaf: leaf[0], self._networks)
        shapes = blocks.shapes_of((one, self._constants))
        with_64_bits = jnp.result_type(float) == jnp.float64
        known = None if self._identity is None else ("plan", self._identity, shapes, block, with_64_bits)
        self.plan: _Plan = _kept(known, partial(self._planned, one, block))

    def _planned(self, one: Any, block: int | None) -> _Plan:
        _check_step(self.task, one, self._networks, self._constants)
        return _plan(self.task, one, self._constants, block)

    def _stages(self, care: int | None) -> list[blocks.Program]:
        stages: list[tuple[Callable[..., Any], tuple[Any, ...], int]] = []
        if self._networks[1] is not None:
            stages.append((drawn, (), 1))
        if self.task.interface.sees_trajectory:
            stages.append((rolled, (), self.plan.width))
        stages.append((measured, (care,), self.plan.width_of_measure if care == 0 else 1))
        return [
            _kept(
                None if self._identity is None else (function, arguments, width, self._identity),
                partial(blocks.Program, partial(function, self.task, *arguments), width),
            )
            for function, arguments, width in stages
        ]

    def run(self, report: Callable[[int], Any] | None = None) -> Any:
        """Measure all networks and return the results; `report` is called with the networks done after each chunk."""
        try:
            chunks = self._chunks(0, self._networks)
            self._fill(chunks, np.arange(self.total), report)
            care: int | None = 0
        except jax.errors.UnexpectedTracerError:  # the measure calls another one inside a transformation
            care = None
            self._fill(self._chunks(care, self._networks), np.arange(self.total), report)
        while care is not None and self.suspect.any():
            care = care + 1 if care < _MOST_CARE else None
            places = np.flatnonzero(self.suspect)
            again = jax.tree.map(lambda leaf, places=places: leaf[places], self._networks)
            self._fill(self._chunks(care, again), places, None)
        return self.results

    def _chunks(self, care: int | None, networks: Any) -> Any:
        is_single = jax.default_backend() == "cpu" and jax.device_count() == 1
        threads = cpu_count() if is_single and self.plan.is_small and care == 0 else 1
        return blocks.map_blocks(self._stages(care), self.plan.block, networks, self._constants, threads=threads)

    def _fill(self, chunks: Any, places: np.ndarray, report: Callable[[int], Any] | None) -> None:
        """Store the results of the networks at `places`."""
        is_first = report is not None or len(places) == self.total
        for rows, (values, suspect) in chunks:
            if self.results is None:
                self.results = jax.tree.map(lambda leaf: np.empty((self.total, *leaf.shape[1:]), leaf.dtype), values)
            for whole, part in zip(jax.tree.leaves(self.results), jax.tree.leaves(values), strict=True):
                whole[places[rows]] = part
            self.suspect[places[rows]] = suspect
            if is_first and self.done < self.total:
                self.done = rows.stop
                if report is not None:
                    report(self.done)

    def measured(self) -> Any:
        """The results of the networks measured so far, NaN for those that have yet to be measured again."""
        if self.results is None:
            return None
        unsure = self.suspect[: self.done]

        def safe(leaf: np.ndarray) -> np.ndarray:
            leaf = leaf[: self.done].copy()
            if np.issubdtype(leaf.dtype, np.inexact):
                leaf[unsure] = np.nan
            return leaf

        return jax.tree.map(safe, self.results)
