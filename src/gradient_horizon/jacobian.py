"""Log norms of products of step Jacobians, M(T, t) = J_T ... J_{t+1} = ∂h_T/∂h_t, at every lag.

A product is carried through the linearised step, one matrix product a step, and renormalised by exact powers of two
(see `scaling`), so that neither thousands of steps nor float32 make it over- or underflow.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon import linalg, names
from gradient_horizon.arrays import IntSeries, PyTree, Series, Step
from gradient_horizon.rollout import FlatStep, Trajectory, ever, flatten_step, pull, push, rollout, sequence_length
from gradient_horizon.runtime import unroll
from gradient_horizon.scaling import collapsed, frobenius_norm, power_of_two
from gradient_horizon.spectral_norm import fresh_directions, largest_singular_value

_log = logging.getLogger(__name__)
_LOG_2 = 0.6931471805599453


Block = Callable[[Any], Any]  # block(state) -> the part of it that is kept


class ScaledNorms(NamedTuple):
    """Norms as `mantissa[name]` · 2^`exponent`, each of shape (T,): exact logs in whatever precision is wanted.

    `suspect`: the product collapsed in a single step, so that entries flushed to zero before may be missing.
    """

    mantissa: dict[str, Series]
    exponent: IntSeries
    suspect: Bool[Array, ""]

    def log(self) -> dict[str, Series]:
        """The natural logs of the norms; -inf where the product is exactly zero."""
        return {
            name: jnp.log(value) + self.exponent.astype(value.dtype) * jnp.asarray(_LOG_2, value.dtype)
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


def _by_jacrev(anchor: str, flat_step: FlatStep, params: PyTree, h: Float[Array, " n"], x: PyTree, matrix):
    jacobian = jax.jacrev(flat_step, argnums=1)(params, h, x)
    left, right = (matrix, jacobian) if anchor == "end" else (jacobian, matrix)
    return jnp.matmul(left, right)


def _outward(values: PyTree, anchor: str) -> PyTree:
    """A series over steps, in the order in which the product meets them."""
    return jax.tree.map(lambda leaf: leaf[::-1], values) if anchor == "end" else values


def _places(block: Block, h0: PyTree) -> Int[np.ndarray, " m"]:
    """Where the part that `block` selects lies in the raveled state."""
    leaves, structure = jax.tree.flatten(h0)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])
    numbers = [
        np.arange(end - np.size(leaf), end).reshape(np.shape(leaf)) for leaf, end in zip(leaves, ends, strict=True)
    ]
    chosen = [np.asarray(leaf) for leaf in jax.tree.leaves(block(jax.tree.unflatten(structure, numbers)))]
    places = np.concatenate([np.ravel(leaf) for leaf in chosen]) if chosen else np.empty(0, int)
    if not places.size or not np.issubdtype(places.dtype, np.integer) or not set(places) <= set(range(ends[-1])):
        raise ValueError("block: selects nothing of the state; allowed: a function that returns some of its entries")
    return places


def scaled_norms(
    step: Step,
    params: PyTree,
    h0: PyTree,
    trajectory: Trajectory,
    xs: PyTree = None,
    *,
    anchor: str = "end",
    norms: Sequence[str] = ("frobenius",),
    method: str = "auto",
    block: Block | None = None,
) -> ScaledNorms:
    """Norms of the Jacobian products along a `trajectory` that `rollout` gave (of `h0` only the structure is read).

    NaN at every lag whose product touches a state that is not finite.
    """
    method = resolve_method(method, anchor)
    unknown = [name for name in norms if name not in names.NORMS]
    if unknown or not norms:
        raise ValueError(f"norms: {list(norms)}; allowed: one or more of {', '.join(names.NORMS)}")
    flat_step, _ = flatten_step(step, h0)
    multiply = {"jacrev": partial(_by_jacrev, anchor), "pushforward": push, "pullback": pull}[method]
    before = trajectory.states[:-1]
    n = before.shape[1]
    places = None if block is None else _places(block, h0)
    size = n if places is None else len(places)
    fresh = fresh_directions(size, before.dtype)

    def measure(kept, norm, leading, lag):
        """The norms, and what the next spectral norm starts from; the reference asks LAPACK each time."""
        found = {"frobenius": norm}
        if "spectral" in norms and method == "jacrev":
            found["spectral"] = linalg.singular_values(kept)[0]
        elif "spectral" in norms:
            # the side of the product that stays the same from lag to lag
            matrix = kept if anchor == "end" else kept.T
            found["spectral"], leading = largest_singular_value(matrix, leading, fresh[lag % len(fresh)])
        return {name: found[name] for name in norms}, leading

    def scaled(matrix, exponent):
        return matrix * power_of_two(-exponent, matrix.dtype)

    def advance(carry, inputs):
        matrix, gained, leading = carry
        h, x, lag = inputs
        # the product comes with the exponent that is still to be taken out of it, which costs no pass of its own here
        matrix = multiply(flat_step, params, h, x, scaled(matrix, gained))
        norm, gained = frobenius_norm(matrix)
        kept, of_part, found = scaled(matrix, gained), (), norm
        if places is not None:
            part = kept[places[:, None], places[None, :]]
            found, below = of_part = frobenius_norm(part)
            kept = scaled(part, below)
        measured, leading = measure(kept, found, leading, lag)
        return (matrix, gained, leading), (measured, (norm, gained), of_part)

    start = (jnp.eye(n, dtype=before.dtype), jnp.zeros((), jnp.int32), fresh[0])
    _, series = lax.scan(
        advance,
        start,
        (before, xs, jnp.arange(len(before))),
        reverse=anchor == "end",
        unroll=1 if "spectral" in norms else unroll(n),  # a search in each copy would take long to compile
    )
    mantissa, of_whole, of_part = _outward(series, anchor)
    exponent, suspect = jnp.cumsum(of_whole[1], dtype=jnp.int32), jnp.any(collapsed(*of_whole))
    if of_part:
        exponent, suspect = exponent + of_part[1], suspect | jnp.any(collapsed(*of_part))
    touches_bad = ever(_outward(~trajectory.finite, anchor))[1:]
    mantissa = {name: jnp.where(touches_bad, jnp.nan, value) for name, value in mantissa.items()}
    return ScaledNorms(mantissa, exponent, suspect & ~jnp.any(touches_bad))


def in_float64(tree: PyTree) -> PyTree:
    """Every floating leaf cast to float64 (which must be enabled)."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


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
) -> dict[str, Series]:
    """Natural logs of the norms of ∂h_T/∂h_t at every lag, for any one-step map.

    **Arguments:**

    - `step`: `step(params, h, x) -> h`; the state may be any pytree of one floating dtype.
    - `xs`: a pytree with leading axis T, or None with `steps` = T.
    - `anchor`: `"end"`: entry k is the log norm of ∂h_T/∂h_{T-1-k} (lag k + 1); `"start"`: of ∂h_{k+1}/∂h_0.
    - `norms`: `"frobenius"`, `"spectral"` (largest singular value), or both.
    - `method`: `"jacrev"`: each J_t by `jax.jacrev`, then multiplied, and LAPACK's singular values: the reference, for
      any step; `"pushforward"` (from the start) and `"pullback"` (from the end): the product carried through the
      linearised step, at half the work, and the largest singular value searched from lag to lag (see `spectral_norm`
      for its accuracy: 1e-6 in float32); `"auto"`: the one that fits the anchor.
    - `block`: a function from the state to a part of it; the norms are then those of that part's derivative with
      respect to itself, as ∂c_T/∂c_t of an LSTM: `block=lambda state: state.c`. The block of a product is not the
      product of the blocks, so the whole product is carried (at the whole price) and the norm taken of its block.
    - `trajectory`: what `rollout` gave for these, where it is at hand (with `rescale`, say); None: it is computed.

    **Returns:** `{norm: (T,) array}` in the state's dtype. -inf where the product is exactly zero; NaN where it
    touches a state that is not finite.

    A float32 product that collapses within a single step by more than 2^100 may have lost entries to underflow, and
    so may a block that is smaller than the whole product by as much; it is computed again in float64 along the same
    states, where a block may be 2^1022 times smaller before it reads zero. (Inside a transformation such as `jax.jit`
    the values are not known and this is left out.)

    **Raises:** `ValueError` for an unknown or unfitting setting, or a block that selects nothing.
    """
    sequence_length(xs, steps)
    # `auto`, `pullback` and `jacrev` see the same states: a chaotic map would amplify any rounding between them.
    trajectory = rollout(step, params, h0, xs, steps=steps) if trajectory is None else trajectory
    measure = partial(scaled_norms, step, anchor=anchor, norms=tuple(norms), method=method, block=block)
    scaled = measure(params, h0, trajectory, xs)
    concrete = not isinstance(scaled.suspect, Tracer)
    if concrete and trajectory.states.dtype == jnp.float32 and bool(scaled.suspect):
        _log.info("a product collapsed within one step: measured again in float64")
        with jax.enable_x64(True):
            exact = measure(*in_float64((params, h0, trajectory, xs)))
            return {name: value.astype(jnp.float32) for name, value in exact.log().items()}
    return scaled.log()
