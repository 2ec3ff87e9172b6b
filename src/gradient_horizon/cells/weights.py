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

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gradient_horizon.numerics import lapack
from gradient_horizon.numerics.arrays import Matrix, RandomKey, available
from gradient_horizon.numerics.keys import normal, sized_key

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


_ENSEMBLES: dict[str, Callable[[RandomKey, int, DTypeLike], Matrix]] = {
    "gaussian": _gaussian,
    "orthogonal": _orthogonal,
    "identity": _identity,
    "unit_normal": _unit_normal,
    "np_rnn": _np_rnn,
    "sparse": _sparse,
    "sparse_outgoing": _sparse_outgoing,
}


def unit_weights(name: str, key: RandomKey, n: int, dtype: DTypeLike = jnp.float32) -> Matrix:
    """Draw W⁰ of shape (`n`, `n`) from the ensemble `name` (see the table above).

    Raises `ValueError` for an unknown ensemble, and for float64 if JAX's 64-bit numbers are disabled.
    """
    if name not in _ENSEMBLES:
        raise ValueError(f"weights: {name!r} is unknown; allowed: {', '.join(_ENSEMBLES)}")
    return _ENSEMBLES[name](key, n, available(dtype))
