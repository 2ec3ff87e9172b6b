"""Does a function of a whole sequence look ahead? No output may depend on a later input.

State-space and attention models are written as functions of a whole sequence, in which a mask, a shift or a padding
that is off by one lets an output see the future. Two tests look at every pair of times:

- *derivatives*: the derivative of every output y_t in a random direction of every input x_t' alone. It sees a
  dependence far below the rounding of y_t.
- *changes*: every input x_t' alone is replaced by another, and every output is compared with what it was, bit for bit.
  It sees what no derivative shows: comparisons, rounding, `stop_gradient`, tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array

from gradient_horizon.names.rules import whole_number
from gradient_horizon.numerics.arrays import PyTree
from gradient_horizon.numerics.xla import materialised

_SHOWN = 5  # pairs in a message


class CausalityError(ValueError):
    """An output depends on a later input.

    - `pairs`: (K, 2), the pairs (t, t') with t' > t, counted from 0, whose y_t depends on x_t'.
    - `size`: (K,), how much, relative to the input that y_t depends on most (in the test that shows more of it).
    """

    def __init__(self, message: str, pairs: np.ndarray, size: np.ndarray):
        super().__init__(message)
        self.pairs, self.size = pairs, size


def check_causality(
    f: Callable[[Any], Any], xs: PyTree, *, axis: int = 0, probes: int = 2, tolerance: float = 0.0, seed: int = 0
) -> None:
    """Raise `CausalityError` if an output of f(xs) depends on a later input: y_t on x_t' with t' > t.

    **Arguments:**

    - `f`: a function of a whole sequence, written in JAX: `lambda xs: model(params, xs)`. It must be deterministic
      (dropout: with a fixed key).
    - `xs`: a sequence to try, a pytree of arrays that all have T entries along `axis`; so must everything that f
      returns. Integers and booleans (tokens) are exchanged for others that occur in `xs`; random keys are left as they
      are. Let T exceed every length that is built into f (two chunks, a window).
    - `probes`: how many random directions and changes are tried for each input.
    - `tolerance`: the largest dependence to accept, relative to that on the input that y_t depends on most. 0: none at
      all, however small. A convolution by FFT mixes all times by rounding: 1e-5 for it in float32.
    - `seed`: of the directions and changes.

    **What is certain:** a pair that is reported does depend. If none is, the Jacobian at `xs` has no entry above its
    diagonal (with probability 1: a random direction meets every non-zero row), and no change that was tried has changed
    a bit of an earlier output. A dependence that shows at other inputs alone, such as a branch that these do not take,
    is not seen: try others.

    **Cost:** `probes` · T evaluations of f, and as many of its derivative, one after the other, in two programs.

    **Raises:** `CausalityError`, with the pairs and how large each is; `ValueError` for an `xs` or a result without the
    time axis, for results or derivatives that are not finite, and for an f that is not deterministic; `TypeError` under
    `jax.jit` or `jax.vmap`, where nothing can be raised.
    """
    leaves, structure = jax.tree.flatten(xs)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise TypeError("xs: is traced; allowed: arrays, as a check can raise nothing inside jax.jit or jax.vmap")
    probes, axis, seed = whole_number("probes", probes), whole_number("axis", axis, None), whole_number("seed", seed, 0)
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance: {tolerance}; allowed: from 0 to below 1")
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    length = _common_length("xs", leaves, axis)
    if not all(bool(_is_finite(leaf)) for leaf in leaves):
        raise ValueError("xs: holds NaN or inf; allowed: finite numbers, whose results can be compared")

    def of_leaves(leaves: list[Array]) -> list[Array]:
        values = [jnp.asarray(leaf) for leaf in jax.tree.leaves(f(jax.tree.unflatten(structure, leaves)))]
        return [value for value in values if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)]

    shapes = jax.eval_shape(of_leaves, leaves)
    if _common_length("f(xs)", shapes, axis) != length:
        raise ValueError(f"f: returns {shapes[0].shape[axis]} entries along axis {axis}; allowed: T = {length}, as xs")
    size = np.zeros((length, length))  # [t, t']
    rng = np.random.default_rng(seed)
    tests = _changes(of_leaves, leaves, axis), _derivatives(of_leaves, leaves, axis)
    for test in tests:
        for _ in range(probes):
            found = test(rng)
            most = found.max(axis=1, keepdims=True)
            size = np.maximum(size, np.divide(found, most, out=np.zeros_like(found), where=most > 0))
    pairs = np.argwhere(np.triu(size, 1) > tolerance)
    if len(pairs):
        sizes = size[tuple(pairs.T)]
        raise CausalityError(_message(pairs, sizes), pairs, sizes)


def _message(pairs: np.ndarray, sizes: np.ndarray) -> str:
    shown = ", ".join(str((int(t), int(later))) for t, later in pairs[:_SHOWN])
    more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    return (
        f"f: y_t depends on a later x_t' for (t, t') = {shown}{more}, counted from 0, by up to {sizes.max():.1e} of its"
        " largest dependence; allowed: t' ≤ t, or a tolerance above that"
    )


def _common_length(name: str, leaves: Any, axis: int) -> int:
    """T, the length of all arrays along the axis of time."""
    shapes = [leaf.shape for leaf in leaves]
    lengths = {shape[axis] for shape in shapes if -len(shape) <= axis < len(shape)}
    if len(lengths) != 1 or not all(-len(shape) <= axis < len(shape) for shape in shapes):
        raise ValueError(f"{name}: shapes {shapes}; allowed: arrays with one length T along axis {axis}")
    return lengths.pop()


def _along_time(flags: Array, leaf: Any, axis: int) -> Array:
    """`flags` (T,), shaped to be broadcast over `leaf`."""
    return jnp.expand_dims(flags, [other for other in range(leaf.ndim) if other != axis % leaf.ndim])


def _largest(values: Array, axis: int) -> Array:
    """The largest modulus at every time."""
    size = jnp.abs(values.astype(jnp.float32) if not jnp.issubdtype(values.dtype, jnp.inexact) else values)
    others = tuple(other for other in range(size.ndim) if other != axis % size.ndim)
    return jnp.max(size, axis=others, initial=0)


def _in_all(sizes: list[Array]) -> Array:
    """The largest over all arrays, at every time."""
    dtype = jnp.result_type(*(size.dtype for size in sizes))
    return jnp.max(jnp.stack([size.astype(dtype) for size in sizes]), axis=0)


def _is_inexact(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def _other(leaf: Array, axis: int, rng: np.random.Generator) -> Any:
    """Other values, of which none equals that of `leaf`, but of the same size."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    values = np.asarray(leaf)  # on the host: nothing to compile
    if values.dtype == bool:
        return ~values
    if _is_inexact(leaf):
        scale = float(np.std(values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)))
        return (values + (scale or 1.0) * _random(leaf, rng)).astype(values.dtype)
    low, high = values.min(), values.max()
    if low == high:
        raise ValueError(f"xs: every entry of an array of {leaf.dtype} is {low}; allowed: at least two different ones")
    rolled = np.roll(values, int(rng.integers(1, max(2, leaf.shape[axis]))), axis)
    return np.where(rolled != values, rolled, np.where(values == high, low, high))


