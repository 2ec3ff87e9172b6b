"""The map whose fixed points are sought: one or several applications of a step, or of a whole cycle of inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array, Bool, Float, Int

from gradient_horizon.measures.states import FlatStep, Layout, flatten_step
from gradient_horizon.measures.wide import reads_subnormal
from gradient_horizon.numerics.arrays import PyTree, Step
from gradient_horizon.numerics.derivatives import jacobian


class Linearised(NamedTuple):
    """F(h), its Jacobian there, and what rounding may have done to both.

    - `rounding`: (n,), a bound to first order on the error of each entry of F(h), from (√n + 8) eps per step: errors of
      a sum add up like a random walk (Higham and Mary 2019). Never below `ReturnMap.floor`.
    - `slope_rounding`: a bound on the norm (any of 1, 2, ∞) of the error of the Jacobian.
    """

    value: Array
    jacobian: Array
    rounding: Array
    slope_rounding: Array


class ReturnMap(NamedTuple):
    """F: `step` at each of the inputs `xs` (leading axis L) in turn. One application of F is one *cycle* of L steps."""

    step: FlatStep
    params: PyTree
    xs: PyTree  # if part of the state is not differentiated, pairs of the inputs and that part
    length: int
    layout: Layout

    @property
    def eps(self) -> float:
        """The relative rounding of a state: that of its entries with the fewest bits."""
        return max(float(jnp.finfo(leaf.dtype).eps) for leaf in self.layout.leaves if leaf.is_differentiated)

    @property
    def floor(self) -> float:
        """What a step may lose of an entry near 0, where rounding is not relative.

        XLA flushes every number below the smallest normal one to 0. Each of n terms may be lost so, with a few more in
        the step, and what follows may multiply them, by up to 1/eps here; entries of 16 bits are not multiplied.
        """
        kept = [leaf.dtype for leaf in self.layout.leaves if leaf.is_differentiated]
        own = jnp.finfo(self.layout.dtype)
        lost = max(float(own.tiny) / float(own.eps), *(float(jnp.finfo(dtype).tiny) for dtype in kept))
        return (self.layout.size + 8) * lost

    def at(self, x: PyTree) -> Callable[[Array], Array]:
        """The step at input `x`."""
        return lambda h: self.step(self.params, h, x)

    def inputs(self, cycles: int) -> PyTree:
        """The inputs of `cycles` cycles, one after the other."""
        places = np.arange(self.length * cycles) % self.length
        return jax.tree.map(lambda leaf: leaf[places], self.xs)

    def apply(self, h: Float[Array, " n"], cycles: int = 1) -> Float[Array, " n"]:
        """F applied `cycles` times."""
        inputs = self.inputs(cycles)
        if self.length * cycles == 1:
            return self.at(_first(inputs))(h)
        return lax.scan(lambda h, x: (self.at(x)(h), None), h, inputs, length=self.length * cycles)[0]

    def jacobian(self, h: Float[Array, " n"], cycles: int = 1) -> Float[Array, "n n"]:
        """The Jacobian of `apply`: the product of those of the steps."""
        return self.linearised(h, cycles).jacobian

    def linearised(self, h: Float[Array, " n"], cycles: int = 1) -> Linearised:
        """F, `cycles` times, and its Jacobian, with running bounds on their rounding."""
        inputs = self.inputs(cycles)
        unit = (len(h) ** 0.5 + 8) * self.eps

        def advance(before: Linearised, x: PyTree) -> tuple[Linearised, None]:
            own = self._one(before.value, x, unit)
            size = norm_bound(own.jacobian)
            return Linearised(
                own.value,
                jnp.matmul(own.jacobian, before.jacobian, precision="highest"),
                own.rounding + jnp.abs(own.jacobian) @ before.rounding,
                size * before.slope_rounding + 2 * own.slope_rounding * norm_bound(before.jacobian),
            ), None

        first = self._one(h, _first(inputs), unit)
        if self.length * cycles == 1:
            return first
        return lax.scan(advance, first, jax.tree.map(lambda leaf: leaf[1:], inputs), length=self.length * cycles - 1)[0]

    def _one(self, h: Float[Array, " n"], x: PyTree, unit: float) -> Linearised:
        matrix, value = jacobian(self.at(x), h), self.at(x)(h)
        rounding = unit * (jnp.abs(matrix) @ jnp.abs(h) + jnp.abs(value)) + self.floor
        return Linearised(value, matrix, rounding, unit * norm_bound(matrix))

    def perturbed(self, size: float, pattern: Int[Array, ""]) -> ReturnMap:
        """The map with every parameter and input changed by ±`size` of itself, with a pattern of signs."""

        def change(leaf: Any) -> Any:
            dtype = getattr(leaf, "dtype", None)
            if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
                return leaf
            place = lax.broadcasted_iota(jnp.float32, (jnp.size(leaf), 1), 0).reshape(jnp.shape(leaf))
            angle = place * 1.618034 * (pattern + 1).astype(jnp.float32) + 0.7
            return leaf * (1 + jnp.where(jnp.cos(angle) > 0, size, -size)).astype(dtype)

        params, xs = jax.tree.map(change, (self.params, self.xs))
        return self._replace(params=params, xs=xs)

    def is_misread(self) -> Bool[Array, ""]:
        """True if XLA reads a parameter as 0, because it is below the smallest normal number."""
        h = jax.ShapeDtypeStruct((self.layout.size,), self.layout.dtype)
        x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.xs)
        return reads_subnormal(lambda h, x: self.step(self.params, h, x), h, x)


def _first(inputs: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], inputs)


def norm_bound(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """√(‖M‖₁ ‖M‖_∞) ≥ ‖M‖₂, and within √n of it."""
    size = jnp.abs(matrix)
    return jnp.sqrt(jnp.max(jnp.sum(size, axis=0)) * jnp.max(jnp.sum(size, axis=1)))


def return_map(step: Step, params: PyTree, x: PyTree, start: PyTree, *, driven: bool) -> tuple[ReturnMap, list[Any]]:
    """F for states like `start`, and the leaves of `start` that are not differentiated, which F leaves as they are.

    `x` is the input of every step or, if `driven`, holds one cycle of inputs along its leading axis.
    """
    flat_step, layout = flatten_step(step, start)
    carried = layout.pack(start)[1]
    length = 1
    if driven:
        lengths = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(x)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"x: leading axes {sorted(lengths)}; allowed where driven: one length, at least 1, for every leaf"
            )
        length = lengths.pop()
    xs = jax.tree.map(jnp.asarray, x)
    xs = xs if driven else jax.tree.map(lambda leaf: leaf[None], xs)
    if layout.carries:
        held = [jnp.broadcast_to(leaf[None], (length, *jnp.shape(leaf))) for leaf in carried]
        xs = (xs, held)
    return ReturnMap(flat_step, params, xs, length, layout), carried


def widened(leaf: Any) -> Any:
    """A leaf of float32 or complex64 in 64 bits; any other leaf as it is."""
    dtype = getattr(leaf, "dtype", None)
    wide = {"float32": jnp.float64, "complex64": jnp.complex128}.get(str(dtype))
    return leaf if wide is None else jnp.asarray(leaf, wide)


def runs_in_float64(step: Step, params: PyTree, x: PyTree, starts: PyTree, *, driven: bool) -> bool:
    """True if `step` takes these arguments, of 64 bits, and computes nothing from them in fewer."""
    start = jax.tree.map(lambda leaf: leaf[0], starts)
    try:
        system, _ = return_map(step, params, x, start, driven=driven)
        if system.layout.is_short or system.layout.dtype != jnp.float64:
            return False
        program = jax.make_jaxpr(system.apply)(jnp.zeros(system.layout.size, jnp.float64))
    except Exception:  # in its own precision the same error is raised again, if it is one
        return False
    return not _has_short_results(program)


def _has_short_results(program: ClosedJaxpr | Jaxpr) -> bool:
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    for equation in jaxpr.eqns:
        for var in equation.outvars:
            aval: Any = var.aval
            if jnp.issubdtype(getattr(aval, "dtype", bool), jnp.inexact) and jnp.finfo(aval.dtype).bits < 64:
                return True
        parts = jax.tree.leaves(equation.params, is_leaf=lambda part: isinstance(part, ClosedJaxpr | Jaxpr))
        if any(_has_short_results(part) for part in parts if isinstance(part, ClosedJaxpr | Jaxpr)):
            return True
    return False


def divisors(period: int) -> list[int]:
    """The divisors of `period`, ascending."""
    return [one for one in range(1, period + 1) if period % one == 0]


def length_of(vector: Float[Array, " n"]) -> Float[Array, ""]:
    """‖v‖₂ without overflow; inf if an entry is not finite."""
    largest = jnp.max(jnp.abs(vector))
    scaled = vector / jnp.where(largest > 0, largest, 1)
    length = largest * jnp.sqrt(jnp.sum(scaled * scaled))
    return jnp.where(jnp.isfinite(length), length, math.inf)
