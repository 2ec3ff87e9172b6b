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
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from gradient_horizon import names
from gradient_horizon.arrays import PyTree, Scalar
from gradient_horizon.scaling import largest_exponent, power_of_two

LARGEST_NORM = 1e10  # `pascanu`: beyond it a gradient is thrown away


def global_norm(tree: PyTree) -> Scalar:
    """√Σ g² over every entry; it over- and underflows only where the norm itself does. NaN where an entry is NaN."""
    leaves = jax.tree.leaves(tree)
    exponent = largest_exponent(jnp.stack([jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves]))
    scale = power_of_two(-exponent, leaves[0].dtype)
    square = sum((jnp.sum(jnp.square(leaf * scale)) for leaf in leaves), jnp.zeros((), leaves[0].dtype))
    return jnp.sqrt(square) * power_of_two(exponent, leaves[0].dtype)


def _unit_norm(leaf: Array) -> Array:
    """The norm of each row of a matrix, which feeds one unit; of anything else, the norm of the whole."""
    rows = leaf.ndim == 2
    return jnp.sqrt(jnp.sum(jnp.square(leaf), axis=1 if rows else None, keepdims=rows))


def _adaptive(gradient: Array, weight: Array, threshold: Scalar) -> Array:
    size, most = _unit_norm(gradient), threshold * jnp.maximum(_unit_norm(weight), 1e-3)
    return jnp.where(size > most, gradient * (most / jnp.where(size > most, size, 1)), gradient)


def _is_named(path: tuple, name: str) -> bool:
    text = keystr(path, simple=True, separator=".")
    return text == name or text.endswith(f".{name}")


def _pascanu(grads: PyTree, norm: Scalar, threshold: Scalar, params: PyTree, recurrent: str) -> PyTree:
    is_usable = norm <= LARGEST_NORM
    rate = jnp.where(is_usable & (norm > threshold), threshold / jnp.where(norm > 0, norm, 1), 1)

    def clipped(path, gradient, weight):
        fallback = 0.02 * weight if _is_named(path, recurrent) else jnp.zeros_like(gradient)
        return jnp.where(is_usable, gradient * rate, fallback)

    return jax.tree_util.tree_map_with_path(clipped, grads, params)


def clip_gradients(
    grads: PyTree,
    threshold: ArrayLike,
    rule: str = "book",
    *,
    params: PyTree = None,
    recurrent: str | None = None,
) -> PyTree:
    """`grads`, a pytree of arrays of one floating dtype, shortened by one of the rules above.

    **Arguments:**

    - `threshold`: c ≥ 0, a number or a scalar array (so that it may differ from network to network under `jax.vmap`).
    - `rule`: one of `names.CLIP_RULES`.
    - `params`: the parameters, of the same structure; `adaptive` and `pascanu` need them.
    - `recurrent`: `pascanu`: the name of the recurrent matrix in the tree: every leaf whose path ends in it, as
      `"recurrent"` or `"candidate.recurrent"`.

    **Returns:** a tree of the same structure, shapes and dtype. Of a gradient of zeros every rule makes zeros, but for
    `optax`, which gives NaN at c = 0. A norm that is not finite makes NaN (`book`, `pseudocode`, `optax`: where
    an entry is infinite or NaN) except under `pascanu`; `value` keeps NaN and cuts infinite entries.

    **Raises:** `ValueError` for an unknown rule, and where a rule lacks `params` or `recurrent`, or no leaf has that
    name.
    """
    if rule not in names.CLIP_RULES:
        raise ValueError(f"rule: {rule!r} is unknown; allowed: {', '.join(names.CLIP_RULES)}")
    if rule in ("adaptive", "pascanu") and params is None:
        raise ValueError(f"params: None; rule={rule!r} needs the parameters that the gradients belong to")
    if rule == "none" or not jax.tree.leaves(grads):
        return grads
    threshold = jnp.asarray(threshold, jax.tree.leaves(grads)[0].dtype)
    if rule == "value":
        return jax.tree.map(lambda gradient: jnp.clip(gradient, -threshold, threshold), grads)
    if rule == "adaptive":
        return jax.tree.map(lambda gradient, weight: _adaptive(gradient, weight, threshold), grads, params)
    norm = global_norm(grads)
    if rule == "pascanu":
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(grads)]
        if recurrent is None or not any(_is_named(path, recurrent) for path in paths):
            there = ", ".join(keystr(path, simple=True, separator=".") for path in paths)
            raise ValueError(f"recurrent: {recurrent!r}; rule='pascanu' allows: the end of one of {there}")
        return _pascanu(grads, norm, threshold, params, recurrent)
    shorten: dict[str, Callable[[Array], Array]] = {
        "book": lambda gradient: gradient * jnp.minimum(threshold / (norm + 1e-6), 1),
        "pseudocode": lambda gradient: jnp.where(
            (norm >= threshold) & (norm > 0), gradient * (threshold / jnp.where(norm > 0, norm, 1)), gradient
        ),
        "optax": lambda gradient: jnp.where(norm < threshold, gradient, (gradient / norm) * threshold),
    }
    return jax.tree.map(shorten[rule], grads)


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
        zero = jnp.zeros((), jax.tree.leaves(params)[0].dtype)
        return ClipState(zero, zero, jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **_: Any) -> tuple[PyTree, PyTree]:
        clipped = clip_gradients(updates, threshold, rule, params=params, recurrent=recurrent)
        norm = global_norm(updates)
        if rule == "none":
            return clipped, ClipState(norm, norm, state.changed)
        differ = [jnp.any(a != b) for a, b in zip(jax.tree.leaves(clipped), jax.tree.leaves(updates), strict=True)]
        changed = state.changed + jnp.any(jnp.stack(differ)).astype(jnp.int32)
        return clipped, ClipState(norm, global_norm(clipped), changed)

    return optax.GradientTransformationExtraArgs(init, update)
