"""Gradients with respect to inputs, ∂h_T/∂x_t = J_T ... J_{t+1} ∂h_t/∂x_t: how far back a network sees its input.

With a readout y_T = output(h_T), the rows of ∂y_T/∂h_T are carried back instead of those of the identity. Users of
state-space models call the reach of these gradients the effective receptive field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gradient_horizon import names
from gradient_horizon.measures.holomorphic import is_holomorphic
from gradient_horizon.measures.pulled_rows import Asked, JointStep, pulled_rows
from gradient_horizon.measures.states import Layout, layout_of
from gradient_horizon.measures.trajectory import System, Trajectory, sequence_length, system_of
from gradient_horizon.numerics.arrays import PyTree, Step
from gradient_horizon.numerics.compiled import compiled_once
from gradient_horizon.numerics.derivatives import pullback

Output = Callable[[Any], Any]  # output(state) -> what is read out of it


@dataclass(frozen=True, eq=False)
class InputGradients(Mapping[str, Any]):
    """Natural logs of the norms of ∂h_T/∂x_t, or of ∂y_T/∂x_t, by name: `gradients["frobenius"]`, of shape (T,).

    Entry i belongs to `xs[i]`, the input x_{i+1}. A pytree: under `jax.vmap` the arrays have a leading axis for the
    networks, and every method works on all of them.
    """

    log_norm: dict[str, Any]  # arrays, or whatever `jax.tree.map` has put in their place
    at: int  # the time of the state that is differentiated

    def __getitem__(self, norm: str) -> Any:
        return self.log_norm[norm]

    def __iter__(self) -> Iterator[str]:
        return iter(self.log_norm)

    def __len__(self) -> int:
        return len(self.log_norm)

    @property
    def lag(self) -> Int[np.ndarray, " T"]:
        """`at` - t: `at` - 1 for the first input, 0 for the last that the state has read, negative after it."""
        return self.at - np.arange(1, self._first.shape[-1] + 1)

    @property
    def finite(self) -> Any:
        """True at inputs whose gradient touches only finite states; at the others it is NaN."""
        return ~jnp.isnan(self._first)

    @property
    def _first(self) -> Any:
        return next(iter(self.log_norm.values()))

    def reach(self, threshold: float = 3.0) -> Any:
        """The largest lag at which the norm is at most `threshold` decades below its largest value over all inputs.

        `at` - 1 is a lower bound: the first input is still seen. NaN if no input is seen, or if a state is not finite.
        Of the first of the norms that were measured.
        """
        if not threshold > 0:
            raise ValueError(f"threshold: {threshold}; allowed: a number above 0")
        logs = jnp.asarray(self._first)
        top = jnp.max(logs, axis=-1, keepdims=True)  # NaN if any is
        is_seen = logs >= top - jnp.asarray(threshold * np.log(10.0), logs.dtype)
        lag = jnp.max(jnp.where(is_seen, jnp.asarray(self.lag, logs.dtype), -jnp.inf), axis=-1)
        return jnp.where(jnp.isfinite(top[..., 0]), lag, jnp.nan)


jax.tree_util.register_dataclass(InputGradients, data_fields=["log_norm"], meta_fields=["at"])


@compiled_once
def log_input_gradients(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree,
    *,
    output: Output | None = None,
    at: int | None = None,
    norms: Sequence[str] = ("frobenius",),
    trajectory: Trajectory | None = None,
) -> InputGradients:
    """Natural logs of the norms of ∂h_T/∂x_t, or of ∂y_T/∂x_t with y_T = `output`(h_T), for every input x_1 .. x_T.

    The rows of the derivative are carried back through the linearised step, at one matrix product per step, as for
    `log_jacobian_norms`; each step also turns them into rows with respect to its input.

    **Arguments:**

    - `step`, `params`, `h0`: as for `log_jacobian_norms`.
    - `xs`: a pytree with leading axis T. All entries of an input that are floats or complex numbers are differentiated
      together; integers, booleans and random keys are left out. (Tokens: embed them outside, `xs = embedding[tokens]`.)
    - `output`: a function of the state, such as `cell.output` or `lambda h: C @ h`; None: the state itself. A readout
      that also reads the input: let the step return it beside the state, and take it from there.
    - `at`: T' ≤ T: of h_T' instead of h_T; no later input acts on it.
    - `norms`: `"frobenius"`, `"spectral"` (largest singular value), or both.
    - `trajectory`: the result of `rollout` for the same arguments, if available; by default it is computed.

    **Returns:** `InputGradients`: an array (T,) for each norm, by name, in the dtype of the state's vector; entry i
    belongs to `xs[i]`. -inf if the gradient is exactly zero, as for every t > `at`; NaN if it touches a state that is
    not finite.

    **Accuracy:** as for `log_jacobian_norms`: neither over- nor underflows, whether for T = 10 or 10⁵, as everything
    is computed again with an exponent for each entry if an entry might be lost next to the others.

    **Complex inputs:** if step and output are holomorphic in state and inputs, the norms are those of the complex
    Jacobian; otherwise those of the real Jacobian of real and imaginary parts. Real inputs of a complex state: of real
    and imaginary parts of the state with respect to the real input.

    **Derivatives:** forward and reverse, as for `log_jacobian_norms`.

    **Raises:** `ValueError` for an unknown norm, an `at` outside 1 .. T, inputs that are not given or cannot be
    differentiated, an output without floats.

    **Source:** chain rule; the effective receptive field: Luo, Li, Urtasun, Zemel 2016 (there of images).
    """
    if isinstance(norms, str):
        raise ValueError(f"norms: {norms!r}; allowed: a sequence of one or more of {', '.join(names.NORMS)}")
    if output is not None and not callable(output):
        raise ValueError(f"output: {type(output).__name__}; allowed: a function of the state, such as lambda h: C @ h")
    unknown = [name for name in norms if name not in names.NORMS]
    if unknown or not norms:
        raise ValueError(f"norms: {list(norms)}; allowed: one or more of {', '.join(names.NORMS)}")
    of_inputs = inputs_layout(xs)
    length = sequence_length(xs, None)
    last = length if at is None else at
    if isinstance(last, bool) or not isinstance(last, int | np.integer) or not 1 <= last <= length:
        raise ValueError(f"at: {at}; allowed: a whole number from 1 to T = {length}")
    xs = jax.tree.map(jnp.asarray, xs)
    system = system_of(step, params, h0, xs, trajectory=trajectory)
    joint = _of_inputs(step, params, system, xs, of_inputs)
    joint = joint._replace(z=joint.z[:last], rest=jax.tree.map(lambda leaf: leaf[:last], joint.rest))
    along = system.trajectory._replace(states=system.trajectory.states[: last + 1])
    rows, is_complex = _first_rows(step, params, xs, system, last, output)
    logs = pulled_rows(joint, along, rows, asked=Asked(tuple(norms))).whole
    if "frobenius" in logs and is_complex and _is_holomorphic(step, params, h0, xs):
        logs["frobenius"] = logs["frobenius"] - 0.5 * math.log(2.0)  # real pairs count everything twice
    later = jnp.full(length - last, -jnp.inf, along.states.dtype)
    return InputGradients({name: jnp.concatenate([value, later]) for name, value in logs.items()}, int(last))


def inputs_layout(xs: PyTree) -> Layout:
    """The layout of one input in a vector; `ValueError` if there is nothing to differentiate."""
    leaves = jax.tree.leaves(xs)
    if not leaves:
        raise ValueError("xs: None; allowed: a pytree of arrays with leading axis T")
    sequence_length(xs, None)  # every leaf has a leading axis
    dtypes = [jnp.result_type(leaf) for leaf in leaves]
    if not any(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
        raise ValueError(
            f"xs: {sorted({str(dtype) for dtype in dtypes})} cannot be differentiated; allowed: some floats or complex"
            " numbers (embed tokens outside: xs = embedding[tokens])"
        )
    return layout_of(jax.tree.map(lambda leaf: leaf[0], xs), "xs")


def _of_inputs(step: Step, params: PyTree, system: System, xs: PyTree, of_inputs: Layout) -> JointStep:
    """The step as a function of the vectors of its state and of its input."""
    layout = system.layout

    def joint(h: Array, z: Array, rest: PyTree) -> Array:
        left_out, carried = rest
        state, x = layout.unpack(h, carried), of_inputs.unpack(z, left_out)
        return layout.packed_like(step(params, state, x))[0]

    z, left_out = jax.vmap(of_inputs.pack)(xs)
    return JointStep(joint, z, (left_out, list(system.trajectory.carried)), layout.is_short or of_inputs.is_short)


def _first_rows(
    step: Step, params: PyTree, xs: PyTree, system: System, last: int, output: Output | None
) -> tuple[Float[Array, "k n"], bool]:
    """The rows at the last state, and True if what is differentiated may count as complex."""
    layout, trajectory = system.layout, system.trajectory
    h = trajectory.states[last]
    if output is None:
        return jnp.eye(len(h), dtype=h.dtype), layout.is_complex
    before = layout.unpack(trajectory.states[last - 1], [leaf[last - 1] for leaf in trajectory.carried])
    carried = layout.pack(step(params, before, jax.tree.map(lambda leaf: leaf[last - 1], xs)))[1]
    read = layout_of(output(layout.unpack(h, carried)), "output")

    def of_vector(h: Array) -> Array:
        return read.pack(output(layout.unpack(h, carried)))[0]

    linear = pullback(of_vector, h, is_formed=layout.is_short or read.is_short)
    rows = jax.vmap(lambda row: linear(row)[0])(jnp.eye(read.size, dtype=read.dtype))
    inexact = [leaf for leaf in read.leaves if leaf.is_differentiated]
    is_linear = layout.is_complex and all(leaf.is_complex for leaf in inexact)
    return rows.astype(h.dtype), is_linear and _is_complex_linear(output, layout.unpack(h, carried))


def _is_holomorphic(step: Step, params: PyTree, h0: PyTree, xs: PyTree) -> bool:
    """True if the step is holomorphic in its state and its input together."""
    x = jax.tree.map(lambda leaf: leaf[0], xs)
    return _is_complex_linear(lambda state, x: step(params, state, x), h0, x)


def _is_complex_linear(function: Callable[..., PyTree], *trees: PyTree) -> bool:
    """True if the derivative of `function` in all floats and complex numbers of `trees` is complex linear."""
    leaves, structure = jax.tree.flatten(trees)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    is_inexact = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    ours = [leaf for leaf, is_ours in zip(leaves, is_inexact, strict=True) if is_ours]
    others = [leaf for leaf, is_ours in zip(leaves, is_inexact, strict=True) if not is_ours]

    def of_leaves(ours: list[Any], others: list[Any]) -> list[Any]:
        mine, rest = iter(ours), iter(others)
        filled = jax.tree.unflatten(structure, [next(mine if is_ours else rest) for is_ours in is_inexact])
        return [value for value in jax.tree.leaves(function(*filled)) if jnp.issubdtype(value.dtype, jnp.inexact)]

    return all(map(jnp.iscomplexobj, ours)) and is_holomorphic(of_leaves, ours, others)
