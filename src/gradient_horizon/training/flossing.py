"""Gradient flossing: pushing the leading Lyapunov exponents to zero, so that some gradients neither vanish nor explode.

Source: R. Engelken, "Gradient flossing: improving gradient descent through dynamic control of Jacobians", NeurIPS 2023
(arXiv:2312.17306), and the code of that paper: the mean of λ_i² along one sequence per update is minimised by a
separate Adam.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from gradient_horizon.cells.cell import Cell
from gradient_horizon.measures.states import flatten_step
from gradient_horizon.numerics import sums
from gradient_horizon.numerics.arrays import PyTree
from gradient_horizon.numerics.derivatives import jvp_columns
from gradient_horizon.numerics.keys import fixed_orthogonal, named_key
from gradient_horizon.numerics.orthogonal import orthonormalised
from gradient_horizon.training.network import Params, all_finite
from gradient_horizon.training.spec import Member, TrainSpec


def leading_exponents(cell: Cell, params: PyTree, xs: Float[Array, "T D"], count: int) -> Float[Array, " k"]:
    """The first `count` Lyapunov exponents from h_0 = 0, differentiable in `params`; natural logs per step, unsorted.

    The same as `lyapunov_exponents` with a transient of T // 5 steps. A direction that dies gives -inf, and NaN as
    derivative; so does a state that is not finite.
    """
    h0 = cell.initial_state(dtype=xs.dtype)
    flat_step, layout = flatten_step(cell.step, h0)
    basis, *_ = orthonormalised(jnp.asarray(fixed_orthogonal(layout.size)[:, :count], xs.dtype))

    @jax.checkpoint
    def advance(carry, x):
        h, basis = carry
        basis, logs, _ = orthonormalised(jvp_columns(flat_step, params, h, x, basis))
        return (flat_step(params, h, x), basis), logs

    _, logs = lax.scan(advance, (layout.pack(h0)[0], basis), xs)
    return sums.mean(logs[xs.shape[0] // 5 :])


def flossed(
    spec: TrainSpec, member: Member, params: Params, data: PyTree, update: Int[Array, ""], due: ArrayLike = True
) -> Params:
    """Return `params` after the flossing updates that precede update number `update` of training.

    Unless `due`, `params` are returned unchanged. The readout is never changed.

    An update whose gradient is not finite, for example because a direction dies in a ReLU network, is skipped.

    (Updates that are not due are not computed, even under `jax.vmap`, where `lax.cond` would compute both branches.)
    """
    settings = spec.flossing
    if settings is None:
        return params
    optimizer = optax.adam(jnp.asarray(settings.learning_rate, spec.precision))
    keys = jax.random.fold_in(named_key(member.key, "floss"), update)

    def loss(cell_params, xs):
        return jnp.mean(jnp.square(leading_exponents(spec.cell, cell_params, xs, settings.exponents)))

    def once(number, carry):
        cell_params, state = carry
        xs, _ = spec.task.sample(jax.random.fold_in(keys, number), data, test=False, dtype=jnp.dtype(spec.precision))
        gradient = jax.grad(loss)(cell_params, xs)
        changes, state = optimizer.update(gradient, state, cell_params)
        after, is_usable = (optax.apply_updates(cell_params, changes), state), all_finite(gradient)
        return jax.tree.map(lambda new, old: jnp.where(is_usable, new, old), after, carry)

    cell_params: PyTree = params.cell
    count = jnp.where(due, jnp.asarray(settings.updates, jnp.int32), 0)
    cell_params, _ = lax.fori_loop(0, count, once, (cell_params, optimizer.init(cell_params)))
    return Params(cell_params, params.readout)
