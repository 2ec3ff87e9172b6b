"""A cache of compiled programs, so that a measure called outside `jax.jit` is compiled only once."""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradient_horizon.numerics import fallback
from gradient_horizon.numerics.arrays import PyTree
from gradient_horizon.numerics.fingerprint import NotComparableError, fingerprint

MOST_PROGRAMS = 256

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Arguments(NamedTuple):
    """The arguments of a call without its arrays: the part that is fixed for a program."""

    structure: Any
    fixed: list[Any]
    is_array: tuple[bool, ...]

    def filled(self, arrays: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        free, fixed = iter(arrays), iter(self.fixed)
        return jax.tree.unflatten(self.structure, [next(free if is_array else fixed) for is_array in self.is_array])


class _Program(NamedTuple):
    """One measure for one set of functions and settings, as a quick and as a careful program."""

    quick: Callable[[list[Any]], tuple[PyTree, list[Any]]]
    careful: Callable[[list[Any]], PyTree]


_arguments: ContextVar[_Arguments] = ContextVar("given")
_programs: OrderedDict[Hashable, _Program] = OrderedDict()
_lock = threading.Lock()


def _program(measure: Callable[..., Any]) -> _Program:
    # Both read the arguments of the current call, because JAX may trace a program again for other shapes.
    def quick(arrays: list[Any]) -> tuple[PyTree, list[Any]]:
        args, kwargs = _arguments.get().filled(arrays)
        with fallback.postponed() as suspicions:
            return measure(*args, **kwargs), suspicions

    def careful(arrays: list[Any]) -> PyTree:
        args, kwargs = _arguments.get().filled(arrays)
        return measure(*args, **kwargs)

    return _Program(jax.jit(quick), jax.jit(careful))


def _lookup(key: Hashable, measure: Callable[..., Any]) -> _Program:
    with _lock:
        if key not in _programs:
            _programs[key] = _program(measure)
            if len(_programs) > MOST_PROGRAMS:
                _programs.popitem(last=False)
        _programs.move_to_end(key)
        return _programs[key]


def forget() -> None:
    """Drop every program compiled so far."""
    with _lock:
        _programs.clear()


def compiled_once(measure: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return `measure`, compiled at its first call outside a transformation and looked up from then on.

    One program is kept for each set of functions and settings (every argument that is not an array, including Python
    numbers). The set includes everything that the functions read: closures, globals, attributes of their object (see
    `fingerprint`). If a function reads anything else, or holds a value that cannot be compared, it is traced again at
    every call. Inside a transformation, or if a step needs the concrete values of its arguments, `measure` itself is
    called.
    """

    @functools.wraps(measure)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        leaves, structure = jax.tree.flatten((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return measure(*args, **kwargs)
        is_array = tuple(isinstance(leaf, jax.Array | np.ndarray) and _is_numeric(leaf) for leaf in leaves)
        arrays = [leaf for leaf, is_one in zip(leaves, is_array, strict=True) if is_one]
        fixed = [leaf for leaf, is_one in zip(leaves, is_array, strict=True) if not is_one]
        try:
            key = measure, is_array, fingerprint((structure, fixed))
        except NotComparableError:
            return measure(*args, **kwargs)
        program = _lookup(key, measure)
        token = _arguments.set(_Arguments(structure, fixed, is_array))
        try:
            result, suspicions = program.quick(arrays)
            return program.careful(arrays) if any(map(bool, suspicions)) else result
        except Exception:  # the step needs concrete values; any other error is raised again as without the cache
            return measure(*args, **kwargs)
        finally:
            _arguments.reset(token)

    return call


def _is_numeric(array: Any) -> bool:
    return isinstance(array, jax.Array) or jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool
