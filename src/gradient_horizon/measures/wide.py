"""Step Jacobians that neither over- nor underflow, with entries over the whole range of floats and beyond.

J v is linear in v. If a tangent vector is 2^k times as long, every intermediate result of the linearised step is 2^k
times as large and rounds in the same way. Hence a Jacobian with entries below the smallest normal number, which XLA
flushes to 0, is correct if it is formed from longer unit vectors; and one that would overflow, in an intermediate sum
or in the result, is correct if it is formed from shorter ones.

No length of tangent vectors helps if a parameter is itself below the smallest normal number: XLA reads it as 0
(`reads_subnormal`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.numerics import extended_range
from gradient_horizon.numerics.arrays import PyTree
from gradient_horizon.numerics.derivatives import Map, jacobian_by
from gradient_horizon.numerics.exponents import bits_of, largest_exponent, power_of_two
from gradient_horizon.numerics.extended_range import ZERO, Extended, extended
from gradient_horizon.numerics.keys import fixed_normal

_FAR = 900  # largest distance of float64 entries from 1, in bits, that leaves room for further computation
_SMALL, _LARGE = -40, 70  # range of exponents for which a Jacobian is formed from plain unit vectors


class Lifted(NamedTuple):
    """J applied to vectors of length 2^`lift` and of length 2^-`lift`."""

    long: Array
    short: Array

    @property
    def lift(self) -> int:
        """Half the exponent bias of the dtype."""
        return bits_of(self.long.dtype).bias // 2


def lifted_jacobian(function: Map, h: Float[Array, " n"], *, by_rows: bool = False) -> Lifted:
    """The Jacobian of `function` at `h`, twice; `by_rows`: preferably from its reverse-mode derivative."""
    eye = jnp.eye(len(h), dtype=h.dtype)
    length = 2.0 ** (bits_of(h.dtype).bias // 2)
    vectors = jnp.concatenate([eye * length, eye / length])
    images, are_rows = jacobian_by(function, h, lambda image: jax.vmap(image)(vectors), by_rows=by_rows)
    long, short = jnp.split(images, 2)
    return Lifted(long, short) if are_rows else Lifted(long.T, short.T)


def by_entry(lifted: Lifted) -> Extended:
    """J with an exponent for each entry: in float32 from 2^-189 to 2^190, in float64 from 2^-1533 to 2^1534."""
    small = extended_range.shifted(extended(lifted.long), jnp.int32(-lifted.lift))
    large = extended_range.shifted(extended(lifted.short), jnp.int32(lifted.lift))
    is_small = jnp.isfinite(lifted.long)
    return Extended(*(jnp.where(is_small, *parts) for parts in zip(small, large, strict=True)))


def jacobian_by_entry(function: Map, h: Float[Array, " n"], *, by_rows: bool = False) -> Extended:
    """The Jacobian of `function` at `h`, with an exponent for each entry."""
    return by_entry(lifted_jacobian(function, h, by_rows=by_rows))


def in_float64(lifted: Lifted) -> tuple[Float[Array, "n n"], Int[Array, ""]]:
    """J = `matrix` · 2^`exponent`, `matrix` in float64. 64 bits must be enabled.

    The exponent is 0 if J fits as it is, as a float32 one always does. All NaN if the entries are too far apart to fit
    under a single exponent (2^1800).
    """
    if lifted.long.dtype == jnp.float32:
        lift = 2.0**lifted.lift
        long, short = (part.astype(jnp.float64) for part in lifted)
        return jnp.where(jnp.isfinite(lifted.long), long * (1 / lift), short * lift), jnp.int32(0)
    values = by_entry(lifted)
    is_zero = values.exponent == ZERO
    high = jnp.max(values.exponent)
    low = jnp.min(jnp.where(is_zero, high, values.exponent))
    exponent = jnp.where((high <= _FAR) & (low >= -_FAR), 0, (high + low) // 2)
    exponent = jnp.where(high == ZERO, 0, exponent)
    gap = jnp.where(is_zero, 0, values.exponent - exponent)
    matrix = values.mantissa * power_of_two(jnp.clip(gap, -1000, 1000), jnp.float64)
    return jnp.where(jnp.any(jnp.abs(gap) > _FAR), jnp.nan, matrix), exponent


def sized_jacobian(function: Map, h: Float[Array, " n"]) -> tuple[Float[Array, "n n"], Int[Array, ""], Bool[Array, ""]]:
    """J = `matrix` · 2^`exponent`, and True if certainly no entry was lost because others are large.

    Differentiable. The exponent is 0 unless J's entries are smaller than about 2^-40 or larger than 2^70.
    """
    lift = bits_of(h.dtype).bias // 2
    generic = jnp.asarray(fixed_normal(1, len(h))[0], h.dtype)

    def form(image: Callable[[Array], Array]) -> tuple[Array, Int[Array, ""]]:
        long, short = (lax.stop_gradient(image(generic * 2.0**bits)) for bits in (lift, -lift))
        fits = jnp.all(jnp.isfinite(long))
        size = jnp.where(fits, largest_exponent(long) - lift, largest_exponent(short) + lift)
        size = jnp.where(jnp.any(jnp.where(fits, long, short) != 0), size, 0)
        least = 2 - bits_of(h.dtype).bias
        lifted_by = jnp.where(size < _SMALL, -size, jnp.where(size > _LARGE, _LARGE - size, 0))
        exponent = jnp.clip(lifted_by, least, -least)
        return jax.vmap(image)(jnp.eye(len(h), dtype=h.dtype) * power_of_two(exponent, h.dtype)), exponent

    (images, exponent), are_rows = jacobian_by(function, h, form)
    return images if are_rows else images.T, -exponent, exponent >= 0


def _is_subnormal(array: Any) -> Any:
    """True if an entry is subnormal, judged by its bits, as XLA's comparisons treat it as 0.

    Always False for float16, which is computed in float32.
    """
    dtype = np.dtype(array.dtype)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return _is_subnormal(jnp.real(array)) | _is_subnormal(jnp.imag(array))
    mantissa = {"float32": 23, "float64": 52, "bfloat16": 7}.get(dtype.name)
    if mantissa is None:
        return np.zeros((), bool)
    whole = np.dtype(f"uint{8 * dtype.itemsize}")
    if isinstance(array, np.ndarray | np.generic):
        magnitude = np.asarray(array).view(whole) & whole.type(2 ** (8 * dtype.itemsize - 1) - 1)
        return np.any((magnitude != 0) & (magnitude < whole.type(2**mantissa)))
    magnitude = lax.bitcast_convert_type(array, whole) & jnp.asarray(2 ** (8 * dtype.itemsize - 1) - 1, whole)
    return jnp.any((magnitude != 0) & (magnitude < jnp.asarray(2**mantissa, whole)))


def _constants(program: ClosedJaxpr | Jaxpr) -> list[Any]:
    """The arrays and numbers held by a program and by the programs nested in it."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    constants = list(program.consts) if isinstance(program, ClosedJaxpr) else []
    for equation in jaxpr.eqns:
        for atom in equation.invars:
            aval: Any = atom.aval
            if isinstance(atom, Literal) and jnp.issubdtype(aval.dtype, jnp.inexact):
                constants.append(np.asarray(atom.val, aval.dtype))
        inner = jax.tree.leaves(equation.params, is_leaf=lambda part: isinstance(part, ClosedJaxpr | Jaxpr))
        for part in inner:
            if isinstance(part, ClosedJaxpr | Jaxpr):
                constants += _constants(part)
    return constants


def reads_subnormal(function: Callable[..., PyTree], *arguments: PyTree) -> Bool[Array, ""]:
    """True if a value that `function` closes over, or one of its constants, is subnormal.

    (Not zero, but below the smallest normal number: 1.2e-38 in float32, 2.2e-308 in float64.) XLA computes as if it
    were 0, which no derivative reveals. Only the shapes and dtypes of `arguments` are used.
    """
    is_any = jnp.zeros((), bool)
    for array in _constants(jax.make_jaxpr(function)(*arguments)):
        if jnp.issubdtype(array.dtype, jnp.inexact):
            is_any = is_any | _is_subnormal(array)
    return is_any
