"""Clipping a gradient: the rules in use differ, by more than rounding, so each stands here under its own name.

n is the global norm ‖g‖ over every entry of the tree, c the threshold.

| rule | what becomes of g | source |
|---|---|---|
| `none` | g | |
| `book` | g c/(n + 1e-6), if that factor is below 1 | the study notes' code; PyTorch's `clip_grad_norm_` |
| `pseudocode` | g c/n, if n ≥ c | the study notes' formula; Pascanu, Mikolov, Bengio 2013, algorithm 1 |
| `optax` | (g/n) c, unless n < c | optax's `clip_by_global_norm` |
| `pascanu` | g c/n, if n > c; unless n ≤ 1e10: 0.02 W for a recurrent matrix, 0 for the rest | that paper's code |
| `value` | each entry cut to [-c, c] | Mikolov 2012 |
| `adaptive` | each unit's row G times c max(‖W‖, 1e-3)/‖G‖, if below 1 | AGC: Brock, De, Smith, Simonyan 2021, eq. 3 |

`book` shortens a gradient by 1e-6/n more than `pseudocode` does: 1e-4 of it at n = 0.01.

Norms and rates are mantissas and exponents (`exponents`), so that no rule over- or underflows where what it gives is a
normal number: neither squares nor n, c/n and c ‖W‖, which may lie beyond the floats.
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
from gradient_horizon.numerics.arrays import PyTree, Scalar
from gradient_horizon.numerics.exponents import add, frobenius_norm, normalise, power_of_two

LARGEST_NORM = 1e10  # `pascanu`: beyond it a gradient is thrown away
BOOK_OFFSET = 1e-6  # `book`: what its code adds to the norm
SMALLEST_WEIGHTS = 1e-3  # `adaptive`: a unit's weights count as no smaller


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
    """a/b; it is above, at or below 1 where `a` is above, at or below `b`: no quotient of floats rounds across 1."""
    mantissa, gained = normalise(a.mantissa / b.mantissa)
    return _Size(mantissa, a.exponent - b.exponent + gained)


def _number(size: _Size) -> Scalar:
    """The float, 0 or infinite where it is none."""
    dtype = size.mantissa.dtype
    most = -int(jnp.finfo(dtype).minexp)
    exponent = jnp.clip(size.exponent, -2 * most, 2 * most)
    half = exponent >> 1
    return size.mantissa * power_of_two(half, dtype) * power_of_two(exponent - half, dtype)


def _shortened(gradient: Float[Array, "..."], rate: _Size) -> Float[Array, "..."]:
    """`gradient` times `rate` ≤ 1, rounded once, and 0 only where the product is below the normal numbers.

    (In three factors: between the least threshold and the norm of the largest entries lie two floats' exponents.)
    """
    dtype, left = rate.mantissa.dtype, rate.exponent
    shortened, factor = gradient.astype(dtype), rate.mantissa
    for _ in range(3):
        part = jnp.clip(left, int(jnp.finfo(dtype).minexp), 0)
        shortened, left = shortened * (factor * power_of_two(part, dtype)), left - part
        factor = jnp.ones_like(factor)
    return shortened.astype(gradient.dtype)


def _rate(quotient: _Size, is_kept: Bool[Array, ""]) -> _Size:
    """`quotient`, or 1 where the gradient is kept as it is."""
    one = jnp.ones_like(quotient.mantissa)
    return _Size(jnp.where(is_kept, one, quotient.mantissa), jnp.where(is_kept, 0, quotient.exponent))


def _arrays(setting: str, tree: PyTree) -> PyTree:
    """`tree` with leaves of JAX: of NumPy's, and of Python's floats, in the precision that JAX has for them.

    Raises `ValueError` for a leaf that is not of a floating dtype.
    """

    def array(path, leaf):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            name = keystr(path, simple=True, separator=".")
            raise ValueError(f"{setting}: leaf {name!r} has dtype {dtype}; allowed: a floating dtype")
        return jnp.asarray(leaf)

    return tree_map_with_path(array, tree)


def _working(leaves: list[Array]) -> Any:
    """The dtype of norms and rates: float64 where a leaf has it, else float32, of half precision too."""
    return jnp.dtype(jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32)


def _norm(grads: PyTree) -> _Size:
    leaves = [leaf for leaf in jax.tree.leaves(grads) if leaf.size]
    dtype = _working(leaves)
    if not leaves:
        return _size_of(jnp.zeros((), dtype))
    return _Size(*frobenius_norm(jnp.concatenate([jnp.ravel(leaf).astype(dtype) for leaf in leaves])))


def global_norm(tree: PyTree) -> Scalar:
    """√Σ g² over every entry; it over- and underflows only where the norm itself does. NaN where an entry is NaN.

    Raises `ValueError` for a leaf that is not of a floating dtype.
    """
    return _number(_norm(_arrays("tree", tree)))


def _adaptive(gradient: Array, weight: Array, threshold: _Size) -> Array:
    """Of a matrix each row, which feeds one unit; of anything else the whole."""
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


def _global_rate(rule: str, norm: _Size, threshold: _Size) -> _Size:
    """What a rule of the global norm multiplies every entry with."""
    if rule == "book":
        offset = _size_of(jnp.asarray(BOOK_OFFSET, norm.mantissa.dtype))
        (mantissa,), exponent = add(norm.mantissa[None], norm.exponent, offset.mantissa[None], offset.exponent)
        quotient = _quotient(threshold, _Size(mantissa, exponent))
        return _rate(quotient, _number(quotient) >= 1)
    quotient = _quotient(threshold, norm)
    is_zero = (norm.mantissa == 0) & (threshold.mantissa >= 0)
    share = _number(quotient)  # c/n
    kept = {"pseudocode": (share > 1) | is_zero, "optax": share > 1, "pascanu": (share >= 1) | is_zero}
    return _rate(quotient, kept[rule])


def _is_named(path: tuple, name: str) -> bool:
    text = keystr(path, simple=True, separator=".")
    return text == name or text.endswith(f".{name}")


def _pascanu(grads: PyTree, norm: _Size, threshold: _Size, params: PyTree, recurrent: str | None) -> PyTree:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(grads)]
    if recurrent is None or not any(_is_named(path, recurrent) for path in paths):
        there = ", ".join(keystr(path, simple=True, separator=".") for path in paths)
        raise ValueError(f"recurrent: {recurrent!r}; rule='pascanu' allows: the end of one of {there}")
    # a threshold that is NaN makes NaN here too
    is_usable = (_number(norm) <= LARGEST_NORM) | jnp.isnan(threshold.mantissa)
    rate = _global_rate("pascanu", norm, threshold)

    def clipped(path, gradient, weight):
        fallback = 0.02 * weight.astype(gradient.dtype) if _is_named(path, recurrent) else jnp.zeros_like(gradient)
        return jnp.where(is_usable, _shortened(gradient, rate), fallback)

    return tree_map_with_path(clipped, grads, params)


def _scalar(threshold: ArrayLike, dtype: Any) -> Scalar:
    """`threshold`, NaN where a traced one turns out to be negative."""
    if jnp.shape(threshold):
        raise ValueError(f"threshold: an array of shape {jnp.shape(threshold)}; allowed: a number, or a scalar array")
    if not isinstance(threshold, Tracer) and not np.asarray(threshold) >= 0:
        raise ValueError(f"threshold: {threshold}; allowed: a number of at least 0")
    threshold = jnp.asarray(threshold, dtype)
    return jnp.where(threshold >= 0, threshold, jnp.nan)


def _clipped(
    grads: PyTree, norm: _Size | None, threshold: ArrayLike, rule: str, params: PyTree, recurrent: str | None
) -> PyTree:
    """`clip_gradients` of JAX's arrays, whose norm may be known."""
    leaves = jax.tree.leaves(grads)
    if rule == "none" or not leaves:
        return grads
    dtype = _working(leaves)
    threshold = _scalar(threshold, dtype)
    if rule == "value":
        return jax.tree.map(lambda g: jnp.clip(g.astype(dtype), -threshold, threshold).astype(g.dtype), grads)
    most = _size_of(threshold)
    if rule == "adaptive":
        return jax.tree.map(lambda gradient, weight: _adaptive(gradient, weight, most), grads, params)
    norm = _norm(grads) if norm is None else norm
    if rule == "pascanu":
        return _pascanu(grads, norm, most, params, recurrent)
    rate = _global_rate(rule, norm, most)
    return jax.tree.map(lambda gradient: _shortened(gradient, rate), grads)


def _checked(grads: PyTree, rule: str, params: PyTree) -> tuple[PyTree, PyTree]:
    """Gradients and parameters as JAX's arrays."""
    if rule not in names.CLIP_RULES:
        raise ValueError(f"rule: {rule!r} is unknown; allowed: {', '.join(names.CLIP_RULES)}")
    if rule not in ("adaptive", "pascanu"):
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
    """`grads`, a pytree of arrays of floating dtypes, shortened by one of the rules above.

    **Arguments:**

    - `grads`: leaves may be NumPy's arrays and Python's floats too; they come back as JAX's arrays, and in float32
      unless `jax_enable_x64` is set. Norms of half precision are taken in float32.
    - `threshold`: c ≥ 0, a number or a scalar array (so that it may differ from network to network under `jax.vmap`);
      one beyond the floats is infinite and clips nothing. `none` does not read it.
    - `rule`: one of `names.CLIP_RULES`.
    - `params`: the parameters, of the same structure; `adaptive` and `pascanu` need them.
    - `recurrent`: `pascanu`: the name of the recurrent matrix in the tree: every leaf whose path ends in it, as
      `"recurrent"` or `"candidate.recurrent"`.

    **Returns:** a tree of the same structure, shapes and dtypes.

    - Of a gradient of zeros every rule makes zeros, but for `optax`, which gives NaN at c = 0.
    - Entries that are NaN make the whole gradient NaN under `book`, `pseudocode` and `optax`, and their unit's row
      under `adaptive`. Infinite entries become NaN there and leave 0 of the others (at an infinite c: NaN). `pascanu`
      falls back on 0.02 W for both; `value` keeps NaN and cuts infinite entries; `none` keeps all.
    - A traced c that turns out to be negative or NaN makes every entry NaN.

    **Raises:** `ValueError` for an unknown rule; a leaf that is not of a floating dtype; a threshold that is known to
    be negative or NaN, or is no scalar; and where a rule lacks `params` or `recurrent`, or no leaf has that name.
    """
    arrays, params = _checked(grads, rule, params)
    return grads if rule == "none" else _clipped(arrays, None, threshold, rule, params, recurrent)


class ClipState(NamedTuple):
    """The global norm of the last gradient before and after its rule, and how many gradients it has changed."""

    norm: Scalar
    clipped_norm: Scalar
    changed: Int[Array, ""]


def clipping(rule: str, threshold: ArrayLike, *, recurrent: str | None = None) -> optax.GradientTransformationExtraArgs:
    """`clip_gradients` as one transformation in an optax chain, which remembers what it did (`ClipState`).

    A gradient counts as changed where any entry differs from what it was. Raises as `clip_gradients` does, at the
    first update.
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
