"""Whether a step of complex states is holomorphic: read from its linearisation, not taken on trust.

A derivative is complex linear if no operation between tangents takes a conjugate or leaves the complex numbers (real
and imaginary parts, moduli). So it is sound, and careful: z ↦ Re z + i Im z is taken for a step that is not.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from gradient_horizon.numerics.arrays import PyTree


def is_holomorphic(function: Callable[..., PyTree], at: PyTree, *others: PyTree) -> bool:
    """Whether the derivative of `function`(z, *others) by z is complex linear, for any values like `at` and `others`.

    z and the result are trees of complex arrays; of the arguments shapes and dtypes suffice.
    """
    verdicts = []

    def probe(values: PyTree, *others: PyTree) -> PyTree:
        result, linear = jax.linearize(lambda values: function(values, *others), values)
        verdicts.append(_is_complex_linear(jax.make_jaxpr(linear)(values)))
        return result

    try:
        jax.eval_shape(probe, at, *others)
    except (TypeError, ValueError, NotImplementedError):  # no forward derivative, so it cannot be looked into
        return False
    return all(verdicts)


def _is_complex_linear(program: ClosedJaxpr | Jaxpr) -> bool:
    """Whether what becomes of the complex arguments stays complex and is never conjugated.

    (In a program inside the program all complex arguments count as tangents: more than need be.)
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
