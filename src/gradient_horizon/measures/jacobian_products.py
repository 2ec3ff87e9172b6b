"""Products of step Jacobians, M(T, t) = J_T ... J_{t+1} = ∂h_T/∂h_t, and their norms at every lag.

The product is carried through the linearised step, at one matrix product per step, and renormalised by exact powers of
two (see `exponents`), so that it neither overflows nor underflows, even over thousands of steps in float32.

A single exponent for the whole product is sound as long as its entries are close enough in size. The product is a set
of tangent vectors that never mix: its columns if it grows from the start (M ← J M), its rows if it grows from the end
(M ← M J). Vectors, and the entries of one vector, may grow and decay at different times, and an entry that underflows
next to the largest one may be all that is left in the end. Every step therefore looks for entries close to underflow
(see `underflow`), and a product that has one is formed again with an exponent for each entry (see `extended_range`),
which loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from gradient_horizon import names
from gradient_horizon.measures.states import FlatStep
from gradient_horizon.measures.trajectory import System, Trajectory, ever
from gradient_horizon.measures.wide import jacobian_by_entry
from gradient_horizon.numerics import extended_range, lapack, underflow
from gradient_horizon.numerics.arrays import IntSeries, PyTree, Scalar, Series
from gradient_horizon.numerics.derivatives import jacobian_by_rows, jvp_columns, jvp_rows, vjp_rows
from gradient_horizon.numerics.exponents import log_of, power_of_two
from gradient_horizon.numerics.extended_range import Extended
from gradient_horizon.numerics.keys import fixed_normal
from gradient_horizon.numerics.spectral_norm import fresh_directions, largest_by_lapack, largest_singular_value
from gradient_horizon.numerics.xla import materialised, reduces, unroll

# Lags at which every vector is checked. By then all have zeros in the same entries, and one can stand for all.
_FIRST_LAGS = 3
_LOOKED_AT_IN_LOOP = 16  # the largest n for which the one vector is checked within the loop, a tenth faster

Block = Callable[[Any], Any]  # block(state) -> the part of the state to keep


class ScaledNorms(NamedTuple):
    """Norms as `mantissa[name]` · 2^`exponent`, each of shape (T,), from which logs can be taken in any precision.

    `suspect`: True if some entry of some product may have been lost to underflow.
    """

    mantissa: dict[str, Series]
    exponent: IntSeries
    suspect: Bool[Array, ""]

    def log(self) -> dict[str, Series]:
        """The natural logs of the norms; -inf where the product is exactly zero."""
        return {name: log_of(value, self.exponent) for name, value in self.mantissa.items()}


def resolve_method(method: str, anchor: str) -> str:
    """`method`, with `"auto"` replaced by the one that fits `anchor`; `ValueError` for a pair that does not fit."""
    if anchor not in names.ANCHORS:
        raise ValueError(f"anchor: {anchor!r} is unknown; allowed: {', '.join(names.ANCHORS)}")
    if method not in names.METHODS:
        raise ValueError(f"method: {method!r} is unknown; allowed: {', '.join(names.METHODS)}")
    fitting = names.METHOD_OF_ANCHOR[anchor]
    if method not in ("auto", "jacrev", fitting):
        raise ValueError(f"method: {method!r} does not fit anchor {anchor!r}; allowed: auto, jacrev, {fitting}")
    return fitting if method == "auto" else method


def _outward(values: PyTree, anchor: str) -> PyTree:
    """A series over steps, reordered as the product meets them."""
    return jax.tree.map(lambda leaf: leaf[::-1], values) if anchor == "end" else values


class Products(NamedTuple):
    """Settings of a measurement of the products along a trajectory: the norms, the anchor and the derivatives used."""

    flat_step: FlatStep
    anchor: str
    norms: tuple[str, ...]
    method: str
    places: np.ndarray | None  # where the block's entries lie in the state; None: the whole state

    @property
    def looks_at_every_vector(self) -> bool:
        """True if every vector is checked in any case, which costs little compared to measuring spectral norms."""
        return "spectral" in self.norms

    def multiply(self, params: PyTree, h: Float[Array, " n"], x: PyTree, matrix: Float[Array, "..."]) -> Array:
        """J M from the start, M J from the end."""
        if self.method == "jacrev":
            jacobian = self.jacobian(params, h, x)
            return jnp.matmul(matrix, jacobian) if self.anchor == "end" else jnp.matmul(jacobian, matrix)
        return (vjp_rows if self.anchor == "end" else jvp_columns)(self.flat_step, params, h, x, matrix)

    def jacobian(self, params: PyTree, h: Float[Array, " n"], x: PyTree) -> Float[Array, "n n"]:
        """J, by the derivatives of `method`."""
        if self.method == "jacrev":
            return jacobian_by_rows(lambda h: self.flat_step(params, h, x), h)
        return self.multiply(params, h, x, jnp.eye(h.shape[0], dtype=h.dtype))

    def of_block(self, matrix: Array) -> Array:
        """The block's own rows and columns."""
        return matrix if self.places is None else matrix[self.places[:, None], self.places[None, :]]

    def spectral(self, matrix: Array, leading: Array, lag: Array) -> tuple[Scalar, Array]:
        """The spectral norm of `matrix` (`jacrev`: from LAPACK), and the starting point of the next search."""
        if self.method == "jacrev":
            return largest_by_lapack(matrix), leading
        fresh = fresh_directions(len(matrix), matrix.dtype)
        # the side of the product that stays the same from lag to lag
        oriented = matrix if self.anchor == "end" else matrix.T
        value, leading = largest_singular_value(oriented, leading, fresh[lag % len(fresh)])
        return value, leading

    def leading(self, n: int, dtype: Any) -> Array:
        """The starting point of the search for the first spectral norm."""
        return fresh_directions(n if self.places is None else len(self.places), dtype)[0]


