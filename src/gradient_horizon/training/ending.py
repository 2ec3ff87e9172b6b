"""When the records of a network end: once it has diverged or, with `until_solved`, solved its task."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from gradient_horizon.training.record import TrainingRecord
from gradient_horizon.training.spec import TrainSpec


def ends(spec: TrainSpec, record: TrainingRecord) -> Bool[Array, "..."] | Bool[np.ndarray, "..."]:
    """True if a network's records end with this one: it has diverged or, under `until_solved`, solved its task.

    A blank record (NaN) after the last one shows only divergence, so combine its result with those of earlier records.
    """
    lost = record.diverged_at >= 0
    return lost | (record.error < spec.solved_below) if spec.until_solved else lost


def remaining(spec: TrainSpec, over: Bool[Array, ""], count: Int[Array, ""]) -> Int[Array, ""]:
    """The number out of `count` updates that a network makes: under `until_solved`, none once its records are `over`.

    Its parameters then remain those of its last record. (Under `jax.vmap` a block computes as many updates as any of
    its networks makes, and none if all are over. Without `until_solved` all networks share one count.)
    """
    return jnp.where(over, jnp.zeros_like(count), count) if spec.until_solved else count
