"""What is done with one network of an ensemble: its arguments are drawn, it is rolled out, and it is measured."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_horizon.ensembles.arguments import NAMES, Fixed
from gradient_horizon.measures.trajectory import Trajectory, rollout, sequence_length
from gradient_horizon.numerics import fallback
from gradient_horizon.numerics.arrays import PyTree
from gradient_horizon.numerics.keys import named_key

# What a measure may name among its parameters, whatever their order.
KNOWN = ("step", "params", "h0", "xs", "trajectory", "steps")


class Interface(NamedTuple):
    """How a measure is called: by the names of its parameters, or with step, params, h0 and xs in this order."""

    names: tuple[str, ...]
    is_positional: bool

    @property
    def sees_trajectory(self) -> bool:
        """True if the measure is given the trajectory."""
        return "trajectory" in self.names


def interface_of(measure: Callable[..., Any], keywords: Mapping[str, Any]) -> Interface:
    """How `measure` is to be called; `ValueError` if it has required parameters that are unknown here."""
    try:
        parameters = [*inspect.signature(measure).parameters.values()]
    except (TypeError, ValueError):
        return Interface(KNOWN[:4], is_positional=True)
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    renamed = {"cell": "step"}
    known = [p.name for p in parameters if renamed.get(p.name, p.name) in KNOWN and p.kind != p.POSITIONAL_ONLY]
    open_ones = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.name not in keywords
        and p.name not in known
    ]
    if not open_ones and known:
        return Interface(tuple(name for name in known if name not in keywords or name == "steps"), is_positional=False)
    if any(p.kind == p.VAR_POSITIONAL for p in parameters) or len([p for p in by_position if p.name in open_ones]) == 4:
        return Interface(KNOWN[:4], is_positional=True)
    raise ValueError(
        f"measure: parameters {', '.join(p.name for p in parameters) or 'none'}; "
        f"allowed: any of {', '.join(KNOWN)} by these names, or four, for step, params, h0 and xs"
    )


@dataclass(frozen=True)
class Task:
    """What is computed of every network; its identity decides which compiled programs it shares."""

    measure: Callable[..., Any]
    keywords: dict[str, Any]
    interface: Interface
    step: Any  # a function, or an object with a method `step`, such as a cell
    arguments: tuple[Fixed, ...]
    steps: int | None
    rescale: bool
    key_type: Any
    is_key: bool

    @property
    def step_function(self) -> Callable[..., Any]:
        """`step(params, h, x) -> h`."""
        return getattr(self.step, "step", self.step)

    def network(self, own: Any, constants: Any) -> tuple[Any, Any, Any]:
        """`params`, `h0` and `xs` of one network."""
        (own_leaves, _), (shared, _) = own, constants
        parts = zip(self.arguments, own_leaves, shared, strict=True)
        return tuple(fixed.joined(*leaves) if fixed.draw is None else leaves[0] for fixed, *leaves in parts)

    def length(self, xs: PyTree) -> int:
        """T."""
        return sequence_length(xs, self.steps)

    def call(self, params: PyTree, h0: PyTree, xs: PyTree, trajectory: Trajectory | None) -> Any:
        """The measure of one network."""
        step = self.step_function
        if self.interface.is_positional:
            return self.measure(step, params, h0, xs, **self.keywords)
        values = {"step": step, "cell": self.step, "params": params, "h0": h0, "xs": xs, "trajectory": trajectory}
        values["steps"] = self.steps if xs is None or trajectory is None else self.length(xs)
        return self.measure(**{name: values[name] for name in self.interface.names}, **self.keywords)


def drawn(task: Task, network: Any, constants: Any) -> Any:
    """Draw the arguments that are functions; the others pass through."""
    own, draws = network
    _, seed = constants
    key = jax.random.wrap_key_data(draws["key"], impl=task.key_type) if task.is_key and task.key_type else draws["key"]
    if not task.is_key:
        numbers, key = key, jax.random.key(seed)
        for place in range(numbers.shape[0]):
            key = jax.random.fold_in(key, numbers[place])
    leaves = []
    for name, fixed, given in zip(NAMES, task.arguments, own, strict=True):
        if fixed.draw is None:
            leaves.append(given)
            continue
        values = {other: draws["values"][other] for other in parameters_of(fixed.draw, draws["values"])}
        leaves.append(fixed.draw(key if name == "params" else named_key(key, name), **values))
    return tuple(leaves), None


def parameters_of(function: Callable[..., Any], names: Any) -> list[str]:
    """Those of `names` that the function takes, beside the key."""
    try:
        parameters = [*inspect.signature(function).parameters][1:]
    except (TypeError, ValueError):
        return []
    return [name for name in parameters if name in names]


def rolled(task: Task, network: Any, constants: Any) -> Any:
    params, h0, xs = task.network(network, constants)
    trajectory = rollout(task.step_function, params, h0, xs, steps=task.steps, rescale=task.rescale)
    return network[0], trajectory


def measured(task: Task, care: int | None, network: Any, constants: Any) -> tuple[Any, Any]:
    """The measure of one network, and whether it is suspect; `care`: see `fallback.postponed`."""
    trajectory = network[1] if task.interface.sees_trajectory else None
    arguments = task.network(network, constants)
    if care is None:
        return arrays_of(task.call(*arguments, trajectory)), jnp.zeros((), bool)
    with fallback.postponed(care) as suspicions:
        result = arrays_of(task.call(*arguments, trajectory))
    return result, jnp.any(jnp.stack(suspicions)) if suspicions else jnp.zeros((), bool)


def arrays_of(result: Any) -> Any:
    """Return `result` with numbers as arrays; `ValueError` for what is no array."""
    leaves = jax.tree_util.tree_leaves_with_path(result)
    if not leaves:
        raise ValueError("measure: returns nothing; allowed: an array, or a pytree of arrays")
    for path, leaf in leaves:
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int | complex):
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ValueError(f"measure: returns a {type(leaf).__name__}{where}; allowed: arrays, or a pytree of arrays")
    return jax.tree.map(jnp.asarray, result)
