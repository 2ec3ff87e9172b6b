"""The rank that a product of matrices has because of where their zeros are, whatever the other entries.

It is the largest number of paths from the first to the last layer that share no node, layer t being the entries of
h_t and an entry of J_t that is not zero an arrow (Lindström 1973): no minor of the product that is larger has a term.
The same rank is that of the product with every other entry drawn at random from a large field, here the integers
modulo the prime 2³¹ - 1, where nothing is rounded. A draw says too little with a probability of n T / 2³¹ (Schwartz
1980), never too much.

Most networks need none of this: dense weights behind units of which some are shut give min_t of the live units.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

_PRIME = 2**31 - 1


class Reach(NamedTuple):
    """The images of the first layer in a later one.

    - `rank`: how many independent ones.
    - `alive`: (n,), where they lie, if `is_generic`: in general position there.
    - `basis`: (n, n), its columns span them modulo the prime, if not.
    """

    rank: Array
    alive: Array
    is_generic: Array
    basis: Array


def everything(n: int) -> Reach:
    """Of no factor at all."""
    return Reach(jnp.int32(n), jnp.ones(n, bool), jnp.ones((), bool), jnp.zeros((n, n), jnp.uint32))


def through(reach: Reach, pattern: Bool[Array, "n n"], time: Int[Array, ""]) -> Reach:
    """`reach` after one more factor, whose entries are zero where `pattern` is False. 64 bits must be enabled."""
    n = len(pattern)
    rows, columns = jnp.any(pattern, axis=1), jnp.any(pattern, axis=0)
    is_full = jnp.all(pattern == (rows[:, None] & columns[None, :]))  # but for rows and columns of zeros
    keeps_all = (reach.rank == n) & jnp.all(jnp.diagonal(pattern))
    generic_rank = jnp.minimum(reach.rank, jnp.minimum(_count(columns & reach.alive), _count(rows)))
    full_rank = jnp.where(reach.is_generic, generic_rank, jnp.minimum(reach.rank, _count(rows)))
    known = keeps_all | (is_full & (reach.is_generic | jnp.all(columns)))

    def draw(carry):
        _, _, basis = carry
        now, basis = lax.optimization_barrier((time, basis))
        own = jnp.where(reach.alive[:, None] & (_numbers(n) < reach.rank)[None, :], _random(2 * now, n), 0)
        basis = jnp.where(reach.is_generic, own, basis.astype(jnp.uint64))
        basis = _eliminated(_product(jnp.where(pattern, _random(2 * now + 1, n), 0), basis))
        return jnp.zeros((), bool), _count(jnp.any(basis != 0, axis=0)), basis.astype(jnp.uint32)

    # a loop of at most one turn: under `jax.vmap` of none where no network needs it
    start = (~known, jnp.where(keeps_all, reach.rank, full_rank), reach.basis)
    _, rank, basis = lax.while_loop(lambda carry: carry[0], draw, start)
    return Reach(rank, jnp.where(keeps_all, reach.alive, rows), known, basis)


def parts_of_last_layer(
    pattern_at: Callable[[Int[Array, ""]], Bool[Array, "n n"]], n: int, first: Int[Array, ""], length: int
) -> Bool[Array, "n n"]:
    """Which entries of h_T belong together: paths from layer `first` join them, by whatever entries in between.

    `pattern_at(t)` is that of J_{t+1}. An entry that no path reaches belongs to itself.
    """
    eye = jnp.eye(n, dtype=bool)

    def joined(one, other):
        return jnp.matmul(one.astype(jnp.float32), other.astype(jnp.float32)) > 0

    def closed(relation):
        def widen(carry):
            relation, _ = carry
            wider = joined(relation, relation)
            return wider, jnp.any(wider != relation)

        return lax.while_loop(lambda carry: carry[1], widen, (relation, jnp.ones((), bool)))[0]

    def advance(carry):
        time, relation, _ = carry
        pattern = pattern_at(time)
        relation = closed(joined(joined(pattern, relation), pattern.T) | eye)
        alive = jnp.any(pattern, axis=1)
        is_one = jnp.all(relation | ~(alive[:, None] & alive[None, :]))  # and remains so
        return time + 1, relation, is_one

    start = (first, eye, jnp.asarray(n == 1))
    _, relation, is_one = lax.while_loop(lambda carry: (carry[0] < length) & ~carry[2], advance, start)
    return relation | is_one


def _count(flags: Bool[Array, "..."]) -> Int[Array, ""]:
    return jnp.sum(flags, dtype=jnp.int32)


def _numbers(n: int) -> Int[Array, " n"]:
    return jnp.arange(n, dtype=jnp.int32)


def _random(number: Int[Array, ""], n: int) -> Array:
    """A matrix of numbers from 1 to the prime less one, always the same for one `number`."""
    with jax.enable_x64(False):  # JAX's draws of 64 bits cannot be compiled where the caller has not enabled them
        bits = jax.random.bits(jax.random.fold_in(jax.random.key(0), number), (n, n))
    return bits.astype(jnp.uint64) % (_PRIME - 1) + 1


def _product(left: Array, right: Array) -> Array:
    def add(k, total):
        column = lax.dynamic_index_in_dim(left, k, axis=1)
        return (total + column * lax.dynamic_index_in_dim(right, k)) % _PRIME

    return lax.fori_loop(jnp.int32(0), jnp.int32(len(left)), add, jnp.zeros_like(right))


def _eliminated(matrix: Array) -> Array:
    """Columns that span the same, those that are not zero independent."""
    n = len(matrix)
    numbers = _numbers(n)

    def eliminate(j, matrix):
        column = lax.dynamic_index_in_dim(matrix, j, axis=1, keepdims=False)
        place = jnp.min(jnp.where(column != 0, numbers, n - 1))
        row = lax.dynamic_index_in_dim(matrix, place, keepdims=False)
        reduced = (matrix * column[place] % _PRIME + (_PRIME - column)[:, None] * row[None, :]) % _PRIME
        return jnp.where(((numbers > j) & jnp.any(column != 0))[None, :], reduced, matrix)

    return lax.fori_loop(jnp.int32(0), jnp.int32(n), eliminate, matrix)
