"""Ensembles of recurrent matrices: W = g W⁰, with one W⁰ for each key and N, the same at every weight scale g.

| name | W⁰ |
|---|---|
| gaussian | N(0, 1/N) entries; spectral radius → 1 (Girko's circular law) |
| orthogonal | uniform on the orthogonal group: QR of a Gaussian matrix, R's diagonal positive (Mezzadri 2007) |
| identity | I (Le, Jaitly, Hinton 2015) |
| unit_normal | N(0, 1) entries |
| np_rnn | (RᵀR/N + I) / its largest eigenvalue, R standard normal (Talathi, Vartak 2015) |
| sparse | min(15, N) Gaussian entries per row, rescaled to spectral radius 1: after Pascanu, Mikolov, Bengio 2013 |
| sparse_outgoing | as many per column: each unit's outgoing weights, as in the code of that paper |
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gradient_horizon import names
from gradient_horizon.names import declare
from gradient_horizon.numerics import lapack
from gradient_horizon.numerics.arrays import Matrix, RandomKey, available
from gradient_horizon.numerics.keys import normal, sized_key

DECLARES = (
    declare.Ensemble("gaussian", "N(0, 1/N) entries", make="_gaussian"),
    declare.Ensemble("orthogonal", "uniform on the orthogonal group", make="_orthogonal"),
    declare.Ensemble("identity", "the identity", make="_identity"),
    declare.Ensemble("unit_normal", "N(0, 1) entries", make="_unit_normal"),
    declare.Ensemble("np_rnn", "positive definite, largest eigenvalue 1", make="_np_rnn"),
    declare.Ensemble("sparse", "at most 15 entries per row, spectral radius 1", make="_sparse"),
    declare.Ensemble("sparse_outgoing", "at most 15 entries per column, spectral radius 1", make="_sparse_outgoing"),
)

SPARSE_ENTRIES = 15


def _gaussian(key: RandomKey, n: int, dtype: DTypeLike) -> Matrix:
    return normal(key, (n, n), dtype) / jnp.sqrt(jnp.asarray(n, dtype))


def _orthogonal(key: RandomKey, n: int, dtype: DTypeLike) -> Matrix:
    q, r = lapack.qr(normal(key, (n, n), dtype))
    diagonal = jnp.diagonal(r)
    signs = jnp.where(diagonal < 0, -jnp.ones_like(diagonal), jnp.ones_like(diagonal))
    return q * signs[None, :]


def _identity(key: RandomKey, n: int, dtype: DTypeLike) -> Matrix:
    return jnp.eye(n, dtype=dtype)


def _unit_normal(key: RandomKey, n: int, dtype: DTypeLike) -> Matrix:
    return normal(key, (n, n), dtype)


def _np_rnn(key: RandomKey, n: int, dtype: DTypeLike) -> Matrix:
    r = normal(key, (n, n), dtype)
    positive = jnp.matmul(r.T, r, precision="highest") / n + jnp.eye(n, dtype=dtype)
    return positive / lapack.symmetric_eigenvalues(positive)[-1]


def _sparse(key: RandomKey, n: int, dtype: DTypeLike) -> Matrix:
    key_values, key_places = jax.random.split(key)
    places = jax.random.uniform(sized_key(key_places, n, n), (n, n), jnp.float32)
    ranks = jnp.argsort(jnp.argsort(places, axis=1), axis=1)
    matrix = jnp.where(ranks < SPARSE_ENTRIES, normal(key_values, (n, n), dtype), jnp.zeros((), dtype))
    return matrix / lapack.spectral_radius(matrix)


def _sparse_outgoing(key: RandomKey, n: int, dtype: DTypeLike) -> Matrix:
    return _sparse(key, n, dtype).T


def unit_weights(name: str, key: RandomKey, n: int, dtype: DTypeLike = jnp.float32) -> Matrix:
    """Draw W⁰ of shape (`n`, `n`) from the ensemble `name` (see the table above).

    Raises `ValueError` for an unknown ensemble, and for float64 if JAX's 64-bit numbers are disabled.
    """
    if name not in names.WEIGHTS:
        raise ValueError(f"weights: {name!r} is unknown; allowed: {', '.join(names.WEIGHTS)}")
    return declare.declared(declare.Ensemble)[name].load()(key, n, available(dtype))
