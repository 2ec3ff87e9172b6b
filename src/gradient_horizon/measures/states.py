"""Conversion of a state, any pytree of arrays, to the real vector that is differentiated, and back.

- Real entries of 32 or 64 bits: used as they are.
- 16-bit entries (bfloat16, float16): the network steps in its own precision; its derivative, also formed in that
  precision, is taken as a float32 matrix, so that products round no more than those of any other network.
- Complex entries: two real entries each, the real part followed by the imaginary part. If the step is holomorphic (see
  `holomorphic`), every singular value and every exponent of the real pairs occurs twice.
- Integers, booleans, random keys: not differentiated. Each step receives them as they were on the trajectory, like
  inputs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gradient_horizon.numerics.arrays import PyTree, Step
from gradient_horizon.numerics.derivatives import jacobian

FlatStep = Callable[[PyTree, Float[Array, " n"], PyTree], Float[Array, " n"]]
ALLOWED = (
    "float32 and complex64, or float64 and complex128; beside them bfloat16, float16, integers, booleans, random keys"
)


class Leaf(NamedTuple):
    """A leaf of a state: shape, dtype, and the range of its entries in the vector (empty if not differentiated)."""

    shape: tuple[int, ...]
    dtype: Any
    start: int
    stop: int

    @property
    def is_differentiated(self) -> bool:
        """True if its entries are part of the vector."""
        return jnp.issubdtype(self.dtype, jnp.inexact)

    @property
    def is_short(self) -> bool:
        """True if its entries are differentiated and have 16 bits."""
        return self.is_differentiated and jnp.finfo(self.dtype).bits < 32

    @property
    def is_complex(self) -> bool:
        """True if each entry takes two places in the vector."""
        return jnp.issubdtype(self.dtype, jnp.complexfloating)


class Layout(NamedTuple):
    """The layout of a state in a vector of `size` entries of `dtype`."""

    structure: Any
    leaves: tuple[Leaf, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """The number of entries of the vector."""
        return self.leaves[-1].stop

    @property
    def is_plain(self) -> bool:
        """True if the vector is simply the raveled state."""
        return all(leaf.dtype == self.dtype for leaf in self.leaves)

    @property
    def is_short(self) -> bool:
        """True if a leaf has 16-bit entries, fewer bits than the vector."""
        return any(leaf.is_short for leaf in self.leaves)

    @property
    def carries(self) -> bool:
        """True if part of the state is not differentiated."""
        return not all(leaf.is_differentiated for leaf in self.leaves)

    @property
    def is_complex(self) -> bool:
        """True if every differentiated leaf is complex."""
        return all(leaf.is_complex for leaf in self.leaves if leaf.is_differentiated)

    def pack(self, state: PyTree) -> tuple[Float[Array, " n"], list[Any]]:
        """The vector, and the leaves that are not differentiated."""
        if self.is_plain:
            return ravel_pytree(state)[0], []
        parts, carried = [], []
        for leaf, value in zip(self.leaves, jax.tree.leaves(state), strict=True):
            if not leaf.is_differentiated:
                carried.append(value)
                continue
            value = jnp.asarray(value)
            if leaf.is_complex:
                value = jnp.stack([value.real, value.imag], axis=-1)
            part = value.ravel().astype(self.dtype)
            if leaf.is_short:  # XLA may elide a cast to fewer bits and back, but not this
                bits = jnp.finfo(leaf.dtype)
                part = lax.reduce_precision(part, bits.nexp, bits.nmant)
            parts.append(part)
        return jnp.concatenate(parts), carried

    def packed_like(self, state: PyTree) -> tuple[Float[Array, " n"], list[Any]]:
        """`pack` the result of a step; `ValueError` if its leaves do not match those of the state before."""
        actual = [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(state)]
        expected = [(leaf.shape, leaf.dtype) for leaf in self.leaves]
        if [(np.prod(shape), dtype) for shape, dtype in actual] != [
            (np.prod(shape), dtype) for shape, dtype in expected
        ]:
            raise ValueError(
                f"step: returns a state of {_described(actual)}, but h0 is {_described(expected)}; allowed: the same"
            )
        return self.pack(state)

    def unpack(self, vector: Float[Array, " n"], carried: list[Any]) -> PyTree:
        """The inverse of `pack`: the state."""
        rest, values = iter(carried), []
        for leaf in self.leaves:
            if not leaf.is_differentiated:
                values.append(next(rest))
                continue
            part = vector[leaf.start : leaf.stop]
            if leaf.is_complex:
                part = lax.complex(part[0::2], part[1::2])
            values.append(part.astype(leaf.dtype).reshape(leaf.shape))
        return jax.tree.unflatten(self.structure, values)

    def places(self, block: Callable[[Any], Any]) -> np.ndarray:
        """The indices in the vector of the part of a state that `block` selects."""
        numbers = [
            np.arange(leaf.start, leaf.stop, 1 + leaf.is_complex).reshape(leaf.shape)
            if leaf.is_differentiated
            else np.full(leaf.shape, -1)
            for leaf in self.leaves
        ]
        parts = [np.asarray(part) for part in jax.tree.leaves(block(jax.tree.unflatten(self.structure, numbers)))]
        places = np.concatenate([np.ravel(part) for part in parts]) if parts else np.empty(0, int)
        allowed = {number for part in numbers for number in part.ravel().tolist()}
        is_number = np.issubdtype(places.dtype, np.integer) and set(places.tolist()) <= allowed
        places = places[places >= 0] if is_number else places
        if not places.size or not is_number:
            raise ValueError(
                "block: selects no differentiated entries of the state; allowed: a function that returns some"
            )
        in_pairs = np.concatenate([np.full(leaf.stop - leaf.start, leaf.is_complex) for leaf in self.leaves])
        return np.concatenate([[place, place + 1] if in_pairs[place] else [place] for place in places]).astype(int)


def layout_of(h0: PyTree, name: str = "h0") -> Layout:
    """The layout of `h0`, or of a tree that errors call `name`, in a vector.

    Raises `ValueError` for incompatible dtypes, or if there is nothing to differentiate.
    """
    values, structure = jax.tree.flatten(h0)
    dtypes = [jnp.result_type(value) for value in values]
    widths = {jnp.finfo(dtype).dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)}
    wide = {width for width in widths if width.itemsize >= 4} or ({np.dtype("float32")} if widths else set())
    if len(wide) != 1 or any(width.itemsize < 2 for width in widths):
        raise ValueError(f"{name}: dtypes {sorted({str(dtype) for dtype in dtypes})}; allowed: {ALLOWED}")
    leaves, end = [], 0
    for value, dtype in zip(values, dtypes, strict=True):
        start, parts = end, int(jnp.issubdtype(dtype, jnp.inexact)) + int(jnp.issubdtype(dtype, jnp.complexfloating))
        end += parts * int(np.prod(jnp.shape(value)))
        leaves.append(Leaf(jnp.shape(value), dtype, start, end))
    if not end:
        raise ValueError(f"{name}: no entries; allowed: at least one that can be differentiated")
    return Layout(structure, tuple(leaves), wide.pop())


def _described(leaves: list[tuple[tuple[int, ...], Any]]) -> str:
    return ", ".join(f"{shape} {dtype}" for shape, dtype in leaves)


def flatten_step(step: Step, h0: PyTree) -> tuple[FlatStep, Layout]:
    """`step` as a function of vectors, and the layout of a state in such a vector.

    If part of the state is not differentiated, the inputs of the step on vectors are pairs (x, that part).
    """
    layout = layout_of(h0)

    def of_vectors(params: PyTree, vector: Float[Array, " n"], x: PyTree) -> Float[Array, " n"]:
        x, carried = x if layout.carries else (x, [])
        return layout.packed_like(step(params, layout.unpack(vector, carried), x))[0]

    return (_in_own_precision(of_vectors) if layout.is_short else of_vectors), layout


def _in_own_precision(of_vectors: FlatStep) -> FlatStep:
    """`of_vectors` with its derivative as a matrix in the precision of the vector."""

    def flat_step(params: PyTree, h: Float[Array, " n"], x: PyTree) -> Float[Array, " n"]:
        # traced values held by `params` and the step become an argument, `closed`
        step, closed = jax.closure_convert(lambda h, x: of_vectors(params, h, x), h, x)
        return _with_jacobian(step)(h, x, closed)

    return flat_step


def _with_jacobian(step: Callable[..., Array]) -> Callable[..., Array]:
    @jax.custom_jvp
    def whole(h: Array, x: PyTree, closed: list[Array]) -> Array:
        return step(h, x, *closed)

    @partial(whole.defjvp, symbolic_zeros=True)
    def _(primals: Any, tangents: Any) -> Any:
        (h, x, closed), (by_h, *others) = primals, tangents
        value, tangent = whole(h, x, closed), jnp.zeros_like(h)
        if not isinstance(by_h, SymbolicZero):
            tangent = tangent + jnp.matmul(jacobian(lambda h: step(h, x, *closed), h), by_h, precision="highest")
        if not all(isinstance(leaf, SymbolicZero) for leaf in jax.tree.leaves(others)):
            others = jax.tree.map(_instantiated, others)
            tangent = tangent + jax.jvp(lambda x, closed: step(h, x, *closed), (x, closed), tuple(others))[1]
        return value, tangent

    return whole


def _instantiated(tangent: Any) -> Any:
    if not isinstance(tangent, SymbolicZero):
        return tangent
    aval: Any = tangent.aval
    dtype = aval.dtype
    return np.zeros(aval.shape, dtype) if dtype == jax.dtypes.float0 else jnp.zeros(aval.shape, dtype)