def products_of(system: System, anchor: str, norms: Sequence[str], method: str, block: Block | None) -> Products:
    """The settings of a measurement along the trajectory of `system`; `ValueError` for an unknown or unfit one."""
    method = resolve_method(method, anchor)
    unknown = [name for name in norms if name not in names.NORMS]
    if unknown or not norms:
        raise ValueError(f"norms: {list(norms)}; allowed: one or more of {', '.join(names.NORMS)}")
    places = None if block is None else system.layout.places(block)
    return Products(system.step, anchor, tuple(norms), method, places)


def _first_vectors(products: Products, params: PyTree, before: Array, xs: PyTree) -> Float[Array, "n n"]:
    """The identity; from the end, reordered so that the first row is non-zero after the first step, if any row is.

    (A unit that is dead at T zeroes its row.)
    """
    n, dtype = before.shape[1], before.dtype
    identity = jnp.eye(n, dtype=dtype)
    if products.anchor == "start" or products.places is not None:
        return identity
    h, x = jax.tree.map(lambda leaf: leaf[-1], (before, xs))
    generic = jnp.asarray(fixed_normal(1, n), dtype)
    alive = jnp.argmax(jnp.abs(jvp_rows(products.flat_step, params, h, x, generic)[0]))
    order = jnp.arange(n)
    order = jnp.where(order == 0, alive, jnp.where(order == alive, 0, order))
    return jnp.where(order[:, None] == jnp.arange(n)[None, :], jnp.ones((), dtype), jnp.zeros((), dtype))


class _Scaled(NamedTuple):
    """A product as `matrix` · `scale` · 2^e, where `matrix` · `scale` has the norm that `underflow` requires.

    e is kept elsewhere.
    """

    matrix: Array
    scale: Scalar


class _Carry(NamedTuple):
    product: _Scaled
    leading: Array  # where the search for the next spectral norm starts


class _Measured(NamedTuple):
    """Measurements of one product.

    - `square`, `of_part`: ‖·‖_F² of its `matrix`, and of the block of that.
    - `norms`: the other norms, with the block's Frobenius norm scaled to [1, 2).
    - `evidence`: the smallest nonzero entry of `matrix`, or of one vector (NaN if there is none); or that vector.
    """

    square: Array
    of_part: Array
    norms: dict[str, Array]
    evidence: Array


def _advance_product(
    products: Products, params: PyTree, product: _Scaled, h: Array, x: PyTree
) -> tuple[_Scaled, Scalar]:
    """The product one step further, and its ‖`matrix`‖_F²."""
    matrix = products.multiply(params, h, x, product.matrix * product.scale)
    square = jnp.sum(matrix * matrix)
    return _Scaled(matrix, power_of_two(underflow.room(h.dtype) - underflow.size(square)[1], h.dtype)), square


def _measure(
    products: Products, matrix: Array, square: Scalar, leading: Array, lag: Array, every_vector: bool
) -> tuple[_Measured, Array]:
    """Measure a product; also return the starting point of the next search for a spectral norm."""
    # copied, so that XLA neither keeps the matrix nor forms the vector again
    one = materialised(matrix[0] if products.anchor == "end" else matrix[:, 0])
    if every_vector:
        evidence = underflow.smallest(matrix)
    else:  # of many entries, looking at all vectors after the loop takes less time
        evidence = underflow.smallest(one[:, None]) if len(one) <= _LOOKED_AT_IN_LOOP else one
    part, of_part = matrix, square
    if products.places is not None:
        part = products.of_block(matrix)
        of_part = jnp.sum(part * part)
    if "spectral" not in products.norms:
        return _Measured(square, of_part, {}, evidence), leading
    scaled = part * power_of_two(-underflow.size(of_part)[1], part.dtype)
    largest, leading = products.spectral(scaled, leading, lag)
    return _Measured(square, of_part, {"spectral": largest}, evidence), leading


