"""`jax.vmap` with the batch along the last axis: small networks side by side in a processor's vector lanes.

`jax.vmap` puts the batch first and makes a separate call for each small matrix product. For matrices of about 20 rows
most of the time is then call overhead. With the batch last, every operation, matrix products included, is one loop over
adjacent numbers of different networks, two or three times as fast.

A function is traced once for a single network, and its operations are then carried out with an additional last axis.
An operation that is unknown here, or has an unknown parameter, is left to `jax.vmap`. So is the whole function if JAX
represents the program in an unknown way; a warning is then logged.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array

from gradient_horizon.numerics.arrays import PyTree
from gradient_horizon.numerics.xla import materialised

_log = logging.getLogger(__name__)
_LONGEST_SUM = 32  # longest matrix product, in terms, that is written out; longer ones are left to `jax.vmap`
_ARITHMETIC = {"add", "sub", "mul", "div", "rem", "pow", "atan2", "nextafter", "max", "min"}
_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "select_n"}
_BITS = {"and", "or", "xor", "shift_left", "shift_right_arithmetic", "shift_right_logical"}
_ELEMENTWISE = _ARITHMETIC | _COMPARISONS | _BITS  # elementwise operations on several operands
_CALLS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
# The known parameters of the other operations that are carried out here. (How many operands of a scan are constants or
# carried is inferred from their shapes: JAX 0.10 calls these numbers `num_consts` and `num_carry`, 0.11 does not.)
_KNOWN = {
    **dict.fromkeys(_ELEMENTWISE, frozenset({"out_dtype"})),
    "broadcast_in_dim": {"shape", "broadcast_dimensions", "sharding"},
    "reshape": {"dimensions", "new_sizes", "sharding"},
    "transpose": {"permutation"},
    "dot_general": {"dimension_numbers", "precision", "preferred_element_type", "out_sharding"},
    "scan": {"jaxpr", "length", "reverse", "unroll", "num_consts", "num_carry", "ft_in", "ft_out", "linear"},
    "while": {"cond_jaxpr", "cond_nconsts", "body_jaxpr", "body_nconsts"},
}


class _Value(NamedTuple):
    """An array; if `each` is true, its last axis runs over the networks, otherwise all networks share it."""

    array: Array
    each: bool


def _for_each(value: _Value, size: int) -> Array:
    return value.array if value.each else jnp.broadcast_to(value.array[..., None], (*value.array.shape, size))


def _evaluated(program: ClosedJaxpr, values: Sequence[_Value], size: int) -> list[_Value]:
    """Evaluate `program`, which was traced for one network, for `size` networks."""
    jaxpr: Jaxpr = program.jaxpr
    values_of = dict(zip(jaxpr.constvars, (_Value(jnp.asarray(const), False) for const in program.consts), strict=True))
    values_of |= dict(zip(jaxpr.invars, values, strict=True))

    def read(atom: Any) -> _Value:
        if isinstance(atom, Literal):
            return _Value(jnp.asarray(atom.val, _shaped(atom).dtype), False)
        return values_of[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        values_of |= dict(zip(equation.outvars, _applied(equation, inputs, size), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _applied(equation: JaxprEqn, inputs: list[_Value], size: int) -> list[_Value]:
    """Carry out one operation."""
    name, params = equation.primitive.name, equation.params
    program = params.get(_CALLS.get(name, ""))
    if program is not None:
        return _evaluated(_as_closed(program), inputs, size)
    arrays = [value.array for value in inputs]
    if not any(value.each for value in inputs):
        return [_Value(array, False) for array in _alone(equation)(*arrays)]
    if _is_supported(name, params):
        if name == "scan" and (results := _scanned(equation, inputs, size)) is not None:
            return results
        if name == "while":
            return _repeated(params, inputs, size)
        if name in _SIMPLE and (array := _SIMPLE[name](equation, inputs, size)) is not None:
            return [_Value(array, True)]
    mapped = jax.vmap(_alone(equation), in_axes=[-1 if value.each else None for value in inputs], out_axes=-1)
    return [_Value(array, True) for array in mapped(*arrays)]


def _is_supported(name: str, params: dict[str, Any]) -> bool:
    """True if the operation and all its parameters are known, with the meaning they had when this was written."""
    is_placed = any(map(_is_divided, (params.get("sharding"), params.get("out_sharding"))))
    return name in _KNOWN and params.keys() <= _KNOWN[name] and not is_placed


def _is_divided(sharding: Any) -> bool:
    """True if a result is sharded over devices; inside `jax.shard_map` some have a sharding that names no axis."""
    return sharding is not None and any(axis is not None for axis in getattr(sharding, "spec", ("unknown",)))


def _elementwise(equation: JaxprEqn, inputs: list[_Value], size: int) -> Array:
    shape = (*_shaped(equation.outvars[0]).shape, size)
    return equation.primitive.bind(*(_spread(value, shape) for value in inputs), **equation.params)


def _broadcast(equation: JaxprEqn, inputs: list[_Value], size: int) -> Array:
    shape = equation.params["shape"]
    places = (*equation.params["broadcast_dimensions"], len(shape))
    return lax.broadcast_in_dim(inputs[0].array, (*shape, size), places)


def _reshaped(equation: JaxprEqn, inputs: list[_Value], size: int) -> Array | None:
    if equation.params.get("dimensions") is not None:
        return None
    return lax.reshape(inputs[0].array, (*equation.params["new_sizes"], size))


def _transposed(equation: JaxprEqn, inputs: list[_Value], size: int) -> Array:
    permutation = equation.params["permutation"]
    return lax.transpose(inputs[0].array, (*permutation, len(permutation)))


def _short_product(equation: JaxprEqn, inputs: list[_Value], size: int) -> Array | None:
    if not _is_short(equation.params["dimension_numbers"], inputs[0].array.shape):
        return None
    return _product(equation.params, *inputs).astype(_shaped(equation.outvars[0]).dtype)


# Each returns its result with the networks along the last axis, or None to leave the operation to `jax.vmap`.
_SIMPLE: dict[str, Callable[[JaxprEqn, list[_Value], int], Array | None]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshaped,
    "transpose": _transposed,
    "dot_general": _short_product,
}


def _shaped(atom: Any) -> Any:
    """The `shape` and `dtype` of an operand or result for one network."""
    return atom.aval


def _alone(equation: JaxprEqn) -> Callable[..., list[Array]]:
    """The operation as a function of its operands."""

    def operation(*operands: Array) -> list[Array]:
        results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
        return results if equation.primitive.multiple_results else [results]

    return operation


def _as_closed(program: Any) -> ClosedJaxpr:
    return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())


def _spread(value: _Value, shape: tuple[int, ...]) -> Array:
    """Broadcast an operand of an elementwise operation, which has the full shape or is a scalar, to `shape`."""
    if value.array.ndim == len(shape):
        return value.array
    return jnp.broadcast_to(value.array if value.each else value.array[..., None], shape)


def _is_short(dimensions: Any, left: tuple[int, ...]) -> bool:
    """True if a product sums over a single axis of few terms and has no batch axis."""
    (contracted, _), (together, _) = dimensions
    return len(contracted) == 1 and not together and 0 < left[contracted[0]] <= _LONGEST_SUM


def _product(params: dict[str, Any], left: _Value, right: _Value) -> Array:
    """A product of matrices or vectors, summed term by term: each term is one loop over all entries and networks."""
    ((first,), (second,)), _ = params["dimension_numbers"]
    terms = left.array.shape[first]
    others = right.array.ndim - right.each - 1  # the axes of `right` that are not summed over
    left_axes = left.array.ndim - left.each - 1
    left, right = (_Value(materialised(value.array), value.each) for value in (left, right))

    def term(k: int) -> Array:
        a = lax.index_in_dim(left.array, k, first, keepdims=False)
        b = lax.index_in_dim(right.array, k, second, keepdims=False)
        a = a if left.each else a[..., None]
        b = b if right.each else b[..., None]
        a = jnp.expand_dims(a, tuple(range(left_axes, left_axes + others)))
        return a * jnp.expand_dims(b, tuple(range(left_axes)))

    total = term(0)
    for k in range(1, terms):
        total = total + term(k)
    return total


def _scanned(equation: JaxprEqn, inputs: list[_Value], size: int) -> list[_Value] | None:
    """`lax.scan`, with carries and outputs for each network. None if the roles of its operands cannot be inferred."""
    params = equation.params
    program = _as_closed(params["jaxpr"])
    outer = [_shaped(atom) for atom in (*equation.invars, *equation.outvars)]
    inner = [_shaped(atom) for atom in (*program.jaxpr.invars, *program.jaxpr.outvars)]
    if len(outer) != len(inner):
        return None
    is_series = [whole.shape == (params["length"], *entry.shape) for whole, entry in zip(outer, inner, strict=True)]
    of_inputs, of_outputs = is_series[: len(inputs)], is_series[len(inputs) :]
    carried = of_outputs.count(False)
    fixed = of_inputs.count(False) - carried
    names = [[entry.str_short() for entry in part] for part in (inner[: len(inputs)], inner[len(inputs) :])]
    in_order = sorted(of_inputs) == of_inputs and sorted(of_outputs) == of_outputs and fixed >= 0
    if not in_order or names[0][fixed : fixed + carried] != names[1][:carried]:
        return None
    constants, start, series = inputs[:fixed], inputs[fixed : fixed + carried], inputs[fixed + carried :]

    def body(carry: Any, entries: Any) -> Any:
        values = [_Value(array, True) for array in carry]
        values += [_Value(array, value.each) for array, value in zip(entries, series, strict=True)]
        results = [_for_each(value, size) for value in _evaluated(program, [*constants, *values], size)]
        return results[:carried], results[carried:]

    last, outputs = lax.scan(
        body,
        [_for_each(value, size) for value in start],
        [value.array for value in series],
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [_Value(array, True) for array in (*last, *outputs)]


def _repeated(params: dict[str, Any], inputs: list[_Value], size: int) -> list[_Value]:
    """`lax.while_loop`, run until every network has finished; networks that have finished keep their values."""
    of_condition, of_body = params["cond_nconsts"], params["body_nconsts"]
    for_condition, fixed = inputs[:of_condition], inputs[of_condition : of_condition + of_body]

    def goes_on(carry: Sequence[Array]) -> Array:
        values = [*for_condition, *(_Value(array, True) for array in carry)]
        (flag,) = _evaluated(_as_closed(params["cond_jaxpr"]), values, size)
        return _for_each(flag, size)

    def body(carry: Sequence[Array]) -> list[Array]:
        values = _evaluated(_as_closed(params["body_jaxpr"]), [*fixed, *(_Value(array, True) for array in carry)], size)
        going = goes_on(carry)
        return [jnp.where(going, _for_each(value, size), old) for value, old in zip(values, carry, strict=True)]

    start = [_for_each(value, size) for value in inputs[of_condition + of_body :]]
    return [_Value(array, True) for array in lax.while_loop(lambda carry: jnp.any(goes_on(carry)), body, start)]


def vmap(function: Callable[[PyTree, PyTree], PyTree], width: int) -> Callable[[PyTree, PyTree], PyTree]:
    """`jax.vmap(function, in_axes=(0, None))`, with `width` networks side by side at a time.

    `width` must divide the number of networks. Gives the same numbers up to the order in which products are summed.
    Not differentiable in reverse mode.
    """

    def mapped(networks: PyTree, constants: PyTree) -> PyTree:
        leaves, tree = jax.tree.flatten(networks)
        structures: list[Any] = []  # the structure of the result of `function`

        def flat(leaves: list[Array], constants: PyTree) -> list[Any]:
            results, structure = jax.tree.flatten(function(jax.tree.unflatten(tree, leaves), constants))
            structures.append(structure)
            return results

        one = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves]
        program = jax.make_jaxpr(flat)(one, constants)
        shared = [_Value(jnp.asarray(leaf), False) for leaf in jax.tree.leaves(constants)]

        def side_by_side(group: list[Array]) -> list[Array]:
            values = [*(_Value(jnp.moveaxis(leaf, 0, -1), True) for leaf in group), *shared]
            return [jnp.moveaxis(_for_each(value, width), -1, 0) for value in _evaluated(program, values, width)]

        groups = [leaf.reshape(len(leaf) // width, width, *leaf.shape[1:]) for leaf in leaves]
        try:
            results = lax.map(side_by_side, groups)
        except Exception as error:  # not an error of the function itself, which has just been traced
            _log.warning("%s cannot be run in vector lanes with jax %s: %r", function, jax.__version__, error)
            return jax.vmap(function, in_axes=(0, None))(networks, constants)
        results = [array.reshape(len(array) * width, *array.shape[2:]) for array in results]
        return jax.tree.unflatten(structures[-1], results)

    return mapped
