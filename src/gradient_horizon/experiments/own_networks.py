"""Thousands of a user's own networks, measured at the speed of the command line."""

import difflib
import inspect
import logging
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Number
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon.ensembles.arguments import NAMES, arguments_of, is_function
from gradient_horizon.ensembles.devices import cpu_count
from gradient_horizon.ensembles.own_networks import Draws, Ensemble
from gradient_horizon.ensembles.task import Task, interface_of, parameters_of
from gradient_horizon.experiments.own_labels import check_labels, is_labelled, labelled
from gradient_horizon.names import rules
from gradient_horizon.numerics.arrays import PyTree

_log = logging.getLogger(__name__)
_warned: set[str] = set()
_PAUSE = 10.0  # seconds between lines about progress where no bar is shown


def ensemble(
    measure: Callable[..., Any],
    step: Any,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    in_axes: Any = 0,
    networks: int | Sequence[int] | None = None,
    keys: Any = None,
    seed: int = 0,
    dims: str | Sequence[str] | None = None,
    coords: Mapping[str, Any] | None = None,
    steps: int | None = None,
    rescale: bool = False,
    block: int | None = None,
    progress: bool | Callable[[int], None] | None = None,
    **keywords: Any,
) -> Any:
    """`measure(step, params, h0, xs)` for each of thousands of networks, in blocks on all devices.

        norms = gh.ensemble(gh.log_jacobian_norms, step, params, h0, steps=200)  # params, h0: one leading axis
        norms["frobenius"]  # (networks, 200)

        data = gh.ensemble(  # drawn block by block: any number of networks in the memory of one block
            gh.log_jacobian_norms, step, init, h0, steps=200, in_axes=(0, None, None),
            coords={"weight_scale": np.linspace(0.5, 2, 16), "seed": range(64)},
        )  # init(key, weight_scale) -> params of one network; an xarray Dataset

    The networks are computed in blocks of a fixed size, one block per device at a time (`gh.prepare()` makes one device
    per core). A network's result has the same bits whatever other networks there are and on any number of devices.

    **Arguments:**

    - `measure`: a measure of this package, or a function of your own. It is called for one network, with those of
      `step`, `params`, `h0`, `xs`, `trajectory` and `steps` that it names among its parameters, or, if it names them
      otherwise, with the first four in this order; and with `keywords`. It returns an array or a pytree of arrays.
      `trajectory.states[t]` is h_t as a vector.
    - `step`: `step(params, h, x) -> h` of one network, or an object with such a method, for example a cell.
    - `params`, `h0`, `xs`: arrays with a network axis as given by `in_axes`, or shared by all networks; or a function
      that draws them for one network. `params(key)` receives the network's key, `h0(key)` and `xs(key)` keys of their
      own derived from it. Further parameters that have the name of a dimension receive the network's coordinate.
    - `in_axes`: as in `jax.vmap`: an integer, None (shared by all networks), or one of these, or a tree of them, for
      each of `params`, `h0` and `xs`.
    - `networks`, `seed`: how many networks to draw, and the seed of their keys. Network i is the same however many
      there are.
    - `keys`: the key of each network, instead.
    - `dims`: names of the network axes, such as `("weight_scale", "seed")`; arrays then have that many, next to each
      other. `coords`: values along them, by name (and further coordinates, as xarray takes them). With either of them
      the result is an xarray Dataset. Networks that are drawn have one key for each point of the dimensions that no
      function takes as a parameter: with `init(key, weight_scale)` as above, one for each seed, made from the value of
      `seed` alone (a whole number from 0 to 2^32 - 1, or, for words, its position), so that all scales share their
      random numbers.
    - `steps`: T, if `xs` is None. `rescale`: see `rollout`; for a step with step(c h) = c step(h), c > 0.
    - `block`: the number of networks in a block; None: chosen for the size of a network. Another number may change
      the last digits.
    - `progress`: True or False: show a bar on the terminal; None: if standard error is a terminal; or a function that
      is called with the number of networks done.
    - `keywords`: of the measure, the same for every network.

    **Returns:** what the measure returns, as NumPy arrays with the networks along the leading axis (with several
    `dims`, as a Dataset, along as many axes).

    **Accuracy:** that of a single call: networks for which the quick measurement may have lost something (see
    `log_jacobian_norms`) are measured again with more care, and only those.

    **Interrupts:** if an error or Ctrl-C ends it, the exception has a note with the number of networks done, and their
    results as its attribute `measured` (NaN for any that should have been measured again).

    **Raises:** `ValueError`, in one line, for arrays whose network axes differ, an `in_axes` that does not fit, no
    networks, a step that is written for all networks at once or returns another state than it takes, and a measure
    that returns something else than arrays.
    """
    if not callable(measure):
        raise ValueError(f"measure: {rules.shown(measure)}; allowed: a function, such as log_jacobian_norms")
    grid = _grid(networks, keys, dims, coords, seed, (params, h0, xs))
    arguments, shape = arguments_of((params, h0, xs), in_axes, len(grid.dims), grid.shape)
    if grid.shape is None and grid.sizes:
        for name, size in zip(grid.dims, shape, strict=True):
            if grid.sizes.get(name, size) != size:
                raise ValueError(f"coords: {grid.sizes[name]} values of {name}; allowed: {size}, one for each network")
    total = math.prod(shape)
    draws = _draws(grid, shape, (params, h0, xs)) if any(map(is_function, (params, h0, xs))) else None
    _check_keywords(keywords, block)
    task = Task(
        measure=measure,
        keywords=keywords,
        interface=interface_of(measure, keywords),
        step=step,
        arguments=tuple(argument.fixed for argument in arguments),
        steps=steps,
        rescale=rescale,
        key_type=draws.key_type if draws else None,
        is_key=draws.is_key if draws else False,
    )
    work = Ensemble(task, arguments, draws, total, block)
    if grid.has_labels:
        check_labels(measure, work.plan.result, grid.dims, shape, grid.coords, keywords)
    _say_what_is_lost()
    try:
        with _reporting(progress, total) as report:
            results = work.run(report)
        if grid.has_labels:
            data = labelled(measure, results, grid.dims, shape, grid.coords, keywords)
            results = data.assign_attrs(block_size=work.plan.block)
    except BaseException as error:
        error.add_note(
            f"gh.ensemble: {work.done} of {total} networks had been measured; they are this exception's `measured`"
        )
        error.measured = work.measured()  # type: ignore[attr-defined]
        raise
    return results


