"""Parameters as a watch sees them: arrays, which change, and everything else that a pytree of parameters may hold.

The modules of some frameworks are pytrees with functions, numbers and names among their leaves. Those are part of the
program; the arrays are its arguments.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradient_horizon.numerics.arrays import PyTree

FINITE, INFINITE, NAN = 0, 1, 2  # the state of a leaf
_NUMBERS = (float, complex)


class Parameters(NamedTuple):
    """A pytree of parameters, taken apart: `arrays`, and the `rest` of its leaves."""

    structure: Any
    is_array: tuple[bool, ...]
    arrays: list[Any]
    rest: list[Any]
    paths: tuple[Any, ...]
    types: tuple[type, ...]  # of all leaves: equal types are told faster than by `isinstance`

    def whole(self, arrays: Sequence[Any]) -> PyTree:
        """The pytree with `arrays` in place of its own."""
        free, rest = iter(arrays), iter(self.rest)
        return jax.tree.unflatten(self.structure, [next(free if is_one else rest) for is_one in self.is_array])

    def difference(self, other: "Parameters") -> str:
        """How the structure of `other`, or the shape or dtype of one of its arrays, differs; empty if they agree."""
        if self.is_array != other.is_array or self.structure != other.structure:
            return f"a structure of {len(other.is_array)} leaves that is not that of the first call"
        for place, (one, two) in enumerate(zip(self.arrays, other.arrays, strict=True)):
            if one.shape != two.shape or one.dtype != two.dtype:
                return f"{self.names()[place]} has {_described(two)}, in the first call {_described(one)}"
        return ""

    def has_same_rest(self, other: "Parameters") -> bool:
        """True if the leaves that are not arrays are the same, so that one program serves both."""
        return all(_is_same(one, two) for one, two in zip(self.rest, other.rest, strict=True))

    def names(self) -> list[str]:
        """The path of each array, as in `params['W']`."""
        return [name for name, is_one in zip(self._all_names(), self.is_array, strict=True) if is_one]

    def bad_numbers(self) -> dict[str, int]:
        """Python numbers among the leaves that are not finite, by path."""
        others = [name for name, is_one in zip(self._all_names(), self.is_array, strict=True) if not is_one]
        return {
            name: NAN if value != value else INFINITE
            for name, value in zip(others, self.rest, strict=True)
            if isinstance(value, _NUMBERS) and not math.isfinite(abs(value))
        }

    def _all_names(self) -> list[str]:
        return [f"params{jax.tree_util.keystr(path)}" for path in self.paths]

    @property
    def nbytes(self) -> int:
        """The size of the arrays in bytes."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in self.arrays)


def taken_apart(params: PyTree, like: Parameters | None = None) -> Parameters:
    """`Parameters` of a pytree, quickly if its structure is that of `like`.

    Raises `ValueError` if it has no floating array, or if it is traced.
    """
    if like is not None:
        leaves, structure = jax.tree.flatten(params)
        types = tuple(map(type, leaves))
        if structure == like.structure and types == like.types and not like.rest:
            return like._replace(arrays=leaves)
        if structure == like.structure and (types == like.types or all(map(_is_array, leaves, like.is_array))):
            pairs = [*zip(leaves, like.is_array, strict=True)]
            arrays = [leaf for leaf, is_one in pairs if is_one]
            return like._replace(arrays=arrays, rest=[leaf for leaf, is_one in pairs if not is_one])
    with_paths, structure = jax.tree_util.tree_flatten_with_path(params)
    paths, leaves = [path for path, _ in with_paths], [leaf for _, leaf in with_paths]
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise ValueError(
            "params: traced; allowed: arrays, that is, a watch called outside jax.jit, vmap, grad and scan"
        )
    is_array = tuple(isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in leaves)
    arrays = [leaf for leaf, is_one in zip(leaves, is_array, strict=True) if is_one]
    rest = [leaf for leaf, is_one in zip(leaves, is_array, strict=True) if not is_one]
    if not any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in arrays):
        raise ValueError(f"params: {len(leaves)} leaves without a floating array; allowed: a pytree that holds some")
    return Parameters(structure, is_array, arrays, rest, tuple(paths), tuple(map(type, leaves)))


