"""A loss as a function of the states that it reads, derived from `loss(params, probe)` as the user wrote it.

∂L/∂h_t needs L as a function of the states h_1 .. h_T. The loss computes them itself, in a scan over the steps. Its
program (the jaxpr) is searched for that scan: its carry has the shape of the state, for all sequences. The program is
then evaluated with given states in place of the carry that each step computes, and everything else unchanged. What
reads a state, inside the scan (a readout, a sum of losses) or after it, then reads the given one.

Two checks keep this honest. Nothing that the scan returns may depend on the previous state except through the state
itself: otherwise a path from the state to the loss was missed, and the scan is not used. And the states that the scan
computes from the given ones must be the given ones, to √eps: otherwise the loss runs another network, and the profile
is NaN.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from gradient_horizon.diagnosis.parameters import arrays_of
from gradient_horizon.measures.states import layout_of
from gradient_horizon.numerics.arrays import PyTree

MOST_CANDIDATES = 8
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
}
_Path = tuple[int, ...]  # of a call within calls: the place of each in its program


class NoStatesError(ValueError):
    """The loss has no scan whose carry is the state."""


class _Place(NamedTuple):
    """Where the state is: the scan, by its path, its carries, and their batch axes."""

    scan: _Path
    carries: tuple[int, ...]
    axes: tuple[int | None, ...]


class _Value(NamedTuple):
    value: Any
    bypasses: bool  # depends on the previous state by a path that does not lead through the new one


def loss_of_states(
    loss: Callable[[PyTree, PyTree], Any], params: PyTree, h0: PyTree, probe: PyTree, sequences: int, length: int
) -> Callable[[PyTree, PyTree, PyTree], tuple[Any, Any]]:
    """Return `function(params, states, probe)`: the loss with these states, and True if they are its own.

    `states` has leading axes (S, T). Raises `NoStatesError` if there is no such scan, or more than one.
    """
    program = _program(loss, params, probe)
    leaves = [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(h0)]
    states = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((sequences, length, *jnp.shape(leaf)), jnp.result_type(leaf)), h0
    )
    arrays, fill = arrays_of(params)
    usable = []
    for place in itertools.islice(_places(program, leaves, sequences, length), MOST_CANDIDATES):
        function = _function(loss, h0, place)
        try:
            jax.eval_shape(lambda arrays, *rest, use=function: use(fill(arrays), *rest), arrays, states, probe)
        except NoStatesError:
            continue
        usable.append(function)
    if len(usable) != 1:
        raise NoStatesError(
            f"{len(usable)} of its scans over {length} steps carry a state like h0, of {sequences} sequences"
        )
    return usable[0]


def _program(loss: Callable[[PyTree, PyTree], Any], params: PyTree, probe: PyTree) -> ClosedJaxpr:
    arrays, fill = arrays_of(params)
    return jax.make_jaxpr(lambda arrays, probe: loss(fill(arrays), probe))(arrays, probe)


def _function(loss: Callable[..., Any], h0: PyTree, place: _Place) -> Callable[[PyTree, PyTree, PyTree], Any]:
    limit = float(jnp.finfo(layout_of(h0).dtype).eps) ** 0.5

    def function(params: PyTree, states: PyTree, probe: PyTree) -> tuple[Any, Any]:
        program = _program(loss, params, probe)
        given = [_as_carry(leaf, axis) for leaf, axis in zip(jax.tree.leaves(states), place.axes, strict=True)]
        evaluation = _Evaluation(place, given)
        arguments = [_Value(leaf, False) for leaf in jax.tree.leaves((arrays_of(params)[0], probe))]
        (result,) = evaluation.run(program.jaxpr, program.consts, arguments, ())
        return result.value, lax.stop_gradient(_are_same(evaluation.own, given, limit))

    return function


def _are_same(own: list[Any], given: list[Any], limit: float) -> Any:
    gaps = [
        jnp.max(jnp.abs(one - other)) <= limit * (1 + jnp.max(jnp.abs(other)))
        for one, other in zip(own, given, strict=True)
        if jnp.issubdtype(other.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.stack(gaps))


def _as_carry(leaf: Any, axis: int | None) -> Any:
    """States of shape (S, T, ...) as (T, ...) with S at `axis`, or without S if `axis` is None."""
    return leaf[0] if axis is None else jnp.moveaxis(jnp.moveaxis(leaf, 1, 0), 1, axis + 1)


def _opened(equation: Any) -> tuple[Jaxpr, Sequence[Any]] | None:
    """The program that a call calls, and its constants; None for any other operation."""
    program = equation.params.get(_CALLS.get(equation.primitive.name, ""))
    if program is None:
        return None
    return (program.jaxpr, program.consts) if isinstance(program, ClosedJaxpr) else (program, ())


def _scans(jaxpr: Jaxpr, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """The scans of a program, also within calls, but not those within other scans."""
    for number, equation in enumerate(jaxpr.eqns):
        called = _opened(equation)
        if equation.primitive.name == "scan":
            yield (*path, number), equation
        elif called is not None:
            yield from _scans(called[0], (*path, number))


def _parts_of_scan(equation: Any) -> tuple[ClosedJaxpr, int, int]:
    """The body of a scan, and how many of its operands are constants and how many are carried.

    Inferred from their shapes: JAX 0.10 calls these numbers `num_consts` and `num_carry`, 0.11 does not.
    """
    program, length = equation.params["jaxpr"], equation.params["length"]
    body = program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())

    def series(outer: Sequence[Any], inner: Sequence[Any]) -> int:
        """How many have one entry for each step."""
        return sum(one.aval.shape == (length, *entry.aval.shape) for one, entry in zip(outer, inner, strict=True))

    carried = len(equation.outvars) - series(equation.outvars, body.jaxpr.outvars)
    return body, len(equation.invars) - series(equation.invars, body.jaxpr.invars) - carried, carried


def _places(program: ClosedJaxpr, leaves: list[Any], sequences: int, length: int) -> Iterator[_Place]:
    for path, equation in _scans(program.jaxpr):
        params = equation.params
        if params["length"] != length or params["reverse"]:
            continue
        _, fixed, carried = _parts_of_scan(equation)
        carries = equation.invars[fixed : fixed + carried]
        options = [
            [
                (number, axis)
                for number, carry in enumerate(carries)
                for axis in _batch_axes(carry.aval, shape, dtype, sequences)
            ]
            for shape, dtype in leaves
        ]
        for chosen in itertools.product(*options):
            numbers = [number for number, _ in chosen]
            if numbers == sorted(set(numbers)):  # leaves keep their order
                yield _Place(path, tuple(numbers), tuple(axis for _, axis in chosen))


def _batch_axes(aval: Any, shape: tuple[int, ...], dtype: Any, sequences: int) -> list[int | None]:
    if aval.dtype != dtype:
        return []
    if sequences == 1 and aval.shape == shape:
        return [None]
    axes = [axis for axis in range(len(shape) + 1) if aval.shape == (*shape[:axis], sequences, *shape[axis:])]
    return [*axes[:1]]


def _origin(jaxpr: Jaxpr, variable: Any, path: _Path = ()) -> tuple[_Path, Any]:
    """The variable, and the path of its program, from which an output of calls within calls comes."""
    if isinstance(variable, Literal):
        raise NoStatesError("a carry is constant")
    for number, equation in enumerate(jaxpr.eqns):
        if variable in equation.outvars:
            called = _opened(equation)
            if called is None:
                return path, variable
            return _origin(called[0], called[0].outvars[equation.outvars.index(variable)], (*path, number))
    raise NoStatesError("a carry is not computed")


class _Evaluation:
    """Evaluates a program with given states in one of its scans; `own` are those that the scan computes from them."""

    def __init__(self, place: _Place, given: list[Any]):
        self.place, self.given = place, given
        self.own: list[Any] = []

    def run(
        self,
        jaxpr: Jaxpr,
        consts: Sequence[Any],
        arguments: Sequence[_Value],
        path: _Path,
        replace: Callable[[_Path, Any, _Value], _Value] = lambda path, variable, value: value,
    ) -> list[_Value]:
        """The outputs of `jaxpr`, with the value of each variable passed through `replace`."""
        values = dict(zip(jaxpr.constvars, (_Value(const, False) for const in consts), strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> _Value:
            return _Value(atom.val, False) if isinstance(atom, Literal) else values[atom]

        for number, equation in enumerate(jaxpr.eqns):
            inputs = [read(atom) for atom in equation.invars]
            called, place = _opened(equation), (*path, number)
            if called is not None:
                outputs = self.run(*called, inputs, place, replace)
            elif place == self.place.scan and not self.own:
                outputs = self.scan(equation, inputs)
            else:
                arrays = [value.value for value in inputs]
                results = equation.primitive.bind(*arrays, **equation.primitive.get_bind_params(equation.params))
                bypasses = any(value.bypasses for value in inputs)
                outputs = [
                    _Value(result, bypasses)
                    for result in (results if equation.primitive.multiple_results else [results])
                ]
            for variable, value in zip(equation.outvars, outputs, strict=True):
                values[variable] = replace(path, variable, value) if called is None else value
        return [read(atom) for atom in jaxpr.outvars]

    def scan(self, equation: Any, inputs: list[_Value]) -> list[_Value]:
        """The scan, with the given states in place of those that it computes."""
        params = equation.params
        body, constants, carries = _parts_of_scan(equation)
        arrays = [value.value for value in inputs]
        consts, start, xs = arrays[:constants], arrays[constants : constants + carries], arrays[constants + carries :]
        origins = {_origin(body.jaxpr, body.jaxpr.outvars[carry]): n for n, carry in enumerate(self.place.carries)}
        if len(origins) != len(self.place.carries):
            raise NoStatesError("two carries are the same")

        def advance(carry: list[Any], inputs: tuple[list[Any], list[Any]]) -> Any:
            given, x = inputs
            own: list[Any] = [None] * len(given)

            def replace(path: _Path, variable: Any, value: _Value) -> _Value:
                number = origins.get((path, variable))
                if number is None:
                    return value
                own[number] = value.value
                return _Value(given[number], False)

            arguments = [
                *(_Value(const, False) for const in consts),
                *(_Value(value, number in self.place.carries) for number, value in enumerate(carry)),
                *(_Value(value, False) for value in x),
            ]
            outputs = self.run(body.jaxpr, body.consts, arguments, (), replace)
            if any(output.bypasses for output in outputs):
                raise NoStatesError("something reads the previous state")
            outputs = [output.value for output in outputs]
            return outputs[:carries], (outputs[carries:], own)

        self.own = [None]  # no scan within is this one
        end, (ys, self.own) = lax.scan(advance, start, (self.given, xs), length=params["length"])
        return [_Value(value, False) for value in (*end, *ys)]