Test = Callable[[np.random.Generator], np.ndarray]  # one probe: [t, t'], how much y_t depends on x_t'


def _changes(f: Callable[[list[Array]], list[Array]], leaves: list[Array], axis: int) -> Test:
    """By how much y_t changes if x_t' is replaced; 0 only if no bit of it does."""
    length = leaves[0].shape[axis]

    @jax.jit
    def differences(leaves: list[Array], others: list[Array]) -> tuple[Array, Array]:
        times = jnp.arange(length, dtype=jnp.int32)

        def change(plain: list[Array], place: Array) -> tuple[list[Array], Array]:
            is_there = [_along_time(times == place, leaf, axis) for leaf in leaves]
            values = f([jnp.where(*parts) for parts in zip(is_there, others, leaves, strict=True)])
            values = [materialised(value) for value in values]  # or XLA may compute them once for each use
            plain = [jnp.where(place == -2, *pair) for pair in zip(values, plain, strict=True)]
            return plain, _in_all([_apart(*pair, axis) for pair in zip(values, plain, strict=True)])

        # One loop for all, the unchanged inputs among them: the same instructions give the same bits.
        first, last = jnp.full(1, -2, jnp.int32), jnp.full(1, -1, jnp.int32)
        nothing = [jnp.zeros(value.shape, value.dtype) for value in jax.eval_shape(f, leaves)]
        plain, series = lax.scan(change, nothing, jnp.concatenate([first, times, last]))
        return series[1:], jnp.stack([_is_finite(value) for value in plain])

    def test(rng: np.random.Generator) -> np.ndarray:
        others = [_other(leaf, axis, rng) for leaf in leaves]
        series, are_finite = (np.asarray(value) for value in differences(leaves, others))
        if not are_finite.all():
            raise ValueError("f: returns values that are not finite; allowed: finite ones, which can be compared")
        if series[-1].any():
            raise ValueError("f: returns different values for the same inputs; allowed: a deterministic function")
        return series[:-1].T.astype(np.float64)

    return test


