"""The arguments of a step for many networks: which arrays each network has of its own, and which they all share.

The network axes are chosen as `jax.vmap` chooses its one: by an integer or None for a whole argument or for parts of
it. An argument may also be a function that draws it from a key.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradient_horizon.numerics.arrays import PyTree

NAMES = ("params", "h0", "xs")
OWN, SHARED, FIXED = "own", "shared", "fixed"
_ALLOWED = "an integer, None, or three entries, for params, h0 and xs"


class Fixed(NamedTuple):
    """What is compiled into the programs about one argument: its structure, and the leaves that are not arrays."""

    structure: Any  # a `PyTreeDef`, which JAX exports as a variable, not as a type
    kinds: tuple[str, ...]  # of each leaf: `OWN`, `SHARED` or `FIXED`
    values: tuple[Any, ...]  # the `FIXED` leaves: Python numbers, functions, ...
    draw: Callable[..., Any] | None  # draws the argument of one network, which then has no leaves here

    def joined(self, own: Sequence[Any], shared: Sequence[Any]) -> PyTree:
        """The argument of one network, from its own leaves and the shared ones."""
        rest = {OWN: iter(own), SHARED: iter(shared), FIXED: iter(self.values)}
        return jax.tree.unflatten(self.structure, [next(rest[kind]) for kind in self.kinds])


class Argument(NamedTuple):
    """One argument of the step for all networks; the leaves of `own` have one leading axis, for the networks."""

    fixed: Fixed
    own: list[Any]
    shared: list[Any]


class _Leaf(NamedTuple):
    where: str  # such as params['W']
    value: Any
    axis: int | None


def is_function(value: Any) -> bool:
    """True if `value` is a function, and not a pytree that happens to be callable, such as a module of weights."""
    return callable(value) and jax.tree_util.all_leaves([value])


def arguments_of(
    values: Sequence[PyTree], in_axes: Any, axes: int, drawn_shape: tuple[int, ...] | None
) -> tuple[list[Argument], tuple[int, ...]]:
    """Sort the leaves of `params`, `h0` and `xs` by whether `in_axes` gives them a network axis.

    `axes` is the number of network axes of each array, adjacent, of which `in_axes` names the first. `drawn_shape`:
    their sizes, if known from elsewhere. Returns the arguments and the sizes. Raises `ValueError`, in one line, if
    `in_axes` does not fit the arrays, if sizes differ, and if there are no networks.
    """
    of_each = _by_argument(values, in_axes)
    leaves = {name: _leaves(name, value, axis) for name, value, axis in zip(NAMES, values, of_each, strict=True)}
    shapes = {leaf.where: _network_shape(leaf, axes) for part in leaves.values() for leaf in part if _is_own(leaf)}
    if drawn_shape is not None:
        shapes = {"the networks to draw": drawn_shape, **shapes}
    if not shapes:
        raise ValueError(
            f"in_axes: {in_axes!r} gives no argument a network axis; allowed: 0 for at least one array, "
            "or params as a function of a key with networks= or keys="
        )
    if len(set(shapes.values())) > 1:
        raise ValueError(f"network axes: {_summary(shapes)}; allowed: the same number of networks for every array")
    (shape,) = set(shapes.values())
    if math.prod(shape) == 0:
        raise ValueError(f"networks: {' × '.join(map(str, shape))}; allowed: at least 1")
    return [_argument(value, leaves[name], axes) for name, value in zip(NAMES, values, strict=True)], shape


def _by_argument(values: Sequence[PyTree], in_axes: Any) -> list[Any]:
    """The part of `in_axes` that belongs to each argument."""
    if isinstance(in_axes, list | tuple):
        given = [*in_axes]
        if len(given) == len(NAMES) - 1 and values[-1] is None:
            given.append(None)
        if len(given) != len(NAMES):
            raise ValueError(
                f"in_axes: {in_axes!r}; allowed: an integer, None, or three entries, for params, h0 and xs"
            )
        return given
    if in_axes is not None and (isinstance(in_axes, bool) or not isinstance(in_axes, int)):
        raise ValueError(f"in_axes: {in_axes!r}; allowed: {_ALLOWED}")
    return [in_axes] * len(NAMES)


def _leaves(name: str, value: PyTree, axes: Any) -> list[_Leaf]:
    if is_function(value):
        if axes is None:
            raise ValueError(f"in_axes: None for {name}, which is a function; allowed: 0, as each network has its own")
        return []
    of_leaves: list[Any] = []
    try:
        jax.tree.map(
            lambda axis, part: of_leaves.extend([axis] * jax.tree.structure(part).num_leaves),
            axes,
            value,
            is_leaf=lambda axis: axis is None,
        )
    except ValueError:
        structure = jax.tree.structure(value)
        raise ValueError(
            f"in_axes: {axes!r} does not fit {name}, {structure}; allowed: an integer, None, or a tree like it"
        ) from None
    with_paths = jax.tree_util.tree_leaves_with_path(value)
    return [
        _Leaf(name + jax.tree_util.keystr(path), leaf, axis)
        for (path, leaf), axis in zip(with_paths, of_leaves, strict=True)
    ]


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def _is_own(leaf: _Leaf) -> bool:
    if isinstance(leaf.value, Tracer):
        raise ValueError(f"{leaf.where}: is being traced; allowed: to call ensemble outside jax.jit, vmap and grad")
    if not isinstance(leaf.axis, int | None) or isinstance(leaf.axis, bool):
        raise ValueError(f"in_axes: {leaf.axis!r} for {leaf.where}; allowed: an integer or None")
    if leaf.axis is not None and not _is_array(leaf.value):
        raise ValueError(
            f"in_axes: {leaf.axis} for {leaf.where}, a {type(leaf.value).__name__}; allowed: None for what is no array"
        )
    return leaf.axis is not None


def _network_shape(leaf: _Leaf, axes: int) -> tuple[int, ...]:
    shape, axis = np.shape(leaf.value), leaf.axis or 0
    start = axis if axis >= 0 else axis + len(shape)
    if not 0 <= start <= len(shape) - axes:
        many = "a network axis" if axes == 1 else f"{axes} network axes"
        raise ValueError(f"in_axes: {axis} for {leaf.where}, of shape {shape}; allowed: {many} in it, or None")
    return tuple(shape[start : start + axes])


def _argument(value: PyTree, leaves: list[_Leaf], axes: int) -> Argument:
    if is_function(value):
        return Argument(Fixed(jax.tree.structure(()), (), (), value), [], [])
    kinds = tuple(OWN if _is_own(leaf) else SHARED if _is_array(leaf.value) else FIXED for leaf in leaves)
    by_kind: dict[str, list[Any]] = {OWN: [], SHARED: [], FIXED: []}
    for leaf, kind in zip(leaves, kinds, strict=True):
        by_kind[kind].append(_flat(leaf, axes) if kind == OWN else leaf.value)
    return Argument(Fixed(jax.tree.structure(value), kinds, tuple(by_kind[FIXED]), None), by_kind[OWN], by_kind[SHARED])


def _flat(leaf: _Leaf, axes: int) -> Any:
    """The array with one leading axis for all networks; NumPy's if possible, so that parts of it cost nothing."""
    is_key = isinstance(leaf.value, jax.Array) and jnp.issubdtype(leaf.value.dtype, jax.dtypes.extended)
    library: Any = jnp if is_key else np
    array = leaf.value if is_key else np.asarray(leaf.value)
    start = (leaf.axis or 0) % array.ndim
    array = library.moveaxis(array, range(start, start + axes), range(axes))
    return array.reshape(math.prod(array.shape[:axes]), *array.shape[axes:])


def _summary(shapes: dict[str, tuple[int, ...]]) -> str:
    """Sizes and the arrays that have them, each size once; at most three arrays of each are named."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for where, shape in shapes.items():
        by_shape.setdefault(shape, []).append(where)
    parts = []
    for shape, where in by_shape.items():
        more = f" and {len(where) - 3} more" if len(where) > 3 else ""
        parts.append(f"{' × '.join(map(str, shape))} in {', '.join(where[:3])}{more}")
    return "; ".join(parts)