class _Grid(NamedTuple):
    """The network axes: their names, their sizes if known before the arrays are seen, and their coordinates."""

    dims: tuple[str, ...]
    shape: tuple[int, ...] | None
    sizes: dict[str, int]
    coords: dict[str, Any]
    keys: Any
    seed: int
    has_labels: bool


def _grid(networks: Any, keys: Any, dims: Any, coords: Any, seed: Any, arguments: Sequence[Any]) -> _Grid:
    has_labels = dims is not None or coords is not None
    coords = dict(coords or {})
    plain = {name: _values_along(name, values) for name, values in coords.items()}
    one_dimensional = {name: np.asarray(values) for name, values in plain.items() if np.ndim(values) == 1}
    if dims is None:
        dims = tuple(one_dimensional) or ("network",)
    dims = (dims,) if isinstance(dims, str) else tuple(dims)
    if not dims or len(set(dims)) < len(dims):
        raise ValueError(f"dims: {dims}; allowed: one or more names, each of them once")
    sizes = {name: len(values) for name, values in one_dimensional.items() if name in dims}
    if not rules.is_index(seed) or not 0 <= seed < 2**32:
        raise ValueError(f"seed: {seed!r}; allowed: a whole number from 0 to 2^32 - 1")
    is_drawn = any(map(is_function, arguments))
    if (networks is not None or keys is not None) and not is_drawn:
        name = "networks" if keys is None else "keys"
        raise ValueError(f"{name}: is for networks to draw, but params, h0 and xs are arrays; allowed: None")
    if networks is not None and keys is not None:
        raise ValueError("networks, keys: both are given; allowed: one of them")
    shape: tuple[int, ...] | None = None
    if keys is not None:
        shape = _key_shape(keys)
        if len(shape) != len(dims):
            raise ValueError(f"keys: of shape {shape}; allowed: one axis for each of dims {dims}")
    elif networks is not None:
        counts: list[Any] = (
            [*networks] if isinstance(networks, list | tuple | np.ndarray) and np.ndim(networks) else [networks]
        )
        if len(counts) != len(dims) or not all(rules.is_index(n) and n >= 1 for n in counts):
            raise ValueError(f"networks: {networks!r}; allowed: a number of at least 1 for each of dims {dims}")
        shape = tuple(map(int, counts))
    elif is_drawn and len(sizes) == len(dims):
        shape = tuple(sizes[name] for name in dims)
    for name, size in zip(dims, shape or (), strict=bool(shape)):
        if sizes.get(name, size) != size:
            raise ValueError(f"coords: {sizes[name]} values of {name}; allowed: {size}, one for each network")
    return _Grid(dims, shape, sizes, coords, keys, int(seed), has_labels)


def _values_along(name: str, values: Any) -> Any:
    """The values of a coordinate along the dimension of its own name; None for any other."""
    if not is_labelled(values):
        return values
    return values[1] if values[0] == name or [*values[0]] == [name] else None


def _key_shape(keys: Any) -> tuple[int, ...]:
    if isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        return keys.shape
    if not isinstance(keys, jax.Array | np.ndarray) or keys.dtype != np.uint32 or keys.ndim < 2:
        raise ValueError(f"keys: {type(keys).__name__}; allowed: an array of keys, as from jax.random.split")
    return keys.shape[:-1]


