"""Gradients of a loss with respect to the states, ∂L/∂h_t, and what the loss reads of each state directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gradient_horizon.measures.nodes import log_state_gradient_norms
from gradient_horizon.measures.trajectory import System, Trajectory, system_of
from gradient_horizon.numerics.arrays import PyTree, Series, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.derivatives import pullback

Loss = Callable[[Any], Any]  # loss(states) -> scalar; states: h_1 .. h_T, every leaf with leading axis T


@compiled_once
def log_state_gradients(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree,
    loss: Loss,
    *,
    steps: int | None = None,
    trajectory: Trajectory | None = None,
) -> Series:
    """log ‖∂L/∂h_t‖ at h_1 .. h_T, natural logs, shape (T,), through all later steps.

    ∂L/∂h_t = read_t + J_{t+1}ᵀ ∂L/∂h_{t+1}, with read_t what L reads of h_t directly.

    **Arguments:**

    - `step`, `params`, `h0`, `xs`, `steps`: as for `log_jacobian_norms`; `xs` is None for a step without inputs.
    - `loss`: a function of the states after every step, `loss(states) -> scalar`, where `states` is like `h0`, each
      leaf with a leading axis T. Targets and readout belong to it: `lambda h: jnp.mean((h @ C.T - targets) ** 2)`; of
      the last state alone: `lambda h: jnp.sum((C @ h[-1] - target) ** 2)`, or of an LSTM's, `states.h[-1]`.
    - `trajectory`: the result of `rollout` for the same arguments, if available; by default it is computed.

    **Returns:** an array (T,) in the dtype of the state's vector. -inf if the gradient is exactly zero; NaN at the last
    state that is not finite, and at all earlier ones. The gradient of a complex state is that with respect to its real
    and imaginary parts, which has the norm of JAX's.

    **Raises:** `ValueError` for a loss that does not return one real number.

    **Source:** backpropagation through time, Werbos 1990; Pascanu, Mikolov, Bengio 2013, eq. 4.
    """
    system = system_of(step, params, h0, xs, steps=steps, trajectory=trajectory)
    read = direct_gradients(step, params, xs, system, loss)
    return log_state_gradient_norms(step, params, h0, system.trajectory, xs, read)


def direct_gradients(step: Step, params: PyTree, xs: PyTree, system: System, loss: Loss) -> Float[Array, "T n"]:
    """What the loss reads of h_1 .. h_T directly: its derivatives with respect to all of their vectors at once."""
    layout, trajectory = system.layout, system.trajectory
    carried = list(trajectory.carried)  # of h_0 .. h_{T-1}; here those of h_1 .. h_T are needed
    if layout.carries:
        before, x = jax.tree.map(lambda leaf: leaf[-1], ((trajectory.states[:-1], carried), xs))
        last = layout.pack(step(params, layout.unpack(*before), x))[1]
        carried = [jnp.concatenate([leaf[1:], end[None]]) for leaf, end in zip(carried, last, strict=True)]

    def of_vectors(vectors: Array) -> Array:
        value = jnp.asarray(loss(jax.vmap(layout.unpack)(vectors, carried)))
        if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"loss: returns {value.dtype} of shape {value.shape}; allowed: one real number")
        return value.astype(vectors.dtype)

    states = trajectory.states[1:]
    return pullback(of_vectors, states)(jnp.ones((), states.dtype))[0]
