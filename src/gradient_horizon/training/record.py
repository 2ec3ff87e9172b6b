"""The measurements recorded of a network during training: its loss and error, and its gradient through time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from gradient_horizon.cells.cell import TrainableCell
from gradient_horizon.measures.jacobian_norms import log_norms
from gradient_horizon.measures.largest_exponent import largest_lyapunov_exponent
from gradient_horizon.measures.nodes import log_state_gradient_norms
from gradient_horizon.measures.trajectory import rollout, system_of
from gradient_horizon.numerics import lapack
from gradient_horizon.numerics.arrays import PyTree, Scalar
from gradient_horizon.numerics.keys import named_key, sized_key
from gradient_horizon.tasks.loss import loss_of
from gradient_horizon.tasks.task import Sample
from gradient_horizon.training.bptt import preactivations
from gradient_horizon.training.learner import Learner
from gradient_horizon.training.network import Params, evaluate, make_sampler, readout, zero_states
from gradient_horizon.training.spec import Member, TrainSpec

PROBES = 4  # sequences, the same throughout training, along which a network's gradients are measured
TEST_CHUNK = 100  # sequences tested at once
SATURATED = 0.1  # as a fraction of the steepest slope


class TrainingRecord(NamedTuple):
    """One record. All scalars, except `log_state_gradient_norm` (T,), at h_1 .. h_T, and `log_norm` (T,), lags 1 .. T.

    - `loss`, `error`: means over `test_size` fresh sequences (see `tasks`).
    - `gradient_norm`, `clipped_gradient_norm`: norm of the gradient of the last update, before and after clipping; NaN
      before the first update.
    - `changed`: the number of gradients that the clip rule has changed since training began.
    - `log_state_gradient_norm`: natural log of the root mean square, over `PROBES` sequences, of ‖∂L/∂h_t‖, with L the
      loss of one sequence; `log_norm`: mean over the same sequences of log ‖∂h_T/∂h_{T-lag}‖_F.
    - `spectral_radius`, `largest_singular_value`: of W (GRU, LSTM: of the candidate's W); NaN if a cell's parameters
      have no `recurrent`.
    - `saturation`: the fraction of units, steps and probes at which φ′ is below a tenth of its maximum; for ReLU, the
      fraction of units that are shut at every step of every probe. NaN unless the cell is a `TrainableCell`.
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


def make_record(spec: TrainSpec) -> Callable[[Member, PyTree, Learner], TrainingRecord]:
    """Return `record(member, data, learner)`: the record of a network in its current state.

    Its measurements are NaN once the network has diverged.
    """
    sequences = make_sampler(spec)

    def record(member: Member, data: PyTree, learner: Learner) -> TrainingRecord:
        params = learner.params
        loss, error = _test(spec, member, data, learner)
        none_yet = learner.updates == 0
        probes = sequences(named_key(member.key, "probe"), PROBES, data)
        gradients, norms, exponents = jax.vmap(
            lambda xs, targets: _probe(spec, params, Sample(xs, targets)), in_axes=(1, 0)
        )(*probes)
        radius, largest = _extremes(spec, params.cell)
        measured = TrainingRecord(
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
        return blanked(measured, learner.diverged_at >= 0)

    return record


def blanked(record: TrainingRecord, over: Bool[Array, ""]) -> TrainingRecord:
    """`record`, with its measurements NaN if the network's records are `over`; `changed` and `diverged_at` are kept."""
    return jax.tree.map(
        lambda leaf: jnp.where(over, jnp.nan, leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, record
    )


def _test(spec: TrainSpec, member: Member, data: PyTree, learner: Learner) -> tuple[Scalar, Scalar]:
    key = jax.random.fold_in(named_key(member.key, "test"), learner.updates)

    def one(key):
        sample = spec.task.sample(key, data, test=True, dtype=spec.dtype)
        return evaluate(spec, learner.params, sample)

    keys = jax.random.split(sized_key(key, spec.test_size), spec.test_size)
    losses, errors = lax.map(one, keys, batch_size=min(TEST_CHUNK, spec.test_size))
    return jnp.mean(losses), jnp.mean(errors)


def _probe(spec: TrainSpec, params: Params, sample: Sample) -> tuple[Float[Array, " T"], Float[Array, " T"], Scalar]:
    """Along one sequence: log ‖∂L/∂h_t‖, log norms of the Jacobian products, and the largest Lyapunov exponent."""
    cell, task = spec.cell, spec.task
    start = cell.initial_state(dtype=spec.dtype)
    trajectory = rollout(cell.step, params.cell, start, sample.xs)

    def loss(states):
        unraveled = jax.vmap(ravel_pytree(start)[1])(states)
        outputs = readout(spec, params.readout, jax.tree.map(lambda leaf: leaf[:, None], unraveled))
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
    if not isinstance(cell, TrainableCell):
        return jnp.full((), jnp.nan, spec.dtype)
    start = zero_states(spec, PROBES)
    a = preactivations(cell, cell.affine_maps(params.cell), probes.xs, start)
    slopes = cell.relative_slopes(a)
    # the slope of a homogeneous activation depends only on the sign of a: a unit may be shut, but is never saturated
    shut = jnp.all(slopes == 0, axis=(0, 1)) if cell.is_homogeneous else slopes < SATURATED
    return jnp.mean(shut.astype(slopes.dtype))


def _extremes(spec: TrainSpec, cell_params: PyTree) -> tuple[Scalar, Scalar]:
    """The spectral radius and the largest singular value of W.

    NaN if the parameters have no W, or if W is not finite, as LAPACK must not be called with it.
    """
    matrix = getattr(cell_params, "recurrent", None)
    if matrix is None:
        unknown = jnp.full((), jnp.nan, spec.dtype)
        return unknown, unknown
    is_finite = jnp.all(jnp.isfinite(matrix))
    safe = jnp.where(is_finite, matrix, 0)
    extremes = lapack.spectral_radius(safe), lapack.singular_values(safe)[0]
    return tuple(jnp.where(is_finite, value, jnp.nan) for value in extremes)  # type: ignore[return-value]
