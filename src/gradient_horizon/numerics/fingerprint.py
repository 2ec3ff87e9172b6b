"""Hashable keys for values and functions, such that equal keys imply equal results.

The key of a function covers its code and everything that the code can reach: the values that it closes over, its
defaults, the globals that it names, the attributes that it reads from modules, the object that it is bound to, and
whatever these reach in turn. Numbers, strings and arrays are compared by value, containers and objects by their
contents, and functions and classes of the libraries in `TRUSTED` by name alone, since nobody changes their globals.
"""

import dis
import enum
import functools
import hashlib
import inspect
import sys
import types
import weakref
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

TRUSTED = frozenset(
    {
        *sys.stdlib_module_names,
        *("gradient_horizon", "jax", "jaxlib", "jaxtyping", "beartype", "numpy", "scipy", "ml_dtypes", "optax", "chex"),
        *("equinox", "flax", "haiku", "lineax", "diffrax"),
    }
)
_MOST_PARTS = 20_000
_MOST_BYTES = 2**26  # most bytes of one array: hashing more takes as long as tracing again
# Code that uses these may read anything, without naming it.
_READING_ANYTHING = frozenset({"globals", "eval", "exec", "__import__", "open", "input"})
_READING_ANY_ATTRIBUTE = frozenset({"getattr", "vars", "dir", "__dict__", "attrgetter"})
_HOLDING_STATE = frozenset({"os", "sys", "io", "pathlib", "random", "time", "datetime", "secrets", "uuid", "importlib"})
_OF_CHECKS = frozenset({"__beartype_getrandbits"})  # chooses at random which items are checked
_PLACES = {
    **dict.fromkeys(("LOAD_GLOBAL", "LOAD_NAME"), "read"),
    **dict.fromkeys(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"), "attributes"),
    "IMPORT_NAME": "imported",
}
_COUNTED_BY_VALUE = (str, bytes, int, bool, type(None), type(Ellipsis), type(NotImplemented), range)
_HINTS = (types.UnionType, types.GenericAlias, inspect.Signature)  # attached by run-time type checkers
_ONE_OF_A_KIND = (types.BuiltinFunctionType, np.ufunc, np.dtype)
_JITTED = type(jax.jit(len))


class NotComparableError(Exception):
    """Raised if it cannot be decided whether a value has changed."""


class _Same:
    """An object compared by identity; it lives as long as a key that holds it."""

    def __init__(self, value: object):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class _Names(NamedTuple):
    """The names used by a code object and by the functions defined inside it."""

    read: frozenset[str]  # globals and builtins
    attributes: frozenset[str]
    imported: frozenset[str]  # modules


@functools.lru_cache(maxsize=4096)
def _names_in(code: types.CodeType) -> _Names:
    by_kind: dict[str, set[str]] = {"read": set(), "attributes": set(), "imported": set()}
    for instruction in dis.get_instructions(code):
        if instruction.opname in _PLACES:
            by_kind[_PLACES[instruction.opname]].add(instruction.argval)
    inner = [_names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return _Names(*(frozenset(by_kind[kind]).union(*(getattr(names, kind) for names in inner)) for kind in by_kind))


_NOTHING = _Names(frozenset(), frozenset(), frozenset())
_ANYTHING = _Names(_READING_ANY_ATTRIBUTE, frozenset(), frozenset())


def _is_trusted(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in TRUSTED


class _Reader:
    """Builds one key; a value that was met before is not read again."""

    def __init__(self):
        self.met: dict[Hashable, int] = {}
        self.kept: list[Any] = []  # so that no id is reused meanwhile

    def read(self, value: Any) -> Hashable:
        if isinstance(value, _COUNTED_BY_VALUE) and type(value).__module__ == "builtins":
            return type(value), value
        if type(value) is float:
            return float, value.hex()
        if type(value) is complex:
            return complex, value.real.hex(), value.imag.hex()
        if isinstance(value, Tracer):
            raise NotComparableError
        if id(value) in self.met:
            return "met", self.met[id(value)]
        self.met[id(value)] = len(self.met)
        self.kept.append(value)
        if len(self.met) > _MOST_PARTS:
            raise NotComparableError
        return self._contents(value)

    def _contents(self, value: Any) -> Hashable:
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return "method", self.read(value.__func__), self.read(value.__self__)
        if isinstance(value, functools.partial):
            return "partial", self.read(value.func), self.read(value.args), self.read(value.keywords)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            return self._module(value, _ANYTHING)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value)
        if isinstance(value, jax.Array):
            return self._jax_array(value)
        if isinstance(value, enum.Enum):
            return self.read(type(value)), value.name
        if isinstance(value, tuple | list):
            return type(value), *map(self.read, value), *self._attributes(value)
        if isinstance(value, dict | types.MappingProxyType):
            return type(value), *((self.read(key), self.read(value[key])) for key in value), *self._attributes(value)
        if isinstance(value, set | frozenset):
            return type(value), frozenset(_Reader().read(entry) for entry in value)
        if isinstance(value, slice):
            return slice, self.read(value.start), self.read(value.stop), self.read(value.step)
        if isinstance(value, _ONE_OF_A_KIND):
            owner = getattr(value, "__self__", None)
            if owner is not None and not isinstance(owner, types.ModuleType):
                raise NotComparableError
            return _Same(value), owner and self._module(owner, _NOTHING)
        if isinstance(value, property | classmethod | staticmethod):
            parts = [getattr(value, name, None) for name in ("fget", "fset", "__func__")]
            return type(value), *map(self.read, parts)
        if isinstance(value, _HINTS):
            return type(value), repr(value)
        if isinstance(value, weakref.ReferenceType):
            return "weak", self.read(value())
        if isinstance(value, _JITTED):
            return "jit", self.read(vars(value)["__wrapped__"])  # one level only, not what that may wrap in turn
        if isinstance(value, jax.tree_util.PyTreeDef):
            # not by its own equality, which for objects registered as static may be identity
            node = value.node_data()
            return "tree", None if node is None else self.read(node), *map(self.read, value.children())
        return self._object(value)

    def _function(self, function: types.FunctionType) -> Hashable:
        is_trusted = _is_trusted(function.__module__)
        if (
            is_trusted
            and getattr(sys.modules.get(function.__module__), "__dict__", {}).get(function.__name__) is function
        ):
            return _Same(function)
        parts: list[Hashable] = [function.__code__]
        for cell in function.__closure__ or ():
            try:
                parts.append(self.read(cell.cell_contents))
            except ValueError:  # not yet assigned
                parts.append("empty")
        named = {name: value for name, value in (function.__kwdefaults__ or {}).items() if name not in _OF_CHECKS}
        parts += [self.read(function.__defaults__), self.read(named)]
        if not is_trusted:
            names = _names_in(function.__code__)
            if names.read & _READING_ANYTHING:
                raise NotComparableError
            for name in sorted(names.read & function.__globals__.keys()):
                parts.append((name, self._global(function.__globals__[name], names)))
            for name in sorted(names.imported):
                if name not in sys.modules:  # a relative import, or not imported yet
                    raise NotComparableError
                parts.append((name, self._global(sys.modules[name], names)))
            parts.append(self.read(vars(function)) if vars(function) else None)
        return "function", *parts

    def _global(self, value: Any, names: _Names) -> Hashable:
        """A global of a function that uses these `names`."""
        return self._module(value, names) if isinstance(value, types.ModuleType) else self.read(value)

    def _module(self, module: types.ModuleType, names: _Names) -> Hashable:
        """The part of a module that a function with these `names` may read."""
        name, entries = module.__name__, vars(module)
        if name in _HOLDING_STATE or (name == "numpy" and "random" in names.attributes):
            raise NotComparableError
        if _is_trusted(name):
            return name
        if names.read & _READING_ANY_ATTRIBUTE or names.attributes & _READING_ANY_ATTRIBUTE:
            raise NotComparableError
        if (id(module), names) in self.met:
            return name
        self.met[id(module), names] = len(self.met)
        reachable = sorted(names.attributes & entries.keys())
        return name, *((attribute, self._global(entries[attribute], names)) for attribute in reachable)

    def _class(self, kind: type) -> Hashable:
        if _is_trusted(kind.__module__):
            return _Same(kind)
        hidden = ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__")
        own = {name: entry for name, entry in vars(kind).items() if name not in hidden and not _is_plumbing(entry)}
        return _Same(kind), self.read(kind.__bases__), *((name, self.read(entry)) for name, entry in own.items())

    def _array(self, value: np.ndarray | np.generic) -> Hashable:
        if value.dtype.hasobject or value.nbytes > _MOST_BYTES:
            raise NotComparableError
        contents = value.tobytes()
        contents = contents if len(contents) <= 64 else hashlib.blake2b(contents, digest_size=20).digest()
        return type(value), value.dtype.str, value.shape, contents

    def _jax_array(self, value: jax.Array) -> Hashable:
        """By value if it is small, otherwise by identity, since it is immutable."""
        is_near = value.is_fully_addressable and value.nbytes <= 2**16
        if is_near and not jnp.issubdtype(value.dtype, jax.dtypes.extended):
            return "jax", value.aval.weak_type, value.dtype.name, self._array(np.asarray(value))
        return _Same(value)

    def _attributes(self, value: Any) -> tuple[Hashable, ...]:
        """The attributes of an object, and those of its class unless that is from a trusted library."""
        slots = [
            name
            for kind in type(value).__mro__
            for name in _listed(vars(kind).get("__slots__", ()))
            if hasattr(value, name) and name not in ("__dict__", "__weakref__")
        ]
        pairs = [(name, getattr(value, name)) for name in slots]
        pairs += getattr(value, "__dict__", {}).items()
        return self.read(type(value)), *((name, self.read(entry)) for name, entry in pairs)

    def _object(self, value: Any) -> Hashable:
        has_slots = any("__slots__" in vars(kind) for kind in type(value).__mro__)
        if type(value) is object:
            return _Same(value)
        if not has_slots and not hasattr(value, "__dict__"):
            raise NotComparableError  # its contents cannot be seen
        return type(value).__qualname__, *self._attributes(value)


def _is_plumbing(entry: Any) -> bool:
    """True for entries that Python creates in a class by itself: descriptors of slots, and the data of `abc`."""
    kinds = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)
    return isinstance(entry, kinds) or type(entry).__name__ == "_abc_data"


def _listed(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def fingerprint(value: Any) -> Hashable:
    """Return a key that equals that of another value only if the two are equal or do the same.

    Raises `NotComparableError` if that cannot be decided. Whatever a function reads from outside its code, objects and
    globals (a file, the environment, an attribute that another library computes) is not seen.
    """
    try:
        return _Reader().read(value)
    except RecursionError as error:
        raise NotComparableError from error
