"""Log norms of products of step Jacobians, M(T, t) = J_T ... J_{t+1} = ∂h_T/∂h_t, at every lag.

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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon import names
from gradient_horizon.measures.horizon import Horizon, gradient_horizon
from gradient_horizon.measures.states import FlatStep
from gradient_horizon.measures.trajectory import System, Trajectory, ever, system_of
from gradient_horizon.measures.wide import jacobian_by_entry
from gradient_horizon.numerics import extended_range, lapack, underflow
from gradient_horizon.numerics.arrays import IntSeries, PyTree, Scalar, Series, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.derivatives import jacobian_by_rows, pull, push, push_rows
from gradient_horizon.numerics.exponents import LOG_2, power_of_two
from gradient_horizon.numerics.extended_range import Extended
from gradient_horizon.numerics.fallback import is_postponed, step_of_arrays, with_care
from gradient_horizon.numerics.keys import fixed_normal
from gradient_horizon.numerics.spectral_norm import fresh_directions, largest_by_lapack, largest_singular_value
from gradient_horizon.numerics.xla import computed_once, unroll

# Lags at which every vector is checked. By then all have zeros in the same entries, and one can stand for all.
_FIRST_LAGS = 3
MOST_CARE = 2  # see `scaled_norms`


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
        return {
            name: jnp.log(value) + self.exponent.astype(value.dtype) * jnp.asarray(LOG_2, value.dtype)
            for name, value in self.mantissa.items()
        }


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


@dataclass(frozen=True, eq=False)
class JacobianNorms(Mapping[str, Any]):
    """Natural logs of the norms of Jacobian products at every lag, by name: `norms["frobenius"]`, of shape (T,).

    A pytree: under `jax.vmap` the arrays have a leading axis for the networks, and every method works on all of them.
    """

    log_norms: dict[str, Any]  # arrays, or whatever `jax.tree.map` has put in their place
    state_size: int  # n, the size of the state or of its block

    def __getitem__(self, norm: str) -> Any:
        return self.log_norms[norm]

    def __iter__(self) -> Iterator[str]:
        return iter(self.log_norms)

    def __len__(self) -> int:
        return len(self.log_norms)

    @property
    def lags(self) -> Int[np.ndarray, " T"]:
        """1 .. T."""
        return np.arange(1, next(iter(self.log_norms.values())).shape[-1] + 1)

    @property
    def finite(self) -> Any:
        """True at lags whose product touches only finite states; at the other lags the norms are NaN."""
        return ~jnp.isnan(next(iter(self.log_norms.values())))

    def horizon(self, threshold: float = 3.0) -> Horizon:
        """`gradient_horizon` of the Frobenius norms; `ValueError` if they were not measured."""
        if "frobenius" not in self.log_norms:
            raise ValueError(f"norms: {list(self.log_norms)}; a horizon needs frobenius among them")
        return gradient_horizon(self.log_norms["frobenius"], self.state_size, threshold)


jax.tree_util.register_dataclass(JacobianNorms, data_fields=["log_norms"], meta_fields=["state_size"])


class _Products(NamedTuple):
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
        return (pull if self.anchor == "end" else push)(self.flat_step, params, h, x, matrix)

    def jacobian(self, params: PyTree, h: Float[Array, " n"], x: PyTree) -> Float[Array, "n n"]:
        """J, by the derivatives of `method`."""
        if self.method == "jacrev":
            return jacobian_by_rows(lambda h: self.flat_step(params, h, x), h)
        return self.multiply(params, h, x, jnp.eye(h.shape[0], dtype=h.dtype))

    def of_block(self, matrix: Array) -> Array:
        """The block's own rows and columns."""
        return matrix if self.places is None else matrix[self.places[:, None], self.places[None, :]]

    def spectral(self, matrix: Array, leading: Array, lag: Array) -> tuple[Scalar, Array]:
        """The spectral norm of `matrix`, and the starting point of the next search; the reference uses LAPACK."""
        if self.method == "jacrev":
            return largest_by_lapack(matrix), leading
        fresh = fresh_directions(len(matrix), matrix.dtype)
        # the side of the product that stays the same from lag to lag
        kept = matrix if self.anchor == "end" else matrix.T
        value, leading = largest_singular_value(kept, leading, fresh[lag % len(fresh)])
        return value, leading

    def leading(self, n: int, dtype: Any) -> Array:
        """Where the search for the first spectral norm starts."""
        return fresh_directions(n if self.places is None else len(self.places), dtype)[0]


