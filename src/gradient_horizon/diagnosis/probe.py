"""The probe of a watch: its sequences, the state at their start, and whether they fit into memory."""

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon.diagnosis.reading import bytes_needed
from gradient_horizon.ensembles.devices import free_memory
from gradient_horizon.names.rules import whole_number
from gradient_horizon.numerics.arrays import PyTree, Step


def sizes(probe: PyTree, steps: int | None) -> tuple[int, int]:
    """S and T, the leading axes of every leaf, or 1 and `steps` if there are no leaves; `ValueError` otherwise."""
    shapes = {tuple(np.shape(leaf)[:2]) for leaf in jax.tree.leaves(probe)}
    if not shapes:
        if steps is None:
            raise ValueError("steps: None, and probe is None; allowed: a probe, or steps for a network without inputs")
        return 1, whole_number("steps", steps)
    if len(shapes) > 1 or any(len(shape) < 2 or 0 in shape for shape in shapes):
        raise ValueError(
            f"probe: leading axes {sorted(shapes)}; allowed: (S, T), the same for every leaf, S sequences of T steps"
            " (one sequence: xs[None])"
        )
    ((sequences, length),) = shapes
    if steps not in (None, length):
        raise ValueError(f"steps: {steps}, but the probe has {length}; leave steps out")
    return sequences, length


def initial_state(step: Step, h0: PyTree, probe: PyTree) -> PyTree:
    """`h0`, or the initial state of the cell whose method `step` is; `ValueError` if there is neither."""
    if jax.tree.leaves(h0):
        return jax.tree.map(jnp.asarray, h0)
    make = getattr(getattr(step, "__self__", None), "initial_state", None)
    if make is None:
        raise ValueError(
            "h0: None, and step is not a method of a cell with initial_state; allowed: the state at the start of each"
            " sequence, such as jnp.zeros(n)"
        )
    dtypes = [np.asarray(leaf).dtype for leaf in jax.tree.leaves(probe) if hasattr(leaf, "dtype")]
    allows_double = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    is_double = allows_double and any(dtype == np.float64 for dtype in dtypes)
    return make(dtype=jnp.float64) if is_double else make()


def check_finite(probe: PyTree) -> None:
    """Raise `ValueError` if an entry of the probe is not finite."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(probe)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        bad = ~np.asarray(jnp.isfinite(leaf))
        if bad.any():
            place = np.argwhere(bad)[0]
            raise ValueError(
                f"probe: probe{jax.tree_util.keystr(path)} has {bad.sum()} entries that are not finite, the first in"
                f" sequence {place[0]} at step {place[1]}; allowed: finite numbers"
            )


def check_memory(h0: PyTree, probe: PyTree, sequences: int, length: int, *, with_loss: bool) -> None:
    """Raise `ValueError` if a measurement needs more memory than is free, naming what would fit."""

    def needed(sequences: int, length: int) -> int:
        return bytes_needed(h0, probe, sequences, length, with_loss=with_loss)

    free = free_memory()
    if needed(sequences, length) <= free:
        return
    fewer = max((s for s in _halvings(sequences) if needed(s, length) <= free), default=0)
    shorter = max((t for t in _halvings(length) if needed(1, t) <= free), default=0)
    fits = (
        f"{fewer} sequences of {length} steps" if fewer else f"one sequence of {shorter} steps" if shorter else "none"
    )
    raise ValueError(
        f"probe: {sequences} sequences of {length} steps need {needed(sequences, length) / 2**30:.3g} GiB, and"
        f" {free / 2**30:.3g} GiB are free; allowed: what fits, such as {fits}"
    )


def _halvings(number: int) -> list[int]:
    return [number >> shift for shift in range(1, number.bit_length())]
