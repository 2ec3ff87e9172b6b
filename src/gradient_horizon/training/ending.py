"""Where the records of a network end: it has diverged or, with `until_solved`, solved its task."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from gradient_horizon.training.record import Record
from gradient_horizon.training.spec import TrainSpec


def ends(spec: TrainSpec, record: Record) -> Bool[Array, "..."]:
    """Whether a network's records end with this one: it has diverged, or under `until_solved` solved its task.

    A blank record (NaN) that follows the last one says only the first of the two: keep what the earlier ones said.
    """
    lost = record.diverged_at >= 0
    return lost | (record.error < spec.solved_below) if spec.until_solved else lost


def left(spec: TrainSpec, over: Bool[Array, ""], count: Int[Array, ""]) -> Int[Array, ""]:
    """How many of `count` updates a network makes: under `until_solved` none once its records are `over`.

    Its parameters stay as they were at its last record. (Under `jax.vmap` a block computes as many as any of its
    networks makes, and none where all are over. Without `until_solved` the count stays one number for all.)
    """
    return jnp.where(over, jnp.zeros_like(count), count) if spec.until_solved else count