def _products(system: System, anchor: str, norms: Sequence[str], method: str, block: Block | None) -> _Products:
    method = resolve_method(method, anchor)
    unknown = [name for name in norms if name not in names.NORMS]
    if unknown or not norms:
        raise ValueError(f"norms: {list(norms)}; allowed: one or more of {', '.join(names.NORMS)}")
    places = None if block is None else system.layout.places(block)
    return _Products(system.step, anchor, tuple(norms), method, places)


class _Scaled(NamedTuple):
    """A product as `matrix` · `scale` · 2^e, where `matrix` · `scale` has the norm that `underflow` requires.

    e is kept elsewhere.
    """

    matrix: Array
    scale: Scalar


def _advanced(products: _Products, params: PyTree, product: _Scaled, h: Array, x: PyTree) -> tuple[_Scaled, Scalar]:
    """The product one step further, and its ‖`matrix`‖_F²."""
    matrix = products.multiply(params, h, x, product.matrix * product.scale)
    square = jnp.sum(matrix * matrix)
    return _Scaled(matrix, power_of_two(underflow.room(h.dtype) - underflow.size(square)[1], h.dtype)), square


def _first_vectors(products: _Products, params: PyTree, before: Array, xs: PyTree) -> Float[Array, "n n"]:
    """The identity; from the end, reordered so that the first row is non-zero after the first step, if any row is.

    (A unit that is dead at T zeroes its row.)
    """
    n, dtype = before.shape[1], before.dtype
    identity = jnp.eye(n, dtype=dtype)
    if products.anchor == "start" or products.places is not None:
        return identity
    h, x = jax.tree.map(lambda leaf: leaf[-1], (before, xs))
    generic = jnp.asarray(fixed_normal(1, n), dtype)
    alive = jnp.argmax(jnp.abs(push_rows(products.flat_step, params, h, x, generic)[0]))
    order = jnp.arange(n)
    order = jnp.where(order == 0, alive, jnp.where(order == alive, 0, order))
    return jnp.where(order[:, None] == jnp.arange(n)[None, :], jnp.ones((), dtype), jnp.zeros((), dtype))


def _outcome(
    products: _Products, trajectory: Trajectory, mantissa: dict[str, Series], exponent: IntSeries, is_safe: Array
) -> ScaledNorms:
    touches_bad = ever(_outward(~trajectory.finite, products.anchor))[1:]
    mantissa = {name: jnp.where(touches_bad, jnp.nan, value) for name, value in mantissa.items()}
    return ScaledNorms(mantissa, exponent, jnp.any(~is_safe & ~touches_bad))


