"""The gradient of a loss with respect to the parameters, split by the step through which it came.

The parameters θ act at every step alike: ∂L/∂θ = Σ_t (∂h_t/∂θ)ᵀ ∂L/∂h_t, where ∂h_t/∂θ is that of step t alone, at a
fixed h_{t-1}, and ∂L/∂h_t leads through all later steps. If gradients vanish, only the last terms count.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gradient_horizon.measures.loss_gradients import Loss, direct_gradients
from gradient_horizon.measures.pulled_rows import Asked, JointStep, as_slices, pulled_rows
from gradient_horizon.measures.states import Layout, layout_of
from gradient_horizon.measures.trajectory import System, Trajectory, system_of
from gradient_horizon.numerics.arrays import PyTree, Step
from gradient_horizon.numerics.compiled import compiled_once


class ParameterGradients(NamedTuple):
    """Natural logs of the norms of ∂L/∂θ, split by steps.

    - `log_norm`: (T,), of the contribution of each step, all parameters together; entry t - 1 came through step t.
    - `by_leaf`: the same for each leaf of the parameters alone, a tree like `params`; None for leaves that cannot be
      differentiated.
    - `log_norm_of_sum`, `by_leaf_of_sum`: of the sum over all steps, ∂L/∂θ itself. Far below the largest contribution
      if contributions cancel.
    """

    log_norm: Any
    by_leaf: PyTree
    log_norm_of_sum: Any
    by_leaf_of_sum: PyTree


@compiled_once
def log_parameter_gradients(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree,
    loss: Loss,
    *,
    steps: int | None = None,
    trajectory: Trajectory | None = None,
) -> ParameterGradients:
    """Natural logs of the norms of what each step contributes to ∂L/∂θ, for every leaf of the parameters θ.

    One backward pass with a single row, as for `log_state_gradients`, and at each step the product of that row with
    the step's derivative in θ: the cost of `jax.grad` of the whole, and its sum over steps is that gradient.

    **Arguments:**

    - `step`, `h0`, `xs`, `steps`, `trajectory`: as for `log_state_gradients`.
    - `params`: θ, a pytree; floats and complex numbers are differentiated. For some of the parameters alone, let the
      step hold the others: `lambda W, h, x: step(replace(params, recurrent=W), h, x)`.
    - `loss`: `loss(states) -> scalar`, as for `log_state_gradients`. What it reads of the parameters itself, as a
      readout does, comes through no step and is left out.

    **Returns:** `ParameterGradients`. -inf if a contribution is exactly zero; NaN for steps from or before a state that
    is not finite.

    **Accuracy:** contributions neither over- nor underflow, however many steps lie between step and loss. The sum
    rounds by eps of the largest contribution.

    **Raises:** `ValueError` for a loss that does not return one real number, and for parameters without floats.

    **Source:** Pascanu, Mikolov, Bengio 2013, eqs. 3 to 5.
    """
    of_params = params_layout(params)
    system = system_of(step, params, h0, xs, steps=steps, trajectory=trajectory)
    reads = direct_gradients(step, params, xs, system, loss)[:, None]
    joint = of_parameters(step, params, system, of_params)
    asked = Asked(parts=tuple(as_slices(of_params)), sums=True)
    found = pulled_rows(joint, system.trajectory, jnp.zeros_like(reads[0]), reads, asked)
    total, *sums = found.sums
    return ParameterGradients(
        found.whole["frobenius"], like_params(of_params, found.parts), total, like_params(of_params, sums)
    )


def params_layout(params: PyTree) -> Layout:
    """The layout of the parameters in a vector; `ValueError` if there is nothing to differentiate."""
    if not any(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in jax.tree.leaves(params)):
        raise ValueError("params: holds no floats or complex numbers; allowed: a pytree with some to differentiate")
    return layout_of(params, "params")


def of_parameters(step: Step, params: PyTree, system: System, of_params: Layout) -> JointStep:
    """The step as a function of the vectors of its state and of its parameters."""
    layout = system.layout
    z, left_out = of_params.pack(params)

    def joint(h: Array, z: Array, rest: PyTree) -> Array:
        x, carried = rest if layout.carries else (rest, [])
        return layout.packed_like(step(of_params.unpack(z, left_out), layout.unpack(h, carried), x))[0]

    return JointStep(joint, z, system.xs, layout.is_short or of_params.is_short)


def like_params(of_params: Layout, values: list[Any]) -> PyTree:
    """`values`, one for each leaf that is differentiated, as a tree like the parameters; None for the others."""
    rest = iter(values)
    return jax.tree.unflatten(
        of_params.structure, [next(rest) if leaf.is_differentiated else None for leaf in of_params.leaves]
    )
