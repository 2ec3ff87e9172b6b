"""Gradient clipping, by each of the rules in use under its own name: they differ by more than rounding.

n is the global norm ‖g‖ over every entry of the tree, c the threshold.

| rule | clipped g | source |
|---|---|---|
| `none` | g | |
| `book` | g c/(n + 1e-6), if that factor is below 1 | the study notes' code; PyTorch's `clip_grad_norm_` |
| `pseudocode` | g c/n, if n ≥ c | the study notes' formula; Pascanu, Mikolov, Bengio 2013, algorithm 1 |
| `optax` | (g/n) c, unless n < c | optax's `clip_by_global_norm` |
| `pascanu` | g c/n, if n > c; unless n ≤ 1e10: 0.02 W for a recurrent matrix, 0 for the rest | the code of that paper |
| `value` | each entry cut to [-c, c] | Mikolov 2012 |
| `adaptive` | each unit's row G times c max(‖W‖, 1e-3)/‖G‖, if below 1 | AGC: Brock, De, Smith, Simonyan 2021, eq. 3 |

`book` shortens a gradient by a fraction 1e-6/n more than `pseudocode`: by 1e-4 at n = 0.01.

Norms and rates are held as mantissas and exponents (`exponents`), so that no rule over- or underflows if its result is
a normal number: squares, n, c/n and c ‖W‖ may all lie outside the range of floats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.tree_util import keystr, tree_map_with_path
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon import names
from gradient_horizon.names import declare
from gradient_horizon.numerics.arrays import PyTree, Scalar
from gradient_horizon.numerics.exponents import add, frobenius_norm, normalise, power_of_two

DECLARES = (
    declare.ClipRule("none", "no clipping", make="_none"),
    declare.ClipRule("book", "clip the global norm, as in the study notes and PyTorch", make="_book"),
    declare.ClipRule("pseudocode", "clip the global norm, as in Pascanu, Mikolov and Bengio 2013", make="_pseudocode"),
    declare.ClipRule("optax", "clip the global norm, as in optax", make="_optax"),
    declare.ClipRule(
        "pascanu", "clip as in the code of Pascanu, Mikolov and Bengio 2013", make="_pascanu", needs_params=True
    ),
    declare.ClipRule("value", "clip each entry", make="_value"),
    declare.ClipRule("adaptive", "clip each unit, by the norm of its weights", make="_adaptive", needs_params=True),
)

LARGEST_NORM = 1e10  # `pascanu`: a gradient with a larger norm is discarded
BOOK_OFFSET = 1e-6  # `book`: its code adds this to the norm
SMALLEST_WEIGHTS = 1e-3  # `adaptive`: lower bound on the norm of a unit's weights


class _Size(NamedTuple):
    """`mantissa` 2^`exponent`, the mantissa in [1, 2), or 0, infinite or NaN."""

    mantissa: Scalar
    exponent: Int[Array, ""]


def _size_of(number: Scalar) -> _Size:
    return _Size(*normalise(number))


def _product(a: _Size, b: _Size) -> _Size:
    mantissa, gained = normalise(a.mantissa * b.mantissa)
    return _Size(mantissa, a.exponent + b.exponent + gained)


def _quotient(a: _Size, b: _Size) -> _Size:
    """a/b; it is above, at or below 1 exactly if `a` is above, at or below `b`: quotients never round across 1."""
    mantissa, gained = normalise(a.mantissa / b.mantissa)
    return _Size(mantissa, a.exponent - b.exponent + gained)


def _number(size: _Size) -> Scalar:
    """The size as a float; 0 or infinite if it is outside the range of floats."""
    dtype = size.mantissa.dtype
    most = -int(jnp.finfo(dtype).minexp)
    exponent = jnp.clip(size.exponent, -2 * most, 2 * most)
    half = exponent >> 1
    return size.mantissa * power_of_two(half, dtype) * power_of_two(exponent - half, dtype)


def _shortened(gradient: Float[Array, "..."], rate: _Size) -> Float[Array, "..."]:
    """`gradient` times `rate` ≤ 1, rounded once, and 0 only if the product is below the normal numbers.

    (In three factors, as the smallest threshold and the norm of the largest entries are two exponent ranges apart.)
    """
    dtype, left = rate.mantissa.dtype, rate.exponent
    shortened, factor = gradient.astype(dtype), rate.mantissa
    for _ in range(3):
        part = jnp.clip(left, int(jnp.finfo(dtype).minexp), 0)
        shortened, left = shortened * (factor * power_of_two(part, dtype)), left - part
        factor = jnp.ones_like(factor)
    return shortened.astype(gradient.dtype)


def _rate(quotient: _Size, is_kept: Bool[Array, ""]) -> _Size:
    """`quotient`, or 1 if the gradient is left unchanged."""
    one = jnp.ones_like(quotient.mantissa)
    return _Size(jnp.where(is_kept, one, quotient.mantissa), jnp.where(is_kept, 0, quotient.exponent))


def _arrays(setting: str, tree: PyTree) -> PyTree:
    """`tree` with its leaves (NumPy arrays and Python floats, too) as JAX arrays, in JAX's precision for them.

    Raises `ValueError` for a leaf that does not have a floating dtype.
    """

    def array(path, leaf):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            name = keystr(path, simple=True, separator=".")
            raise ValueError(f"{setting}: leaf {name!r} has dtype {dtype}; allowed: a floating dtype")
        return jnp.asarray(leaf)

    return tree_map_with_path(array, tree)


def _working(leaves: list[Array]) -> Any:
    """The dtype of norms and rates: float64 if a leaf has it, otherwise float32, also for half precision."""
    return jnp.dtype(jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32)


def _norm(grads: PyTree) -> _Size:
    leaves = [leaf for leaf in jax.tree.leaves(grads) if leaf.size]
    dtype = _working(leaves)
    if not leaves:
        return _size_of(jnp.zeros((), dtype))
    return _Size(*frobenius_norm(jnp.concatenate([jnp.ravel(leaf).astype(dtype) for leaf in leaves])))


def global_norm(tree: PyTree) -> Scalar:
    """√Σ g² over every entry; over- or underflows only if the norm itself does. NaN if an entry is NaN.

    Raises `ValueError` for a leaf that does not have a floating dtype.
    """
    return _number(_norm(_arrays("tree", tree)))


def _adapted(gradient: Array, weight: Array, threshold: _Size) -> Array:
    """Clip each row of a matrix separately, as it feeds one unit, and any other leaf as a whole."""
    dtype = threshold.mantissa.dtype

    def unit(gradient, weight):
        size = _Size(*frobenius_norm(gradient.astype(dtype)))
        weights = _Size(*frobenius_norm(weight.astype(dtype)))
        least = _size_of(jnp.asarray(SMALLEST_WEIGHTS, dtype))
        is_small = _number(weights) < SMALLEST_WEIGHTS
        most = _product(threshold, _Size(*(jnp.where(is_small, a, b) for a, b in zip(least, weights, strict=True))))
        quotient = _quotient(most, size)
        is_zero = (size.mantissa == 0) & ~jnp.isnan(most.mantissa)
        return _shortened(gradient, _rate(quotient, (_number(quotient) >= 1) | is_zero))

    if not gradient.size:
        return gradient
    return jax.vmap(unit)(gradient, weight) if gradient.ndim == 2 else unit(gradient, weight)


class Clipped(NamedTuple):
    """What a clip rule works on: `grads`, JAX arrays, and c = `threshold`, a scalar in the dtype of norms and rates.

    `params` and `recurrent` are those of `clip_gradients`; `known_norm` is the global norm, if it is known already.
    """

    grads: PyTree
    threshold: Scalar
    params: PyTree
    recurrent: str | None
    known_norm: _Size | None = None

    def norm(self) -> _Size:
        """The global norm n."""
        return _norm(self.grads) if self.known_norm is None else self.known_norm

    def times(self, rate: _Size) -> PyTree:
        """Every gradient times `rate`, at most 1."""
        return jax.tree.map(lambda gradient: _shortened(gradient, rate), self.grads)


def _none(given: Clipped) -> PyTree:
    return given.grads


def _book(given: Clipped) -> PyTree:
    norm, threshold = given.norm(), _size_of(given.threshold)
    offset = _size_of(jnp.asarray(BOOK_OFFSET, norm.mantissa.dtype))
    (mantissa,), exponent = add(norm.mantissa[None], norm.exponent, offset.mantissa[None], offset.exponent)
    quotient = _quotient(threshold, _Size(mantissa, exponent))
    return given.times(_rate(quotient, _number(quotient) >= 1))


def _pseudocode(given: Clipped) -> PyTree:
    norm, threshold = given.norm(), _size_of(given.threshold)
    quotient = _quotient(threshold, norm)
    return given.times(_rate(quotient, (_number(quotient) > 1) | _is_zero(norm, threshold)))


def _optax(given: Clipped) -> PyTree:
    quotient = _quotient(_size_of(given.threshold), given.norm())
    return given.times(_rate(quotient, _number(quotient) > 1))


def _is_zero(norm: _Size, threshold: _Size) -> Bool[Array, ""]:
    return (norm.mantissa == 0) & (threshold.mantissa >= 0)


def _is_named(path: tuple, name: str) -> bool:
    text = keystr(path, simple=True, separator=".")
    return text == name or text.endswith(f".{name}")


def _pascanu(given: Clipped) -> PyTree:
    recurrent, norm, threshold = given.recurrent, given.norm(), _size_of(given.threshold)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(given.grads)]
    if recurrent is None or not any(_is_named(path, recurrent) for path in paths):
        there = ", ".join(keystr(path, simple=True, separator=".") for path in paths)
        raise ValueError(f"recurrent: {recurrent!r}; allowed with rule='pascanu': the end of one of {there}")
    # a NaN threshold gives NaN here, too
    is_usable = (_number(norm) <= LARGEST_NORM) | jnp.isnan(threshold.mantissa)
    quotient = _quotient(threshold, norm)
    rate = _rate(quotient, (_number(quotient) >= 1) | _is_zero(norm, threshold))

    def clipped(path, gradient, weight):
        fallback = 0.02 * weight.astype(gradient.dtype) if _is_named(path, recurrent) else jnp.zeros_like(gradient)
        return jnp.where(is_usable, _shortened(gradient, rate), fallback)

    return tree_map_with_path(clipped, given.grads, given.params)


def _value(given: Clipped) -> PyTree:
    threshold = given.threshold
    return jax.tree.map(
        lambda g: jnp.clip(g.astype(threshold.dtype), -threshold, threshold).astype(g.dtype), given.grads
    )


def _adaptive(given: Clipped) -> PyTree:
    most = _size_of(given.threshold)
    return jax.tree.map(lambda gradient, weight: _adapted(gradient, weight, most), given.grads, given.params)


def _scalar(threshold: ArrayLike, dtype: Any) -> Scalar:
    """`threshold` as a scalar array; NaN if a traced one turns out to be negative."""
    if jnp.shape(threshold):
        raise ValueError(f"threshold: an array of shape {jnp.shape(threshold)}; allowed: a number, or a scalar array")
    if not isinstance(threshold, Tracer) and not np.asarray(threshold) >= 0:
        raise ValueError(f"threshold: {threshold}; allowed: a number of at least 0")
    threshold = jnp.asarray(threshold, dtype)
    return jnp.where(threshold >= 0, threshold, jnp.nan)


def _clipped(
    grads: PyTree, norm: _Size | None, threshold: ArrayLike, rule: str, params: PyTree, recurrent: str | None
) -> PyTree:
    """`clip_gradients` for JAX arrays, whose norm may be known already."""
    leaves = jax.tree.leaves(grads)
    if rule == "none" or not leaves:
        return grads
    given = Clipped(grads, _scalar(threshold, _working(leaves)), params, recurrent, norm)
    return declare.declared(declare.ClipRule)[rule].load()(given)


def _checked(grads: PyTree, rule: str, params: PyTree) -> tuple[PyTree, PyTree]:
    """Gradients and parameters as JAX arrays; the parameters None if the rule does not need them."""
    if rule not in names.CLIP_RULES:
        raise ValueError(f"rule: {rule!r} is unknown; allowed: {', '.join(names.CLIP_RULES)}")
    if not declare.declared(declare.ClipRule)[rule].needs_params:
        return _arrays("grads", grads), None
    if params is None:
        raise ValueError(f"params: None; rule={rule!r} needs the parameters that the gradients belong to")
    return _arrays("grads", grads), _arrays("params", params)


def clip_gradients(
    grads: PyTree,
    threshold: ArrayLike,
    rule: str = "book",
    *,
    params: PyTree = None,
    recurrent: str | None = None,
) -> PyTree:
    """Clip `grads`, a pytree of arrays with floating dtypes, by one of the rules above.

    **Arguments:**

    - `grads`: leaves may also be NumPy arrays and Python floats; they are returned as JAX arrays, in float32 unless
      `jax_enable_x64` is set. Norms of half-precision leaves are computed in float32.
    - `threshold`: c ≥ 0, a number or a scalar array (so that it may differ between networks under `jax.vmap`); one
      beyond the range of floats is infinite and clips nothing. Ignored by `none`.
    - `rule`: one of `names.CLIP_RULES`.
    - `params`: the parameters, of the same structure; `adaptive` and `pascanu` need them.
    - `recurrent`: for `pascanu`, the name of the recurrent matrix in the tree. It selects every leaf whose path ends in
      it, such as `"recurrent"` or `"candidate.recurrent"`.

    **Returns:** a tree of the same structure, shapes and dtypes.

    - For a gradient of zeros every rule returns zeros, except `optax`, which gives NaN at c = 0.
    - A NaN entry makes the whole gradient NaN under `book`, `pseudocode` and `optax`, and its unit's row under
      `adaptive`. Under these rules infinite entries become NaN and the others 0 (NaN if c is infinite). `pascanu` falls
      back on 0.02 W in both cases; `value` keeps NaN and clips infinite entries; `none` keeps everything.
    - A traced c that turns out to be negative or NaN makes every entry NaN.

    **Raises:** `ValueError` for an unknown rule; a leaf that does not have a floating dtype; a threshold that is known
    to be negative or NaN, or is not a scalar; and if a rule lacks `params` or `recurrent`, or no leaf has that name.
    """
    arrays, params = _checked(grads, rule, params)
    return grads if rule == "none" else _clipped(arrays, None, threshold, rule, params, recurrent)


class ClipState(NamedTuple):
    """The global norm of the last gradient before and after clipping, and the number of gradients changed so far."""

    norm: Scalar
    clipped_norm: Scalar
    changed: Int[Array, ""]


def clipping(rule: str, threshold: ArrayLike, *, recurrent: str | None = None) -> optax.GradientTransformationExtraArgs:
    """`clip_gradients` as a transformation for an optax chain, which records what it did in its `ClipState`.

    A gradient counts as changed if any entry differs from its value before. Raises the errors of `clip_gradients` at
    the first update.
    """

    def init(params: PyTree) -> ClipState:
        zero = jnp.zeros((), _working(jax.tree.leaves(_arrays("params", params))))
        return ClipState(zero, zero, jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **_: Any) -> tuple[PyTree, PyTree]:
        updates, params = _checked(updates, rule, params)
        size = _norm(updates)
        clipped, norm = _clipped(updates, size, threshold, rule, params, recurrent), _number(size)
        if rule == "none":
            return clipped, ClipState(norm, norm, state.changed)
        differ = [jnp.any(a != b) for a, b in zip(jax.tree.leaves(clipped), jax.tree.leaves(updates), strict=True)]
        changed = state.changed + jnp.any(jnp.stack(differ)).astype(jnp.int32)
        return clipped, ClipState(norm, _number(_norm(clipped)), changed)

    return optax.GradientTransformationExtraArgs(init, update)
