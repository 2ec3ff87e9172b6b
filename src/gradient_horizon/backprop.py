"""What each node of a vanilla step does to the gradient that passes it on its way back in time.

h_t = φ(a_t), a_t = W h_{t-1} + U x_t + b, so ∂L/∂h_{t-1} = Wᵀ (φ′(a_t) ∂L/∂h_t): first the activation, then the
sums, which pass the gradient on unchanged, then the matrix.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gradient_horizon import names
from gradient_horizon.arrays import PyTree, Scalar, Series, Step
from gradient_horizon.cells import Cell, VanillaCell
from gradient_horizon.rollout import Trajectory, ever, flatten_step, pull, rollout
from gradient_horizon.runtime import unroll
from gradient_horizon.scaling import add, normalise

_LOG_2 = 0.6931471805599453


def _log_ratio(after: Float[Array, " N"], gained: Int[Array, ""], before: Float[Array, " N"]) -> Scalar:
    """log(‖`after` 2^`gained`‖ / ‖`before`‖), both vectors normalised; 0 where nothing was left to shrink."""
    reached, start = (jnp.sqrt(jnp.sum(vector * vector)) for vector in (after, before))
    ratio = jnp.log(reached / jnp.where(start == 0, 1, start)) + gained.astype(after.dtype) * _LOG_2
    return jnp.where(start == 0, 0, ratio)


def log_state_gradient_norms(
    step: Step,
    params: PyTree,
    h0: PyTree,
    trajectory: Trajectory,
    xs: PyTree,
    read: Float[Array, "T n"],
) -> Series:
    """log ‖∂L/∂h_t‖ at h_1 .. h_T, natural logs, shape (T,); -inf where the gradient is exactly zero.

    `read[t - 1]` is what L reads of h_t itself, raveled; the rest comes back through the later steps:
    ∂L/∂h_t = read_t + J_{t+1}ᵀ ∂L/∂h_{t+1}. The vector is kept as a mantissa and a power of two, so its norm is right
    where the gradient itself would have underflowed. (Of `h0` only the structure is read.) NaN from the first state on
    the way back that is not finite.
    """
    flat_step, _ = flatten_step(step, h0)

    def retreat(carry, inputs):
        vector, exponent = carry
        h, x, added = inputs
        added, own = normalise(added)
        here, exponent = add(vector, exponent, added, own)
        norm = jnp.log(jnp.sqrt(jnp.sum(here * here))) + exponent.astype(read.dtype) * _LOG_2
        pulled, shift = normalise(pull(flat_step, params, h, x, here[None])[0])
        return (pulled, exponent + shift), norm

    start = (jnp.zeros_like(read[0]), jnp.zeros((), jnp.int32))
    # the step from h_t to h_{t+1} is linearised at h_t; nothing is pulled back below h_1
    _, norms = lax.scan(retreat, start, (trajectory.states[:-1], xs, read), reverse=True)
    touches_bad = ever(~trajectory.finite[1:][::-1])[::-1]
    return jnp.where(touches_bad, jnp.nan, norms)


def node_split(
    cell: Cell,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    steps: int | None = None,
    gradient: Array | None = None,
    trajectory: Trajectory | None = None,
) -> dict[str, Series]:
    """How much each node of the step adds to the log norm of ∂L/∂h_t, step by step back in time.

    With v = ∂L/∂h_t and u = φ′(a_t) v, the activation adds log(‖u‖ / ‖v‖) and the matrix log(‖Wᵀ u‖ / ‖u‖); the sums
    add nothing. Summed over the nodes and the first k entries this is log(‖∂L/∂h_{T-k}‖ / ‖∂L/∂h_T‖). The vector is
    renormalised by exact powers of two, so it neither over- nor underflows.

    **Arguments:**

    - `cell`, `params`, `h0`: a vanilla cell without leak, and its network.
    - `xs`: inputs with leading axis T, or None with `steps` = T.
    - `gradient`: ∂L/∂h_T, shape (N,), not zero; only its direction matters. None: all ones, as in the notes.
    - `trajectory`: what `rollout` gave for these, where it is at hand (with `rescale`, say); None: it is computed.

    **Returns:** `{"activation": (T,), "matrix": (T,)}`, natural logs; entry k belongs to the step from lag k to lag
    k + 1, as in `log_jacobian_norms` from the end. The node that makes the vector exactly zero adds -inf, those after
    it 0. NaN from the first state on the way back that is not finite.

    **Raises:** `ValueError` for a cell that lets the gradient past its nodes on a second path (a leak, gates): there
    the contributions add instead of multiplying, and the log norm does not split. Also for a `gradient` of another
    shape or dtype than the state.
    """
    if not isinstance(cell, VanillaCell) or cell.leak != 1.0:
        allowed = ", ".join(names.ONE_PATH_CELLS)
        raise ValueError(f"cell: {cell.name!r} lets the gradient back on more than one path; allowed: {allowed}")
    trajectory = rollout(cell.step, params, h0, xs, steps=steps) if trajectory is None else trajectory
    before = trajectory.states[:-1]
    if gradient is None:
        gradient = jnp.ones_like(h0)
    if gradient.shape != h0.shape or gradient.dtype != h0.dtype:
        raise ValueError(
            f"gradient: {gradient.shape} {gradient.dtype}; allowed: {h0.shape} {h0.dtype}, as the state is"
        )

    def retreat(vector, inputs):
        h, x = inputs
        slope = cell.activation.derivative(cell.preactivation(params, h, x))
        activated, lost = normalise(vector * slope)
        multiplied, gained = normalise(activated @ params.recurrent)
        return multiplied, {
            "activation": _log_ratio(activated, lost, vector),
            "matrix": _log_ratio(multiplied, gained, activated),
        }

    start, _ = normalise(gradient)
    _, split = lax.scan(retreat, start, (before, xs), reverse=True, unroll=unroll(h0.size))
    touches_bad = ever(~trajectory.finite[::-1])[1:]
    return {node: jnp.where(touches_bad, jnp.nan, added[::-1]) for node, added in split.items()}
