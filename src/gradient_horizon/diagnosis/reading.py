"""One measurement of a network on its probe: what its gradient does through time at its current parameters.

A pure function of the parameters, compiled once. A quick program measures a few sequences side by side; if a product
might have lost an entry to underflow, it says so, and a careful one, compiled only then, measures again, one sequence
after the other.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from gradient_horizon.diagnosis.parameters import arrays_of
from gradient_horizon.measures.jacobian_norms import log_norms
from gradient_horizon.measures.largest_exponent import largest_lyapunov_exponent
from gradient_horizon.measures.nodes import log_state_gradient_norms
from gradient_horizon.measures.states import Layout, flatten_step, layout_of
from gradient_horizon.measures.trajectory import Trajectory, rollout, system_of
from gradient_horizon.numerics.arrays import PyTree, Scalar, Series, Step
from gradient_horizon.numerics.derivatives import jacobian_by_rows
from gradient_horizon.numerics.fallback import postponed
from gradient_horizon.store.netcdf import first_line

LOOKED_AT = 16  # steps of each sequence at which rows of J_t are looked at
SIDE_BY_SIDE = 8  # sequences at most: a step is small, and takes its time whatever the number of sequences
CLOSED = 0.1  # a unit whose row of J_t is shorter passes on less than a tenth
TRANSIENT = 5  # a fifth of the steps align the tangent vector
LossOfStates = Callable[[PyTree, PyTree, PyTree], tuple[Any, Any]]


class Reading(NamedTuple):
    """One measurement of S sequences of T steps. Natural logs, per step.

    - `log_norm` (S, T): log ‖∂h_T/∂h_{T-lag}‖_F, lags 1 .. T, of each sequence.
    - `lyapunov_exponent` (S,): the largest, after a transient of a fifth of the steps.
    - `saturation`: the share of state entries whose row of J_t is shorter than `CLOSED`, at up to `LOOKED_AT` steps of
      each sequence.
    - `first_bad_time` (S,): the first t with a non-finite h_t, or -1.
    - `log_state_gradient_norm` (T,): log ‖∂L/∂h_t‖, h_1 .. h_T, over the states of all sequences together.
    - `loss`, `log_gradient_norm`: L, and log ‖∂L/∂params‖.
    - `state_size`: n, of the state as it is measured.
    - `is_own`: False if the states that the loss computes are not those of the step on the probe; the profile is then
      NaN.
    - `is_suspect`: True if the measurement must be repeated with care; always False if it was careful.
    """

    log_norm: Any
    lyapunov_exponent: Any
    saturation: Any
    first_bad_time: Any
    log_state_gradient_norm: Any
    loss: Any
    log_gradient_norm: Any
    state_size: Any
    is_own: Any
    is_suspect: Any


class Along(NamedTuple):
    """What is measured along one sequence, and its trajectory."""

    log_norm: Any
    lyapunov_exponent: Any
    closed: Any
    first_bad_time: Any
    state_size: Any
    is_suspect: Any
    trajectory: Trajectory


def read(
    step: Step,
    params: PyTree,
    h0: PyTree,
    probe: PyTree,
    length: int,
    loss: Callable[[PyTree, PyTree], Any] | None = None,
    loss_of_states: LossOfStates | None = None,
    *,
    careful: bool = True,
) -> Reading:
    """The `Reading` of a network at `params`; `probe` has leading axes (S, T), or is None, for one sequence.

    If not `careful`, the result may be suspect.
    """

    def along(xs: PyTree) -> Along:
        with _suspicions(careful) as suspicions:
            found = _along(step, params, h0, xs, length)
        return found._replace(is_suspect=_any(suspicions))

    each = jax.tree.map(lambda leaf: leaf[None], along(None)) if probe is None else _each(along, probe, careful=careful)
    dtype = each.log_norm.dtype
    profile, is_own, is_suspect = jnp.full(length, jnp.nan, dtype), jnp.ones((), bool), jnp.zeros((), bool)
    if loss_of_states is not None:
        profile, is_own, is_suspect = _profile(
            step, params, h0, probe, length, each.trajectory, loss_of_states, careful=careful
        )
    value, size = jnp.full((2,), jnp.nan, dtype)
    if loss is not None:
        value, size = _loss_and_log_gradient(loss, params, probe)
    return Reading(
        each.log_norm,
        each.lyapunov_exponent,
        jnp.mean(each.closed),
        each.first_bad_time,
        profile,
        value,
        size,
        each.state_size[0],
        is_own,
        jnp.any(each.is_suspect) | is_suspect,
    )


def _each(function: Callable[[PyTree], Any], inputs: PyTree, *, careful: bool) -> Any:
    """`function` of each sequence: of a few side by side or, if `careful`, one after the other.

    Side by side, a recomputation that one sequence needs would be made for all. A step that `jax.vmap` cannot take (a
    callback without a rule for it, say) is also measured one after the other.
    """
    sequences = jax.tree.leaves(inputs)[0].shape[0]
    if careful:
        return lax.map(function, inputs)
    try:
        return lax.map(function, inputs, batch_size=side_by_side(sequences))
    except Exception:  # the step cannot be batched; any other error is raised again
        return lax.map(function, inputs)


def side_by_side(sequences: int) -> int:
    """How many sequences are measured at once: the largest divisor of their number up to `SIDE_BY_SIDE`."""
    return next(number for number in range(SIDE_BY_SIDE, 0, -1) if sequences % number == 0)


@contextmanager
def _suspicions(careful: bool) -> Iterator[list[Any]]:
    if careful:
        yield []
        return
    with postponed() as suspicions:
        yield suspicions


def _any(flags: list[Any]) -> Any:
    return jnp.any(jnp.stack(flags)) if flags else jnp.zeros((), bool)


def _along(step: Step, params: PyTree, h0: PyTree, xs: PyTree, length: int) -> Along:
    trajectory = rollout(step, params, h0, xs, steps=length)
    system = system_of(step, params, h0, xs, steps=length, trajectory=trajectory)
    trajectory = system.trajectory
    norms = log_norms(system, every_vector=True)["frobenius"] - system.log_norm_of_pairs
    exponent = largest_lyapunov_exponent(step, params, h0, trajectory, xs, length // TRANSIENT)
    places = np.unique(np.linspace(0, length - 1, min(length, LOOKED_AT)).round().astype(int))
    window = jax.tree.map(lambda leaf: leaf[places], system.window)

    def closed(inputs: Any) -> Any:
        h, x = inputs
        rows = jacobian_by_rows(lambda h: system.step(params, h, x), h)
        is_closed = jnp.max(jnp.abs(rows), axis=1) < CLOSED  # squares of longer rows do not underflow
        short = jnp.sum(jnp.where(is_closed[:, None], rows * rows, 1), axis=1) < CLOSED**2
        return jnp.mean((is_closed & short).astype(h.dtype))

    share = jnp.mean(lax.map(closed, window))
    share = jnp.where(jnp.all(trajectory.finite), share, jnp.nan)
    size = system.layout.size // (2 if system.is_holomorphic else 1)
    return Along(norms, exponent, share, trajectory.first_bad_step, jnp.int32(size), jnp.zeros((), bool), trajectory)


def _after(step: Step, params: PyTree, layout: Layout, trajectory: Trajectory, xs: PyTree) -> list[Any]:
    """The leaves of h_1 .. h_T that are not differentiated."""
    if not layout.carries:
        return []
    last = jax.tree.map(lambda leaf: leaf[-1], (trajectory.carried, xs))
    state = layout.unpack(trajectory.states[-2], last[0])
    _, carried = layout.pack(step(params, state, last[1]))
    return [jnp.concatenate([early[1:], late[None]]) for early, late in zip(trajectory.carried, carried, strict=True)]


def _profile(
    step: Step,
    params: PyTree,
    h0: PyTree,
    probe: PyTree,
    length: int,
    trajectories: Trajectory,
    loss_of_states: LossOfStates,
    *,
    careful: bool,
) -> tuple[Series, Any, Any]:
    """log ‖∂L/∂h_t‖ at h_1 .. h_T: what L reads of each state directly, carried back through the steps."""
    layout = layout_of(h0)

    def unpacked(vectors: Array, carried: list[Any]) -> PyTree:
        return jax.vmap(jax.vmap(layout.unpack))(vectors, carried)

    if probe is None:
        first = jax.tree.map(lambda leaf: leaf[0], trajectories)
        carried = jax.tree.map(lambda leaf: leaf[None], _after(step, params, layout, first, None))
    else:
        carried = jax.vmap(lambda trajectory, xs: _after(step, params, layout, trajectory, xs))(trajectories, probe)

    def of_vectors(vectors: Array) -> tuple[Scalar, Any]:
        return loss_of_states(params, unpacked(vectors, carried), probe)

    direct, is_own = jax.grad(of_vectors, has_aux=True)(trajectories.states[:, 1:])

    def back(inputs: Any) -> tuple[Array, Any]:
        trajectory, xs, read = inputs
        with _suspicions(careful) as suspicions:
            logs = log_state_gradient_norms(step, params, h0, trajectory, xs, read)
        return logs, _any(suspicions)

    if probe is None:
        logs, is_suspect = back((jax.tree.map(lambda leaf: leaf[0], trajectories), None, direct[0]))
        logs = logs[None]
    else:
        logs, is_suspect = _each(back, (trajectories, probe, direct), careful=careful)
    profile = 0.5 * jax.nn.logsumexp(2 * logs, axis=0)
    # the gradient of the loss at a state may itself be infinite
    profile = jnp.where(jnp.all(jnp.isfinite(direct)), profile, jnp.nan)
    return jnp.where(is_own, profile, jnp.nan), is_own, jnp.any(is_suspect)


def _loss_and_log_gradient(loss: Callable[[PyTree, PyTree], Any], params: PyTree, probe: PyTree) -> tuple[Any, Any]:
    """L, and log ‖∂L/∂params‖ over all floating arrays; inf or NaN if the gradient is not finite."""
    leaves, structure = jax.tree.flatten(params)
    is_free = [isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    free = [leaf for leaf, is_one in zip(leaves, is_free, strict=True) if is_one]

    def of_free(free: list[Any]) -> Any:
        values = iter(free)
        filled = [next(values) if is_one else leaf for leaf, is_one in zip(leaves, is_free, strict=True)]
        return loss(jax.tree.unflatten(structure, filled), probe)

    value, gradient = jax.value_and_grad(of_free)(free)
    value = jnp.asarray(value)
    parts = [jnp.abs(leaf).ravel().astype(value.dtype) for leaf in gradient]
    sizes = jnp.concatenate(parts)
    largest = jnp.max(sizes)  # NaN if any is
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return value, jnp.log(scale) + 0.5 * jnp.log(jnp.sum(jnp.square(sizes / scale)))


def check_step(step: Step, params: PyTree, h0: PyTree, x: PyTree) -> None:
    """Raise `ValueError` unless `step` maps a state like `h0` to one like it."""
    try:
        flatten_step(step, h0)
        after = jax.eval_shape(lambda h, x: step(params, h, x), h0, x)
    except ValueError as error:
        if str(error).startswith("h0:"):
            raise
        raise _failed(error) from error
    except Exception as error:
        raise _failed(error) from error
    before = jax.tree.structure(h0), [_described(leaf) for leaf in jax.tree.leaves(h0)]
    behind = jax.tree.structure(after), [_described(leaf) for leaf in jax.tree.leaves(after)]
    if before != behind:
        shown = [", ".join(leaves) if before[0] == behind[0] else str(tree) for tree, leaves in (before, behind)]
        raise ValueError(f"h0: {shown[0]}, but step returns {shown[1]}; allowed: a state like those that step returns")


def check_loss(loss: Callable[[PyTree, PyTree], Any], params: PyTree, probe: PyTree) -> None:
    """Raise `ValueError` unless `loss` returns one real number."""
    arrays, fill = arrays_of(params)
    try:
        value = jax.eval_shape(lambda arrays, probe: loss(fill(arrays), probe), arrays, probe)
    except Exception as error:
        failure = f"loss: fails on params and the probe ({first_line(error)})"
        raise ValueError(f"{failure}; allowed: loss(params, probe) -> scalar") from error
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1 or leaves[0].shape != () or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        shown = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves) or "nothing"
        raise ValueError(f"loss: returns {shown}; allowed: one real number, an array of shape ()")


def _failed(error: Exception) -> ValueError:
    return ValueError(
        f"probe: step fails on one entry of it with h0 ({first_line(error)}); allowed: leaves with leading"
        " axes (sequences, steps), inputs and a state that step takes"
    )


def _described(leaf: Any) -> str:
    return f"{tuple(jnp.shape(leaf))} {jnp.result_type(leaf)}"


def bytes_needed(h0: PyTree, probe: PyTree, sequences: int, length: int, *, with_loss: bool) -> int:
    """An estimate of the bytes that a reading takes besides the probe: all states, and a product for each of some."""
    n = layout_of(h0).size
    itemsize = layout_of(h0).dtype.itemsize
    one = length * n * 4 + 8 * n * n
    every = sequences * length * (n * (5 if with_loss else 1) + 8)
    inputs = sum(math.prod(jnp.shape(leaf)[2:]) * leaf.dtype.itemsize for leaf in jax.tree.leaves(probe))
    return itemsize * (side_by_side(sequences) * one + every) + sequences * length * inputs
