"""Rows that are carried back from the end of a trajectory, and what they say of inputs or parameters on the way.

A row is a derivative of one number with respect to the state: r_t = ∂y/∂h_t. It passes each step as r_{t-1} = r_t J_t,
plus whatever y reads of h_{t-1} directly, and every step turns it into a derivative with respect to another of its
arguments, z: its input, or its parameters. This *image*, r_t ∂h_t/∂z, is measured and not kept.

Every row has a power of two of its own, since rows never mix. Within a row, too, entries may grow and decay at
different times, and one that is lost next to the largest may be all that is left further back. As long as no non-zero
entry lies 2^42 (float64: 2^341) below the largest one of its row, nothing is lost; otherwise everything is computed
again with an exponent for each entry (see `extended_range`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.measures.trajectory import Trajectory, ever
from gradient_horizon.numerics import extended_range
from gradient_horizon.numerics.arrays import PyTree, Scalar, Series
from gradient_horizon.numerics.derivatives import pullback
from gradient_horizon.numerics.exponents import add, bits_of, is_kept, log_of, normalise, power_of_two, room_of
from gradient_horizon.numerics.extended_range import ZERO, Extended, extended, relative_to, shifted
from gradient_horizon.numerics.fallback import with_care
from gradient_horizon.numerics.spectral_norm import largest_by_lapack

_BAND = 24  # bits: how far apart the entries of a vector may lie that are pulled back together

Linear = Callable[[Array], tuple[Array, ...]]


class JointStep(NamedTuple):
    """A step as a function of the vector h, of a vector z, and of whatever else it reads.

    - `step`: `step(h, z, rest)` returns the vector of the next state.
    - `z`: (T, d), or (d,) if it is the same at every step; `rest`: a tree with leading axis T.
    - `is_formed`: Jacobians are formed before rows are multiplied by them, as 16-bit steps need.
    """

    step: Callable[[Array, Array, PyTree], Array]
    z: Array
    rest: PyTree
    is_formed: bool = False


class Asked(NamedTuple):
    """What is measured of the images: norms of the whole, Frobenius norms of `parts` of z, of their sums over steps."""

    norms: tuple[str, ...] = ("frobenius",)
    parts: tuple[slice, ...] = ()
    sums: bool = False


class Pulled(NamedTuple):
    """Natural logs of norms, (T,) each; entry t - 1 belongs to h_t and to the step that leads to it.

    - `rows`: of the rows at h_t. `whole`: of their images in z, by norm. `parts`: of each part of the images.
    - `sums`: of the sum over all steps of the images, and of its parts; of shape () each.
    """

    rows: Series
    whole: dict[str, Series]
    parts: list[Series]
    sums: list[Scalar]


class Rows(NamedTuple):
    """`mantissa` (k, n) · 2^`exponent` (k,)."""

    mantissa: Array
    exponent: Array


def normalised(rows: Float[Array, "k n"]) -> Rows:
    return Rows(*jax.vmap(normalise)(rows))


def total_of(one: Rows, other: Rows) -> Rows:
    return Rows(*jax.vmap(add)(*one, *other))


def are_kept(raw: Float[Array, "k n"], scaled: Float[Array, "k n"], room: int) -> Bool[Array, ""]:
    return jnp.all(jax.vmap(is_kept, (0, 0, None))(raw, scaled, room))


def as_matrix(rows: Rows) -> tuple[Float[Array, "k n"], Int[Array, ""]]:
    """One matrix of floats and its exponent; what lies 2^126 (float64: 2^1022) below the largest entry is lost."""
    dtype = rows.mantissa.dtype
    least = 1 - bits_of(dtype).bias
    is_zero = jnp.all(rows.mantissa == 0, axis=1)
    top = jnp.max(jnp.where(is_zero, ZERO, rows.exponent))
    gap = jnp.where(is_zero, 0, rows.exponent - top)
    factor = jnp.where(gap < least, 0, power_of_two(jnp.maximum(gap, least), dtype))
    return rows.mantissa * factor[:, None], jnp.where(top == ZERO, 0, top)


def log_norm_of(rows: Rows) -> Scalar:
    matrix, exponent = as_matrix(rows)
    return log_of(jnp.sqrt(jnp.sum(matrix * matrix)), exponent)


def _log_spectral(matrix: Float[Array, "k d"], exponent: Int[Array, ""]) -> Scalar:
    return log_of(largest_by_lapack(matrix), exponent)


def _part(rows: Any, place: slice) -> Any:
    """The part of every row, or entry, at `place`."""
    if isinstance(rows, Extended):
        return Extended(rows.mantissa[:, place], rows.exponent[:, place])
    part = normalised(rows.mantissa[:, place])
    return Rows(part.mantissa, part.exponent + rows.exponent)


def _scanned(joint: JointStep, before: Array, reads: Array | None) -> tuple[Any, ...]:
    """What a backward scan goes through: h, z (None if it is the same at every step), the rest, what is read."""
    return before, joint.z if joint.z.ndim == 2 else None, joint.rest, reads


def _linear(joint: JointStep, inputs: tuple[Any, ...]) -> Linear:
    h, z, rest, _ = inputs
    at = (h, joint.z if z is None else z)
    return pullback(lambda h, z: joint.step(h, z, rest), *at, is_formed=joint.is_formed)


def _quick(
    joint: JointStep, before: Array, start: Float[Array, "k n"], reads: Array | None, asked: Asked
) -> tuple[Pulled, Bool[Array, " T"]]:
    """The norms, with one exponent a row, and at which steps nothing was lost."""
    room, low = room_of(start.dtype), -(bits_of(start.dtype).bias // 2)

    def retreat(carry: Any, inputs: Any) -> Any:
        rows, sums, was_kept = carry
        is_safe = was_kept
        if reads is not None:
            added = normalised(inputs[3])
            total = total_of(rows, added)
            is_safe &= are_kept(jnp.abs(rows.mantissa) + jnp.abs(added.mantissa), total.mantissa, room)
            rows = total
        raw, raw_image = jax.vmap(_linear(joint, inputs))(rows.mantissa * 2.0**room)
        pulled, image = normalised(raw), normalised(raw_image)
        # not so small that terms have underflowed beside the largest
        is_zero = jnp.all(raw_image == 0, axis=1)
        is_fine = is_zero | ((image.exponent > low) & jnp.all(jnp.isfinite(raw_image), axis=1))
        pulled, image = (Rows(part.mantissa, part.exponent + rows.exponent - room) for part in (pulled, image))
        matrix, exponent = as_matrix(image)
        logs = {"frobenius": log_of(jnp.sqrt(jnp.sum(matrix * matrix)), exponent)}
        if "spectral" in asked.norms:
            logs["spectral"] = _log_spectral(matrix, exponent)
        parts = [_part(image, place) for place in asked.parts]
        if asked.sums:
            sums = [total_of(*pair) for pair in zip(sums, [image, *parts], strict=True)]
        measured = Pulled(log_norm_of(rows), logs, [log_norm_of(part) for part in parts], [])
        return (pulled, sums, are_kept(raw, pulled.mantissa, room)), (measured, is_safe & jnp.all(is_fine))

    first = normalised(start)
    sums = [normalised(part) for part in _zeros(joint, start, asked)]
    (_, sums, _), (measured, are_safe) = lax.scan(
        retreat, (first, sums, are_kept(start, first.mantissa, room)), _scanned(joint, before, reads), reverse=True
    )
    return measured._replace(sums=[log_norm_of(total) for total in sums]), are_safe


def _zeros(joint: JointStep, start: Array, asked: Asked) -> list[Array]:
    if not asked.sums:
        return []
    zeros = jnp.zeros((len(start), joint.z.shape[-1]), joint.z.dtype)
    return [zeros, *(zeros[:, place] for place in asked.parts)]


def through(linear: Linear, rows: Extended) -> tuple[Extended, ...]:
    """`linear` of every row in extended range, band by band of the entries of a row that are alike in size.

    Each band is pulled back from long and from short vectors, so that neither a small nor a large entry of the
    Jacobians is lost (see `wide`).
    """
    dtype = rows.mantissa.dtype
    lift = bits_of(dtype).bias // 2
    shapes = jax.eval_shape(linear, rows.mantissa[0])
    nothing = tuple(
        Extended(jnp.zeros(part.shape, part.dtype), jnp.full(part.shape, ZERO, jnp.int32)) for part in shapes
    )

    def of_row(row: Extended) -> tuple[Extended, ...]:
        def of_band(carry: Any) -> Any:
            left, totals = carry
            largest = jnp.max(jnp.where(left, row.exponent, ZERO))
            is_in_band = left & (row.exponent > largest - _BAND)
            band = jnp.where(is_in_band, relative_to(row, largest), 0)
            long, short = linear(band * 2.0**lift), linear(band * 2.0**-lift)
            images = (
                Extended(*(jnp.where(jnp.isfinite(a), *pair) for pair in zip(small, large, strict=True)))
                for a, small, large in (
                    (a, shifted(extended(a), largest - lift), shifted(extended(b), largest + lift))
                    for a, b in zip(long, short, strict=True)
                )
            )
            added = tuple(extended_range.add(*pair) for pair in zip(totals, images, strict=True))
            return left & ~is_in_band, added

        return lax.while_loop(lambda carry: jnp.any(carry[0]), of_band, (row.mantissa != 0, nothing))[1]

    return jax.vmap(of_row)(rows)


def log_of_extended(values: Extended) -> Scalar:
    return log_of(*extended_range.frobenius_norm(values))


def _careful(joint: JointStep, before: Array, start: Float[Array, "k n"], reads: Array | None, asked: Asked) -> Pulled:
    """The norms, with an exponent for each entry."""

    def retreat(carry: Any, inputs: Any) -> Any:
        rows, sums = carry
        if reads is not None:
            rows = extended_range.add(rows, extended(inputs[3]))
        pulled, image = through(_linear(joint, inputs), rows)
        norm, exponent = extended_range.frobenius_norm(image)
        logs = {"frobenius": log_of(norm, exponent)}
        if "spectral" in asked.norms:
            logs["spectral"] = _log_spectral(relative_to(image, exponent), exponent)
        parts = [_part(image, place) for place in asked.parts]
        if asked.sums:
            sums = [extended_range.add(*pair) for pair in zip(sums, [image, *parts], strict=True)]
        return (pulled, sums), Pulled(log_of_extended(rows), logs, [log_of_extended(part) for part in parts], [])

    sums = [extended(part) for part in _zeros(joint, start, asked)]
    (_, sums), measured = lax.scan(retreat, (extended(start), sums), _scanned(joint, before, reads), reverse=True)
    return measured._replace(sums=[log_of_extended(total) for total in sums])


def pulled_rows(
    joint: JointStep,
    trajectory: Trajectory,
    start: Float[Array, "k n"],
    reads: Float[Array, "T k n"] | None = None,
    asked: Asked = Asked(),  # noqa: B008  (immutable)
) -> Pulled:
    """Carry rows back along a trajectory: from `start`, at its last state, and from what is read at h_1 .. h_T.

    NaN wherever a state that is not finite is involved: of `rows` at it and before it, of images also one step later.
    """
    before = trajectory.states[:-1]
    bad = ever(~trajectory.finite[::-1])[::-1]
    quick, are_safe = _quick(joint, before, start, reads, asked)
    joint_of, closed = unbound(joint, before)

    def careful(closed: Any, z: Array, rest: PyTree, before: Array, start: Array, reads: Array | None) -> Pulled:
        return _careful(joint_of(closed, z, rest), before, start, reads, asked)

    is_suspect = jnp.any(~are_safe & ~bad[:-1])
    found = with_care(is_suspect, quick, careful, closed, joint.z, joint.rest, before, start, reads)

    def masked(values: Any, flags: Array) -> Any:
        return jax.tree.map(lambda value: jnp.where(flags, jnp.nan, value.astype(before.dtype)), values)

    return Pulled(
        masked(found.rows, bad[1:]),
        masked({name: found.whole[name] for name in asked.norms}, bad[:-1]),
        masked(found.parts, bad[:-1]),
        masked(found.sums, bad[0]),
    )


def unbound(joint: JointStep, before: Float[Array, "T n"]) -> tuple[Callable[..., JointStep], Any]:
    """A function `joint_of(closed, z, rest)` and `closed`: traced values that the step holds become an argument."""
    h, rest = jax.tree.map(lambda leaf: leaf[0], (before, joint.rest))
    z = joint.z if joint.z.ndim == 1 else joint.z[0]
    step, values = jax.closure_convert(joint.step, h, z, rest)

    def joint_of(closed: Any, z: Array, rest: PyTree) -> JointStep:
        return JointStep(lambda h, z, rest: step(h, z, rest, *closed), z, rest, joint.is_formed)

    return joint_of, values


def as_slices(layout: Any) -> list[slice]:
    """Where the differentiated leaves of a `Layout` lie in its vector."""
    return [slice(leaf.start, leaf.stop) for leaf in layout.leaves if leaf.is_differentiated]