def _draws(grid: _Grid, shape: tuple[int, ...], arguments: Sequence[Any]) -> Draws:
    """The key and the values with which each network is drawn."""
    total, functions = math.prod(shape), [argument for argument in arguments if is_function(argument)]
    places = dict(zip(grid.dims, np.unravel_index(np.arange(total), shape), strict=True))
    columns = {name: np.asarray(_values_along(name, grid.coords[name])) for name in grid.sizes}
    taken = {name for function in functions for name in parameters_of(function, grid.dims)}
    values = {}
    for name in taken:
        column = columns.get(name, np.arange(shape[grid.dims.index(name)]))
        if column.dtype.kind not in "biufc":
            raise ValueError(f"coords: {name} is of {column.dtype}; allowed: numbers, as a function takes them")
        values[name] = column[places[name]]
    for function in functions:
        _check_function(function, values)
    _check_taken(columns, taken, arguments, grid.keys is not None)
    if grid.keys is not None:
        is_typed = not isinstance(grid.keys, np.ndarray) and jnp.issubdtype(grid.keys.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(grid.keys) if is_typed else grid.keys)
        kind = jax.random.key_impl(grid.keys) if is_typed else None
        return Draws(data.reshape(total, data.shape[-1]), values, is_key=True, key_type=kind, seed=grid.seed)
    numbers = [_key_numbers(name, columns.get(name), places[name]) for name in grid.dims if name not in taken]
    folded = np.stack(numbers, axis=1) if numbers else np.zeros((total, 1))
    return Draws(folded.astype(np.uint32), values, is_key=False, key_type=None, seed=grid.seed)


def _key_numbers(name: str, column: Any, places: np.ndarray) -> np.ndarray:
    """The number of each network along a dimension that makes the keys: its value or, for words, its position."""
    if column is None or not _is_numeric(column):
        return places
    numbers = column.astype(np.int64) if column.dtype.kind == "b" else column
    for value in numbers.tolist():
        if isinstance(value, complex) or not 0 <= value < 2**32 or value != int(value):
            raise ValueError(
                f"coords: {value!r} of {name}; allowed: whole numbers from 0 to 2^32 - 1, as keys are made"
            )
    return numbers.astype(np.int64)[places]


def _is_numeric(column: np.ndarray) -> bool:
    is_number = column.dtype == object and all(isinstance(value, Number) for value in column)
    return is_number or column.dtype.kind in "biufc"


def _check_taken(columns: Mapping[str, Any], taken: Collection[str], arguments: Sequence[Any], has_keys: bool) -> None:
    """Raise `ValueError` for coordinates that seem meant for a function, but are no parameter of any.

    Whole numbers may number the keys instead: those of one dimension whose name resembles no parameter.
    """
    known = {name: _optional(value) for name, value in zip(NAMES, arguments, strict=True) if is_function(value)}
    others = [parameter for parameters in known.values() for parameter in parameters if parameter not in taken]
    idle = {name: column for name, column in columns.items() if name not in taken and _is_numeric(column)}
    suspects = [name for name in idle if difflib.get_close_matches(name, others, 1, 0.8)]
    if not has_keys:
        fractions = [name for name in idle if idle[name].dtype.kind == "f" and np.any(idle[name] % 1 != 0)]
        suspects = suspects or fractions or ([*idle] if others and len(idle) > 1 else [])
    if suspects:
        takes = "; ".join(
            f"{name} takes: {', '.join(parameters) or 'a key alone'}" for name, parameters in known.items()
        )
        verb = "is" if len(suspects) == 1 else "are"
        raise ValueError(
            f"coords: {', '.join(suspects)} {verb} taken by no function ({takes}); allowed: their parameters, and "
            "whole numbers along one more dimension, for the keys"
        )


def _optional(function: Callable[..., Any]) -> list[str]:
    """The parameters of a function that draws, beside the key."""
    try:
        parameters = [*inspect.signature(function).parameters.values()][1:]
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _check_function(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return
    missing = [
        p.name
        for p in parameters[1:]
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in values
    ]
    if not parameters or missing:
        what = f"parameters {', '.join(missing)}" if missing else "no parameter"
        raise ValueError(f"function of a key: has {what}; allowed: a key, and names of dims: {', '.join(values)}")


def _check_keywords(keywords: Mapping[str, Any], block: Any) -> None:
    if "trajectory" in keywords:
        raise ValueError("trajectory: is computed for each network; allowed: to leave it out")
    if block is not None and not (rules.is_index(block) and block >= 1):
        raise ValueError(f"block: {block!r}; allowed: a whole number of at least 1, or None")


def _say_what_is_lost() -> None:
    """Log, once in a process, what calling `prepare` would gain."""
    cores, devices = cpu_count(), jax.local_device_count()
    if jax.default_backend() == "cpu" and devices < cores and "prepare" not in _warned:
        _warned.add("prepare")
        _log.warning(
            "ensemble: JAX has %d CPU device for %d cores; gh.prepare() before the first array makes one for each",
            devices,
            cores,
        )


@contextmanager
def _reporting(progress: Any, total: int) -> Iterator[Callable[[int], Any] | None]:
    """Yield a function that receives the number of networks done, or None."""
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    if not progress:
        yield None
        return
    if callable(progress):
        yield progress
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield _lines(total)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("networks"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        number = bar.add_task("", total=total)
        yield lambda done: bar.update(number, completed=done)


def _lines(total: int) -> Callable[[int], None]:
    last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > _PAUSE:
            last = time.monotonic()
            sys.stderr.write(f"{done} of {total} networks\n")

    return report
