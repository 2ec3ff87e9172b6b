"""A test for holomorphic steps, read from the step's linearisation rather than declared by the user.

A derivative is complex linear if no operation on the tangents takes a conjugate or leaves the complex numbers (real
and imaginary parts, moduli). The test is sound but conservative: z ↦ Re z + i Im z counts as not holomorphic.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from gradient_horizon.numerics.arrays import PyTree


def is_holomorphic(function: Callable[..., PyTree], at: PyTree, *others: PyTree) -> bool:
    """True if the derivative of `function`(z, *others) in z is complex linear, for any values like `at` and `others`.

    z and the result are trees of complex arrays; only the shapes and dtypes of the arguments are used.
    """
    verdicts = []

    def probe(values: PyTree, *others: PyTree) -> PyTree:
        result, linear = jax.linearize(lambda values: function(values, *others), values)
        verdicts.append(_is_complex_linear(jax.make_jaxpr(linear)(values)))
        return result

    try:
        jax.eval_shape(probe, at, *others)
    except (TypeError, ValueError, NotImplementedError):  # no forward derivative to inspect
        return False
    return all(verdicts)


def _is_complex_linear(program: ClosedJaxpr | Jaxpr) -> bool:
    """True if everything computed from the complex arguments is complex and never conjugated.

    (In a nested program all complex arguments count as tangents, which is conservative.)
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    tangents = {var for var in jaxpr.invars if _is_complex(var)}
    for equation in jaxpr.eqns:
        if not any(not isinstance(value, Literal) and value in tangents for value in equation.invars):
            continue
        programs = [part for part in jax.tree.leaves(equation.params, is_leaf=_is_program) if _is_program(part)]
        stays = all(map(_is_complex, equation.outvars)) if not programs else all(map(_is_complex_linear, programs))
        if not stays or equation.primitive.name == "conj":
            return False
        tangents.update(filter(_is_complex, equation.outvars))
    return True


def _is_program(value: object) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)


def _is_complex(var: Any) -> bool:
    return jnp.issubdtype(var.aval.dtype, jnp.complexfloating)
