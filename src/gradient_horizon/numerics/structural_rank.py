"""The structural rank of a product of matrices: the rank that the pattern of zeros allows, whatever the other entries.

It is the largest number of paths from the first to the last layer that share no node, where the nodes of layer t are
the entries of h_t and every nonzero entry of J_t is an arrow (Lindström 1973): a larger minor of the product has no
terms. The product has the same rank if every nonzero entry is drawn at random from a large field, here the integers
modulo the prime 2³¹ - 1, in which nothing is rounded. A draw underestimates the rank with a probability of n T / 2³¹
(Schwartz 1980) and never overestimates it.

Most networks need none of this: with dense weights and some units shut, the rank is the smallest number of live units
in any layer.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

_PRIME = 2**31 - 1


class Reach(NamedTuple):
    """The image of the first layer in a later one.

    - `rank`: its dimension.
    - `is_generic`: True if the image is in general position within the entries that are `alive`.
    - `alive`: (n,), the entries that the image occupies, if `is_generic`.
    - `basis`: (n, n), whose columns span the image modulo the prime, if not `is_generic`.
    """

    rank: Array
    alive: Array
    is_generic: Array
    basis: Array


def everything(n: int) -> Reach:
    """The image under the empty product: the whole space."""
    return Reach(jnp.int32(n), jnp.ones(n, bool), jnp.ones((), bool), jnp.zeros((n, n), jnp.uint32))


def through(reach: Reach, pattern: Bool[Array, "n n"], time: Int[Array, ""]) -> Reach:
    """`reach` after one more factor, whose entries are zero where `pattern` is False. 64 bits must be enabled."""
    n = len(pattern)
    rows, columns = jnp.any(pattern, axis=1), jnp.any(pattern, axis=0)
    is_full = jnp.all(pattern == (rows[:, None] & columns[None, :]))  # apart from rows and columns of zeros
    keeps_all = (reach.rank == n) & jnp.all(jnp.diagonal(pattern))
    generic_rank = jnp.minimum(reach.rank, jnp.minimum(_count(columns & reach.alive), _count(rows)))
    full_rank = jnp.where(reach.is_generic, generic_rank, jnp.minimum(reach.rank, _count(rows)))
    is_settled = keeps_all | (is_full & (reach.is_generic | jnp.all(columns)))

    def draw(carry):
        _, _, basis = carry
        now, basis = lax.optimization_barrier((time, basis))
        own = jnp.where(reach.alive[:, None] & (_numbers(n) < reach.rank)[None, :], _random(2 * now, n), 0)
        basis = jnp.where(reach.is_generic, own, basis.astype(jnp.uint64))
        basis = _eliminated(_product(jnp.where(pattern, _random(2 * now + 1, n), 0), basis))
        return jnp.zeros((), bool), _count(jnp.any(basis != 0, axis=0)), basis.astype(jnp.uint32)

    # a loop of at most one iteration: under `jax.vmap` none if no network needs it
    start = (~is_settled, jnp.where(keeps_all, reach.rank, full_rank), reach.basis)
    _, rank, basis = lax.while_loop(lambda carry: carry[0], draw, start)
    return Reach(rank, jnp.where(keeps_all, reach.alive, rows), is_settled, basis)


def parts_of_last_layer(
    pattern_at: Callable[[Int[Array, ""]], Bool[Array, "n n"]], n: int, first: Int[Array, ""], length: int
) -> Bool[Array, "n n"]:
    """Which entries of h_T belong together: those connected by paths from layer `first`, through any entries between.

    `pattern_at(t)` is the pattern of J_{t+1}. An entry that no path reaches belongs only to itself, unless all entries
    that are reached belong together: then all n are reported as one part.
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
    """A matrix of numbers from 1 to the prime minus one, always the same for the same `number`."""
    with jax.enable_x64(False):  # JAX's 64-bit draws cannot be compiled unless the caller has enabled 64 bits
        bits = jax.random.bits(jax.random.fold_in(jax.random.key(0), number), (n, n))
    return bits.astype(jnp.uint64) % (_PRIME - 1) + 1


def _product(left: Array, right: Array) -> Array:
    def add(k, total):
        column = lax.dynamic_index_in_dim(left, k, axis=1)
        return (total + column * lax.dynamic_index_in_dim(right, k)) % _PRIME

    return lax.fori_loop(jnp.int32(0), jnp.int32(len(left)), add, jnp.zeros_like(right))


def _eliminated(matrix: Array) -> Array:
    """Columns with the same span; those that are not zero are linearly independent."""
    n = len(matrix)
    numbers = _numbers(n)

    def eliminate(j, matrix):
        column = lax.dynamic_index_in_dim(matrix, j, axis=1, keepdims=False)
        place = jnp.min(jnp.where(column != 0, numbers, n - 1))
        row = lax.dynamic_index_in_dim(matrix, place, keepdims=False)
        reduced = (matrix * column[place] % _PRIME + (_PRIME - column)[:, None] * row[None, :]) % _PRIME
        return jnp.where(((numbers > j) & jnp.any(column != 0))[None, :], reduced, matrix)

    return lax.fori_loop(jnp.int32(0), jnp.int32(n), eliminate, matrix)
