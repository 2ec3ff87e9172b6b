"""Log norms of products of step Jacobians, M(T, t) = J_T ... J_{t+1} = ∂h_T/∂h_t, at every lag.

The products are formed as quickly as possible first, and again with more care if an entry may have been lost to
underflow (see `jacobian_products`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from gradient_horizon.measures.horizon import Horizon, horizon_of
from gradient_horizon.measures.jacobian_products import (
    Block,
    ScaledNorms,
    extended_norms,
    products_of,
    scaled_norms_of,
)
from gradient_horizon.measures.jacobian_products import resolve_method as resolve_method
from gradient_horizon.measures.trajectory import System, Trajectory, system_of
from gradient_horizon.numerics.arrays import PyTree, Series, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.fallback import is_postponed, step_of_arrays, with_care

MOST_CARE = 2  # see `scaled_norms`


@dataclass(frozen=True, eq=False)
class JacobianNorms(Mapping[str, Any]):
    """Natural logs of the norms of Jacobian products at every lag, by name: `norms["frobenius"]`, of shape (T,).

    A pytree: under `jax.vmap` the arrays have a leading axis for the networks, and every method works on all of them.
    """

    log_norm: dict[str, Any]  # arrays, or whatever `jax.tree.map` has put in their place
    state_size: int  # n, the size of the state or of its block

    def __getitem__(self, norm: str) -> Any:
        return self.log_norm[norm]

    def __iter__(self) -> Iterator[str]:
        return iter(self.log_norm)

    def __len__(self) -> int:
        return len(self.log_norm)

    @property
    def lag(self) -> Int[np.ndarray, " T"]:
        """1 .. T."""
        return np.arange(1, next(iter(self.log_norm.values())).shape[-1] + 1)

    @property
    def finite(self) -> Any:
        """True at lags whose product touches only finite states; at the other lags the norms are NaN."""
        return ~jnp.isnan(next(iter(self.log_norm.values())))

    def horizon(self, threshold: float = 3.0) -> Horizon:
        """`horizon_of` the Frobenius norms; `ValueError` if they were not measured."""
        if "frobenius" not in self.log_norm:
            raise ValueError(f"norms: {list(self.log_norm)}; allowed: norms that include frobenius")
        return horizon_of(self.log_norm["frobenius"], self.state_size, threshold)


jax.tree_util.register_dataclass(JacobianNorms, data_fields=["log_norm"], meta_fields=["state_size"])


def scaled_norms(
    system: System,
    *,
    anchor: str = "end",
    norms: Sequence[str] = ("frobenius",),
    method: str = "auto",
    block: Block | None = None,
    care: int = 0,
) -> ScaledNorms:
    """Norms of the Jacobian products of real vectors along the trajectory of `system`.

    NaN at every lag whose product touches a state that is not finite.

    `care`: 0: one vector stands for all; 1: every vector is checked (needed for a product with zeros), which takes a
    tenth longer; 2: an exponent for each entry, at about ten times the cost, and nothing is `suspect`. Measure a
    `suspect` result again with more care. `method="jacrev"` always uses the highest level.
    """
    products = products_of(system, anchor, norms, method, block)
    if care == MOST_CARE or products.method == "jacrev":
        return extended_norms(products, system.params, system.trajectory, system.xs)
    return scaled_norms_of(products, system.params, system.trajectory, system.xs, every_vector=care == 1)


def log_norms(
    system: System,
    *,
    anchor: str = "end",
    norms: Sequence[str] = ("frobenius",),
    method: str = "auto",
    block: Block | None = None,
    every_vector: bool = False,
) -> dict[str, Series]:
    """`log_jacobian_norms` of a network's system.

    `every_vector`: check every vector from the start (see `scaled_norms`): a tenth slower, but one program fewer to
    compile.
    """
    products = products_of(system, anchor, norms, method, block)
    _, params, xs, trajectory, *_ = system
    if products.method == "jacrev" and (is_postponed() or not isinstance(trajectory.states, Tracer)):
        # not under a transformation
        return extended_norms(products, params, trajectory, xs).log()
    carried = scaled_norms_of(products, params, trajectory, xs, every_vector=every_vector)
    is_suspect = jnp.asarray(True) if products.method == "jacrev" else carried.suspect
    if not isinstance(is_suspect, Tracer) and not is_suspect:
        return carried.log()
    # traced values held by `params` and the step become an argument, `closed`
    step, closed = step_of_arrays(lambda h, x: products.flat_step(params, h, x), trajectory.states, xs)
    products = products._replace(flat_step=step)

    def by_entry(states: Array, xs: PyTree, closed: PyTree) -> dict[str, Series]:
        return extended_norms(products, closed, Trajectory(states), xs).log()

    def by_vector(states: Array, xs: PyTree, closed: PyTree) -> dict[str, Series]:
        scaled = scaled_norms_of(products, closed, Trajectory(states), xs, every_vector=True)
        return with_care(scaled.suspect, scaled.log(), by_entry, states, xs, closed)

    looked_at = every_vector or products.looks_at_every_vector or products.method == "jacrev"
    return with_care(is_suspect, carried.log(), by_entry if looked_at else by_vector, trajectory.states, xs, closed)


@compiled_once
def log_jacobian_norms(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    steps: int | None = None,
    anchor: str = "end",
    norms: Sequence[str] = ("frobenius",),
    method: str = "auto",
    block: Block | None = None,
    trajectory: Trajectory | None = None,
) -> JacobianNorms:
    """Natural logs of the norms of ∂h_T/∂h_t at every lag, for any one-step map.

    **Arguments:**

    - `step`: `step(params, h, x) -> h`; the state may be any pytree of arrays, including complex and 16-bit ones, and
      may also hold integers, booleans and random keys (see `states`).
    - `xs`: a pytree with leading axis T, or None with `steps` = T.
    - `anchor`: `"end"`: entry k is the log norm of ∂h_T/∂h_{T-1-k} (lag k + 1); `"start"`: of ∂h_{k+1}/∂h_0.
    - `norms`: `"frobenius"`, `"spectral"` (largest singular value), or both.
    - `method`: `"jacrev"`: form each J_t with `jax.jacrev`, multiply, and take LAPACK's singular values: the reference,
      for any step; `"pushforward"` (from the start) and `"pullback"` (from the end): carry the product through the
      linearised step, at half the work, and track the largest singular value from lag to lag (to 1e-6 in float32; see
      `spectral_norm`); `"auto"`: the one that fits the anchor.
    - `block`: a function from the state to a part of it; the norms are then those of the derivative of that part with
      respect to itself, such as ∂c_T/∂c_t of an LSTM: `block=lambda state: state.c`. The block of a product is not the
      product of the blocks, so the whole product is carried (at full cost) and the norm is taken of its block.
    - `trajectory`: the result of `rollout` for the same arguments, if available (say, with `rescale`); by default it
      is computed.

    **Returns:** `JacobianNorms`: an array (T,) for each norm, by name, in the vector's dtype. -inf if the product is
    exactly zero; NaN if it touches a state that is not finite.

    **Accuracy:** J_t is the step's own derivative in floats of the state's dtype, and the product of these floats
    neither over- nor underflows: if an entry might be lost next to the others, the product is formed again with an
    exponent for each entry (see `extended_range`), whether jitted or not. What remains is rounding: eps T times the
    cancellation ‖A‖ ‖B‖ / ‖A B‖ between parts A, B of the product.

    **Complex states:** a holomorphic step is measured by its complex Jacobian, n × n. (The real Jacobian of its real
    and imaginary parts has the same spectral norms, and Frobenius norms larger by √2.) Any other step is measured by
    that real Jacobian, 2n × 2n. The linearisation of a step shows whether it is holomorphic (see `holomorphic`).

    **Derivatives:** forward and reverse; NaN at lags where the product had to be formed again and differs, and, for
    spectral norms, where two singular values are equal. Reverse only if the step uses `jax.custom_vjp`.

    **Raises:** `ValueError` for an unknown or incompatible setting, or a block that selects nothing.
    """
    system = system_of(step, params, h0, xs, steps=steps, trajectory=trajectory)
    logs = log_norms(system, anchor=anchor, norms=norms, method=method, block=block)
    if system.is_holomorphic and "frobenius" in logs:
        logs["frobenius"] = logs["frobenius"] - system.log_norm_of_pairs
    size = system.layout.size if block is None else len(system.layout.places(block))
    return JacobianNorms(logs, size // 2 if system.is_holomorphic else size)