def _carried(
    products: _Products, params: PyTree, trajectory: Trajectory, xs: PyTree, *, every_vector: bool = False
) -> ScaledNorms:
    """The norms of products with one exponent each; `suspect` unless every step is safe (see `underflow.is_safe`).

    If `every_vector`, every vector is checked, as needed for a product with zeros or with vectors of different sizes;
    otherwise only one is.
    """
    before = trajectory.states[:-1]
    length, n, dtype = len(before), before.shape[1], before.dtype
    backwards = products.anchor == "end"
    every_vector = every_vector or products.looks_at_every_vector

    def advance(carry, inputs, every_vector):
        product, leading = carry
        h, x, lag = inputs
        product, square = _advanced(products, params, product, h, x)
        matrix = product.matrix
        # Checking one vector after the loop is much cheaper. It is copied, so that the matrix need not be kept.
        one = matrix[0] if backwards else matrix[:, 0]
        evidence = underflow.smallest(matrix) if every_vector else computed_once(one)
        norms, of_part = {}, square
        if products.places is not None:
            matrix = products.of_block(matrix)
            of_part = jnp.sum(matrix * matrix)
        if "spectral" in products.norms:
            scaled = matrix * power_of_two(-underflow.size(of_part)[1], dtype)
            norms["spectral"], leading = products.spectral(scaled, leading, lag)
        return (product, leading), (square, of_part, norms, evidence)

    def over(lags, carry, every_vector):
        times = slice(length - lags.stop, length - lags.start) if backwards else slice(lags.start, lags.stop)
        window = jax.tree.map(lambda leaf: leaf[times], (before, xs))
        numbers = jnp.arange(lags.start, lags.stop)
        carry, series = lax.scan(
            lambda carry, inputs: advance(carry, inputs, every_vector),
            carry,
            (*window, numbers[::-1] if backwards else numbers),
            reverse=backwards,
            # unrolling what runs rarely, or contains a search, would take too long to compile
            unroll=1 if every_vector else unroll(n),
        )
        return carry, _outward(series, products.anchor)

    first = length if every_vector else min(_FIRST_LAGS, length)
    start = _Scaled(_first_vectors(products, params, before, xs), power_of_two(jnp.int32(underflow.room(dtype)), dtype))
    carry, (*series, smallest) = over(range(first), (start, products.leading(n, dtype)), True)
    is_safe = underflow.is_safe(series[0], smallest)
    if first < length:
        are_alike = underflow.are_alike(products.anchor, carry[0].matrix)
        _, (*rest, vectors) = over(range(first, length), carry, False)
        series = jax.tree.map(lambda *parts: jnp.concatenate(parts), series, rest)
        is_there = jnp.any(vectors != 0, axis=1)  # of a vector that has become zero nothing follows for the others
        is_safe_too = underflow.is_safe(rest[0], underflow.smallest(vectors[:, None])) & is_there & are_alike
        is_safe = jnp.concatenate([is_safe, is_safe_too])
    square, of_part, norms = series
    mantissa, exponent = underflow.size(of_part)
    of_whole = underflow.size(square)[1]
    exponent = exponent - of_whole + jnp.cumsum(of_whole - underflow.room(dtype), dtype=jnp.int32)
    norms = {name: {"frobenius": mantissa, **norms}[name] for name in products.norms}
    return _outcome(products, trajectory, norms, exponent, is_safe)


def _extended(products: _Products, params: PyTree, trajectory: Trajectory, xs: PyTree) -> ScaledNorms:
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


def scaled_norms(
    system: System,
    *,
    anchor: str = "end",
    norms: Sequence[str] = ("frobenius",),
    method: str = "auto",
    block: Block | None = None,
    care: int = 0,
) -> ScaledNorms:
    """Norms of the Jacobian products of real vectors along the trajectory of `system`.

    NaN at every lag whose product touches a state that is not finite.

    `care`: 0: one vector stands for all; 1: every vector is checked (needed for a product with zeros), at a tenth more
    cost; 2: an exponent for each entry, at about ten times the cost, and nothing is `suspect`. Measure a `suspect`
    result again with more care. `method="jacrev"` always uses the highest level.
    """
    products = _products(system, anchor, norms, method, block)
    if care == MOST_CARE or products.method == "jacrev":
        return _extended(products, system.params, system.trajectory, system.xs)
    return _carried(products, system.params, system.trajectory, system.xs, every_vector=care == 1)


def log_norms(
    system: System,
    *,
    anchor: str = "end",
    norms: Sequence[str] = ("frobenius",),
    method: str = "auto",
    block: Block | None = None,
    every_vector: bool = False,
) -> dict[str, Series]:
    """`log_jacobian_norms` of a network's system.

    `every_vector`: check every vector from the start (see `scaled_norms`): a tenth slower, but one program fewer to
    compile.
    """
    products = _products(system, anchor, norms, method, block)
    _, params, xs, trajectory, *_ = system
    if products.method == "jacrev" and (is_postponed() or not isinstance(trajectory.states, Tracer)):
        # not under a transformation
        return _extended(products, params, trajectory, xs).log()
    carried = _carried(products, params, trajectory, xs, every_vector=every_vector)
    is_suspect = jnp.asarray(True) if products.method == "jacrev" else carried.suspect
    if not isinstance(is_suspect, Tracer) and not is_suspect:
        return carried.log()
    # traced values held by `params` and the step become an argument, `closed`
    step, closed = step_of_arrays(lambda h, x: products.flat_step(params, h, x), trajectory.states, xs)
    products = products._replace(flat_step=step)

    def by_entry(states: Array, xs: PyTree, closed: PyTree) -> dict[str, Series]:
        return _extended(products, closed, Trajectory(states), xs).log()

    def by_vector(states: Array, xs: PyTree, closed: PyTree) -> dict[str, Series]:
        scaled = _carried(products, closed, Trajectory(states), xs, every_vector=True)
        return with_care(scaled.suspect, scaled.log(), by_entry, states, xs, closed)

    looked_at = every_vector or products.looks_at_every_vector or products.method == "jacrev"
    return with_care(is_suspect, carried.log(), by_entry if looked_at else by_vector, trajectory.states, xs, closed)