def _is_finite(values: Array) -> Array:
    return jnp.all(jnp.isfinite(values)) if _is_inexact(values) else jnp.asarray(True)


def _apart(values: Array, plain: Array, axis: int) -> Array:
    """The largest difference at every time: infinite if one of the two is not finite, 1 for integers and booleans."""
    is_same = values == plain
    if not _is_inexact(values):
        return _largest(~is_same, axis)
    difference = jnp.where(is_same, 0, jnp.abs(values - plain))
    tiny = jnp.finfo(difference.dtype).tiny  # a difference below the smallest normal number is still one
    difference = jnp.where(is_same, 0, jnp.where(jnp.isnan(difference), jnp.inf, jnp.maximum(difference, tiny)))
    return _largest(difference, axis)


def _derivatives(f: Callable[[list[Array]], list[Array]], leaves: list[Array], axis: int) -> Test:
    """The size of the derivative of y_t in a random direction of x_t'; 0 if either is made of integers."""
    length = leaves[0].shape[axis]
    places = [place for place, leaf in enumerate(leaves) if _is_inexact(leaf)]
    chosen = [place for place, value in enumerate(jax.eval_shape(f, leaves)) if _is_inexact(value)]
    floats = [leaves[place] for place in places]
    if not places or not chosen:
        return lambda rng: np.zeros((length, length))

    def of_floats(floats: list[Array]) -> list[Array]:
        filled = dict(zip(places, floats, strict=True))
        values = f([filled.get(place, leaf) for place, leaf in enumerate(leaves)])
        return [values[place] for place in chosen]

    def at_each(linear: Callable[[list[Array]], list[Array]], vectors: list[Array]) -> Array:
        times = jnp.arange(length, dtype=jnp.int32)

        def image(place: Array) -> Array:
            flags = times == place
            alone = [jnp.where(_along_time(flags, vector, axis), vector, 0) for vector in vectors]
            return _in_all([_largest(part, axis) for part in linear(alone)])

        return lax.map(image, times)

    @jax.jit
    def forwards(floats: list[Array], vectors: list[Array]) -> Array:
        return at_each(lambda alone: jax.jvp(of_floats, (floats,), (alone,))[1], vectors).T

    @jax.jit
    def backwards(floats: list[Array], vectors: list[Array]) -> Array:
        vjp = jax.vjp(of_floats, floats)[1]
        return at_each(lambda alone: vjp(alone)[0], vectors)

    def test(rng: np.random.Generator) -> np.ndarray:
        try:
            found = np.asarray(forwards(floats, [_random(value, rng) for value in floats]))
        except (TypeError, ValueError, NotImplementedError):  # a custom_vjp has no forward derivative
            shapes = jax.eval_shape(of_floats, floats)
            found = np.asarray(backwards(floats, [_random(value, rng) for value in shapes]))
        bad = np.argwhere(~np.isfinite(found))
        if len(bad):
            first = tuple(int(place) for place in bad[0])
            raise ValueError(
                f"f: the derivative of y_t in x_t' is not finite for (t, t') = {first}, counted from 0, and"
                f" {len(bad) - 1} more; allowed: finite derivatives, as in training"
            )
        return found.astype(np.float64)

    return test


def _random(like: Any, rng: np.random.Generator) -> np.ndarray:
    """Standard normal numbers of the shape and dtype of `like`."""
    values = rng.standard_normal(like.shape)
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        values = values + 1j * rng.standard_normal(like.shape)
    return values.astype(like.dtype)