def _over_lags(
    products: Products, params: PyTree, window: PyTree, lags: range, carry: _Carry, every_vector: bool
) -> tuple[_Carry, _Measured]:
    """Advance and measure the product over some `lags` of the `window`, counted from 0, in their order."""
    length, n = window[0].shape
    backwards = products.anchor == "end"
    times = slice(length - lags.stop, length - lags.start) if backwards else slice(lags.start, lags.stop)
    part = jax.tree.map(lambda leaf: leaf[times], window)
    numbers = jnp.arange(lags.start, lags.stop)
    first = jax.tree.map(lambda leaf: leaf[0], window)

    def advance(carry: _Carry, inputs: PyTree) -> tuple[_Carry, _Measured]:
        h, x, lag = inputs
        product, square = _advance_product(products, params, carry.product, h, x)
        measured, leading = _measure(products, product.matrix, square, carry.leading, lag, every_vector)
        return _Carry(product, leading), measured

    carry, series = lax.scan(
        advance,
        carry,
        (*part, numbers[::-1] if backwards else numbers),
        reverse=backwards,
        # unrolling what runs rarely, or contains a search, would take too long to compile
        unroll=1 if every_vector or reduces(lambda h, x: products.flat_step(params, h, x), *first) else unroll(n),
    )
    return carry, _outward(series, products.anchor)


def _outcome(
    products: Products, trajectory: Trajectory, mantissa: dict[str, Series], exponent: IntSeries, is_safe: Array
) -> ScaledNorms:
    """The norms, NaN at lags that touch a state that is not finite; `suspect` if any other lag is not safe."""
    touches_bad = ever(_outward(~trajectory.finite, products.anchor))[1:]
    mantissa = {name: jnp.where(touches_bad, jnp.nan, value) for name, value in mantissa.items()}
    return ScaledNorms(mantissa, exponent, jnp.any(~is_safe & ~touches_bad))


def scaled_norms_of(
    products: Products, params: PyTree, trajectory: Trajectory, xs: PyTree, *, every_vector: bool = False
) -> ScaledNorms:
    """The norms of products with one exponent each; `suspect` unless every step is safe (see `underflow.is_safe`).

    If `every_vector`, every vector is checked, as needed for a product with zeros or with vectors of different sizes;
    otherwise only one is.
    """
    before = trajectory.states[:-1]
    length, n, dtype = len(before), before.shape[1], before.dtype
    room = underflow.room(dtype)
    over = partial(_over_lags, products, params, (before, xs))
    first = length if every_vector or products.looks_at_every_vector else min(_FIRST_LAGS, length)
    vectors = _first_vectors(products, params, before, xs)
    start = _Carry(_Scaled(vectors, power_of_two(jnp.int32(room), dtype)), products.leading(n, dtype))
    carry, measured = over(range(first), start, True)
    is_safe = underflow.is_safe(measured.square, measured.evidence)
    square, of_part, norms = measured[:3]
    if first < length:
        are_alike = underflow.are_alike(products.anchor, carry.product.matrix)
        _, rest = over(range(first, length), carry, False)
        square, of_part, norms = jax.tree.map(lambda *parts: jnp.concatenate(parts), measured[:3], rest[:3])
        least = rest.evidence if rest.evidence.ndim == 1 else underflow.smallest(rest.evidence[..., None])
        # if a vector has become zero, nothing follows for the others
        is_safe = jnp.concatenate([is_safe, underflow.is_safe(rest.square, least) & ~jnp.isnan(least) & are_alike])
    mantissa, exponent = underflow.size(of_part)
    of_whole = underflow.size(square)[1]
    exponent = exponent - of_whole + jnp.cumsum(of_whole - room, dtype=jnp.int32)
    norms = {name: {"frobenius": mantissa, **norms}[name] for name in products.norms}
    return _outcome(products, trajectory, norms, exponent, is_safe)


def extended_norms(products: Products, params: PyTree, trajectory: Trajectory, xs: PyTree) -> ScaledNorms:
    """The norms of products with an exponent for each entry: nothing is lost."""
    before = trajectory.states[:-1]
    n, dtype = before.shape[1], before.dtype
    turned = products.anchor == "end"  # the vectors are columns here, whatever the anchor

    def advance(matrix, inputs):
        h, x = inputs
        by_rows = turned or products.method == "jacrev"
        jacobian = jacobian_by_entry(lambda h: products.flat_step(params, h, x), h, by_rows=by_rows)
        matrix = extended_range.product(extended_range.transposed(jacobian) if turned else jacobian, matrix)
        part = Extended(*map(products.of_block, matrix))
        norm, exponent = extended_range.frobenius_norm(part)
        norms = {"frobenius": norm}
        if "spectral" in products.norms:
            norms["spectral"] = lapack.singular_values(extended_range.relative_to(part, exponent))[0]
        return matrix, ({name: norms[name] for name in products.norms}, exponent)

    _, series = lax.scan(advance, extended_range.identity(n, dtype), (before, xs), reverse=turned)
    mantissa, exponent = _outward(series, products.anchor)
    return _outcome(products, trajectory, mantissa, exponent, jnp.ones(len(before), bool))
