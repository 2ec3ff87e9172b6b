"""The measurements recorded of a network during training: its loss and error, and its gradient through time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from gradient_horizon.measures.jacobian_norms import log_norms
from gradient_horizon.measures.largest_exponent import largest_lyapunov_exponent
from gradient_horizon.measures.nodes import log_state_gradient_norms
from gradient_horizon.measures.trajectory import rollout, system_of
from gradient_horizon.numerics import lapack
from gradient_horizon.numerics.arrays import PyTree, Scalar
from gradient_horizon.numerics.keys import named_key, sized_key
from gradient_horizon.tasks.score import loss_of
from gradient_horizon.tasks.task import Sample
from gradient_horizon.training.bptt import preactivations
from gradient_horizon.training.learner import Learner
from gradient_horizon.training.network import Params, answered, answers, sequences
from gradient_horizon.training.spec import Member, TrainSpec

PROBES = 4  # sequences, the same throughout training, along which a network's gradients are measured
TEST_CHUNK = 100  # sequences tested at once
SATURATED = 0.1  # as a fraction of the steepest slope


class Record(NamedTuple):
    """One record. All scalars, except `log_state_gradient_norm` (T,), at h_1 .. h_T, and `log_norm` (T,), lags 1 .. T.

    - `loss`, `error`: means over `test_size` fresh sequences (see `tasks`).
    - `gradient_norm`, `clipped_gradient_norm`: norm of the gradient of the last update, before and after clipping; NaN
      before the first update.
    - `changed`: how many gradients the clip rule has changed since training began.
    - `log_state_gradient_norm`: natural log of the root mean square, over `PROBES` sequences, of ‖∂L/∂h_t‖, with L the
      loss of one sequence; `log_norm`: mean over the same sequences of log ‖∂h_T/∂h_{T-lag}‖_F.
    - `spectral_radius`, `largest_singular_value`: of W (GRU, LSTM: of the candidate's W).
    - `saturation`: the fraction of units, steps and probes at which φ′ is below a tenth of its maximum; for ReLU, the
      fraction of units that are shut at every step of every probe.
    - `lyapunov_exponent`: the largest, natural log per step, mean over the probes, after a transient of a fifth of the
      steps.
    - `diverged_at`: the update after which a parameter was not finite (0: before the first update), or -1.
    """

    loss: Any
    error: Any
    gradient_norm: Any
    clipped_gradient_norm: Any
    changed: Any
    log_state_gradient_norm: Any
    log_norm: Any
    spectral_radius: Any
    largest_singular_value: Any
    saturation: Any
    lyapunov_exponent: Any
    diverged_at: Any


def observe(spec: TrainSpec, member: Member, data: PyTree, learner: Learner) -> Record:
    """The record of a network in its current state; its measurements are NaN once it has diverged."""
    params = learner.params
    loss, error = _tested(spec, member, data, learner)
    none_yet = learner.updates == 0
    probes = sequences(spec, named_key(member.key, "probe"), PROBES, data)
    gradients, norms, exponents = jax.vmap(
        lambda xs, targets: _probed(spec, params, Sample(xs, targets)), in_axes=(1, 0)
    )(*probes)
    radius, largest = _extremes(params.cell.recurrent)
    record = Record(
        loss=loss,
        error=error,
        gradient_norm=jnp.where(none_yet, jnp.nan, learner.clip.norm),
        clipped_gradient_norm=jnp.where(none_yet, jnp.nan, learner.clip.clipped_norm),
        changed=learner.clip.changed,
        log_state_gradient_norm=_log_root_mean_square(gradients),
        log_norm=jnp.mean(norms, axis=0),
        spectral_radius=radius,
        largest_singular_value=largest,
        saturation=_saturation(spec, params, probes),
        lyapunov_exponent=jnp.mean(exponents),
        diverged_at=learner.diverged_at,
    )
    return blanked(record, learner.diverged_at >= 0)


def blanked(record: Record, over: Bool[Array, ""]) -> Record:
    """`record`, with its measurements NaN if the network's records are `over`; `changed` and `diverged_at` are kept."""
    return jax.tree.map(
        lambda leaf: jnp.where(over, jnp.nan, leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, record
    )


def _tested(spec: TrainSpec, member: Member, data: PyTree, learner: Learner) -> tuple[Scalar, Scalar]:
    key = jax.random.fold_in(named_key(member.key, "test"), learner.updates)

    def one(key):
        sample = spec.task.sample(key, data, test=True, dtype=jnp.dtype(spec.precision))
        return answered(spec, learner.params, sample)

    keys = jax.random.split(sized_key(key, spec.test_size), spec.test_size)
    losses, errors = lax.map(one, keys, batch_size=min(TEST_CHUNK, spec.test_size))
    return jnp.mean(losses), jnp.mean(errors)


def _probed(spec: TrainSpec, params: Params, sample: Sample) -> tuple[Float[Array, " T"], Float[Array, " T"], Scalar]:
    """Along one sequence: log ‖∂L/∂h_t‖, log norms of the Jacobian products, and the largest Lyapunov exponent."""
    cell, task = spec.cell, spec.task
    start = cell.initial_state(dtype=jnp.dtype(spec.precision))
    trajectory = rollout(cell.step, params.cell, start, sample.xs)

    def loss(states):
        unraveled = jax.vmap(ravel_pytree(start)[1])(states)
        outputs = answers(spec, params.readout, jax.tree.map(lambda leaf: leaf[:, None], unraveled))
        return loss_of(task, outputs[:, 0], sample.targets)

    read = jax.grad(loss)(trajectory.states[1:])
    system = system_of(cell.step, params.cell, start, sample.xs, trajectory=trajectory)
    norms = log_norms(system, every_vector=True)["frobenius"]
    exponent = largest_lyapunov_exponent(cell.step, params.cell, start, trajectory, sample.xs, task.steps // 5)
    gradients = log_state_gradient_norms(cell.step, params.cell, start, trajectory, sample.xs, read)
    return gradients, norms, exponent


def _log_root_mean_square(logs: Float[Array, "P T"]) -> Float[Array, " T"]:
    largest = jnp.max(logs, axis=0)
    offset = jnp.where(jnp.isfinite(largest), largest, 0)
    return offset + 0.5 * jnp.log(jnp.mean(jnp.exp(2 * (logs - offset[None])), axis=0))


def _saturation(spec: TrainSpec, params: Params, probes: Sample) -> Scalar:
    cell = spec.cell
    start = jax.tree.map(
        lambda leaf: jnp.zeros((PROBES, *leaf.shape), leaf.dtype),
        cell.initial_state(dtype=jnp.dtype(spec.precision)),
    )
    a = preactivations(cell, cell.stacked(params.cell), probes.xs, start)
    slopes = cell.slopes(a)
    shut = jnp.all(slopes == 0, axis=(0, 1)) if cell.name == "relu" else slopes < SATURATED
    return jnp.mean(shut.astype(slopes.dtype))


def _extremes(matrix: Float[Array, "N N"]) -> tuple[Scalar, Scalar]:
    """The spectral radius and the largest singular value; NaN if the matrix is not finite (LAPACK must not see it)."""
    is_finite = jnp.all(jnp.isfinite(matrix))
    safe = jnp.where(is_finite, matrix, 0)
    found = lapack.spectral_radius(safe), lapack.singular_values(safe)[0]
    return tuple(jnp.where(is_finite, value, jnp.nan) for value in found)  # type: ignore[return-value]