@compiled_once
def log_jacobian_norms(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    steps: int | None = None,
    anchor: str = "end",
    norms: Sequence[str] = ("frobenius",),
    method: str = "auto",
    block: Block | None = None,
    trajectory: Trajectory | None = None,
) -> JacobianNorms:
    """Natural logs of the norms of ∂h_T/∂h_t at every lag, for any one-step map.

    **Arguments:**

    - `step`: `step(params, h, x) -> h`; the state may be any pytree of arrays, including complex and 16-bit ones, and
      may also hold integers, booleans and random keys (see `states`).
    - `xs`: a pytree with leading axis T, or None with `steps` = T.
    - `anchor`: `"end"`: entry k is the log norm of ∂h_T/∂h_{T-1-k} (lag k + 1); `"start"`: of ∂h_{k+1}/∂h_0.
    - `norms`: `"frobenius"`, `"spectral"` (largest singular value), or both.
    - `method`: `"jacrev"`: form each J_t with `jax.jacrev`, multiply, and take LAPACK's singular values: the reference,
      for any step; `"pushforward"` (from the start) and `"pullback"` (from the end): carry the product through the
      linearised step, at half the work, and track the largest singular value from lag to lag (to 1e-6 in float32; see
      `spectral_norm`); `"auto"`: the one that fits the anchor.
    - `block`: a function from the state to a part of it; the norms are then those of the derivative of that part with
      respect to itself, such as ∂c_T/∂c_t of an LSTM: `block=lambda state: state.c`. The block of a product is not the
      product of the blocks, so the whole product is carried (at full cost) and the norm is taken of its block.
    - `trajectory`: the result of `rollout` for the same arguments, if available (say, with `rescale`); by default it
      is computed.

    **Returns:** `JacobianNorms`: an array (T,) for each norm, by name, in the vector's dtype. -inf if the product is
    exactly zero; NaN if it touches a state that is not finite.

    **Accuracy:** J_t is the step's own derivative in floats of the state's dtype, and the product of these floats
    neither over- nor underflows: if an entry might be lost next to the others, the product is formed again with an
    exponent for each entry (see `extended_range`), whether jitted or not. What remains is rounding: eps T times the
    cancellation ‖A‖ ‖B‖ / ‖A B‖ between parts A, B of the product.

    **Complex states:** a holomorphic step is measured by its complex Jacobian, n × n. (The real Jacobian of its real
    and imaginary parts has the same spectral norms, and Frobenius norms larger by √2.) Any other step is measured by
    that real Jacobian, 2n × 2n. Whether a step is holomorphic is read from its linearisation (see `holomorphic`).

    **Derivatives:** forward and reverse; NaN at lags where the product had to be formed again and differs, and, for
    spectral norms, where two singular values are equal. Reverse only if the step uses `jax.custom_vjp`.

    **Raises:** `ValueError` for an unknown or incompatible setting, or a block that selects nothing.
    """
    system = system_of(step, params, h0, xs, steps=steps, trajectory=trajectory)
    found = log_norms(system, anchor=anchor, norms=norms, method=method, block=block)
    if system.is_holomorphic and "frobenius" in found:
        found["frobenius"] = found["frobenius"] - system.log_norm_of_pairs
    size = system.layout.size if block is None else len(system.layout.places(block))
    return JacobianNorms(found, size // 2 if system.is_holomorphic else size)
