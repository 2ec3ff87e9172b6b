"""The loss and the error of a network's outputs on a task."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gradient_horizon.numerics.arrays import Scalar
from gradient_horizon.tasks.adding import TOLERANCE
from gradient_horizon.tasks.task import Targets, Task


def loss_of(task: Task, outputs: Float[Array, "L K"], targets: Targets) -> Scalar:
    """The mean loss over the L answers of one sequence, in the dtype of `outputs`.

    Classes: the cross-entropy -log softmax(outputs)[target], in nats. Values: the squared error (output - target)².
    """
    if task.kind == "values":
        return jnp.mean(jnp.square(outputs[:, 0] - targets))
    is_target = targets[:, None] == jnp.arange(task.output_size, dtype=jnp.int32)[None, :]
    log_probabilities = jax.nn.log_softmax(outputs, axis=1)
    return -jnp.sum(jnp.where(is_target, log_probabilities, jnp.zeros_like(outputs))) / task.answers


def error_of(task: Task, outputs: Float[Array, "L K"], targets: Targets) -> Scalar:
    """The fraction of the L answers of one sequence that are wrong, in the dtype of `outputs`.

    Classes: an answer is wrong if the largest output (the first, if tied) is not the target's. Values: it is wrong if
    it is off by more than 0.04, the criterion of Hochreiter and Schmidhuber 1997, sections 5.4 and 5.5 (Pascanu,
    Mikolov and Bengio 2013 require a squared error above 0.04). An answer that is not finite is wrong.
    """
    if task.kind == "values":
        is_right = jnp.abs(outputs[:, 0] - targets) <= TOLERANCE
    else:
        is_right = (jax.lax.argmax(outputs, 1, jnp.int32) == targets) & jnp.all(jnp.isfinite(outputs), axis=1)
    return 1 - jnp.mean(is_right.astype(outputs.dtype))