def _is_array(leaf: Any, is_one: bool) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic) == is_one and not isinstance(leaf, Tracer)


def arrays_of(params: PyTree) -> tuple[list[Any], Callable[[list[Any]], PyTree]]:
    """The arrays of a pytree, traced or not, and a function that puts others in their place."""
    leaves, structure = jax.tree.flatten(params)
    is_array = [isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in leaves]

    def fill(arrays: list[Any]) -> PyTree:
        free = iter(arrays)
        return jax.tree.unflatten(
            structure, [next(free) if is_one else leaf for leaf, is_one in zip(leaves, is_array, strict=True)]
        )

    return [leaf for leaf, is_one in zip(leaves, is_array, strict=True) if is_one], fill


def _described(array: Any) -> str:
    return f"shape {tuple(array.shape)} and dtype {array.dtype}"


def _is_same(one: Any, two: Any) -> bool:
    if one is two:
        return True
    try:
        return type(one) is type(two) and bool(one == two or (one != one and two != two))
    except Exception:  # whatever cannot be compared is another
        return False


def _state(leaf: Any) -> Any:
    """The state of a leaf, from one sum over it that is finite, infinite or NaN as the leaf is.

    Its terms are positive, and small enough for the sum of 2^63 finite ones to be finite. A sum vectorises; a
    conjunction over the entries, which would do as well, takes several times as long.
    """
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.int32(FINITE)
    parts = [leaf.real, leaf.imag] if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else [leaf]
    wide = jnp.float64 if parts[0].dtype == jnp.float64 else jnp.float32
    total = sum(jnp.sum(jnp.abs(part.astype(wide)) * jnp.asarray(2.0**-64, wide)) for part in parts)
    return jnp.where(jnp.isnan(total), NAN, jnp.where(jnp.isinf(total), INFINITE, FINITE)).astype(jnp.int32)


class Looks(NamedTuple):
    """What some calls in a row have seen: the number of calls before the first with a bad parameter, and the `states`
    of that one, or of the last."""

    finite: int
    states: list[int]


def no_looks(count: int) -> Any:
    """Before the first call with `count` arrays. On the device, `Looks` are one array, which is passed on faster."""
    return np.zeros(1 + count, np.int32)


@jax.jit
def look(before: Any, arrays: list[Any]) -> Any:
    """One more call: a small program, whose result is read later."""
    states = jnp.stack([_state(jnp.asarray(leaf)) for leaf in arrays])
    finite, earlier = before[:1], before[1:]
    is_over = jnp.any(earlier != FINITE)
    is_finite = ~is_over & jnp.all(states == FINITE)
    return jnp.concatenate([finite + is_finite.astype(jnp.int32), jnp.where(is_over, earlier, states)])


def seen(looks: Any) -> Looks:
    """What `look` has seen, waiting for it."""
    finite, *states = np.asarray(looks).tolist()
    return Looks(finite, states)


@jax.jit
def _copies(arrays: list[Any]) -> list[Any]:
    return [jnp.copy(leaf) for leaf in arrays]


def copied(arrays: list[Any]) -> list[Any]:
    """Copies of the arrays, which survive if the caller donates them to the next update."""
    is_free = [not jnp.issubdtype(leaf.dtype, jax.dtypes.extended) for leaf in arrays]
    copies = iter(_copies([leaf for leaf, is_one in zip(arrays, is_free, strict=True) if is_one]))
    return [next(copies) if is_one else leaf for leaf, is_one in zip(arrays, is_free, strict=True)]


def are_gone(arrays: list[Any]) -> bool:
    """True if an array has been donated to another program."""
    return any(hasattr(leaf, "is_deleted") and leaf.is_deleted() for leaf in arrays)
