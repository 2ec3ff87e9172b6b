"""LAPACK, one matrix at a time.

A LAPACK call on a batch splits it over the pool of threads that it runs in itself, and waits there: with two CPU
devices both threads wait, for ever (jax 0.10.2: `ParallelBatchMap` inside `lapack_*_ffi`). Under `jax.vmap` these
functions loop over the batch instead. Nothing else in the package may call LAPACK inside a compiled program.
"""

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Complex, Float


@sequential_vmap
def qr(matrix: Float[Array, "n k"]) -> tuple[Float[Array, "n k"], Float[Array, "k k"]]:
    """The reduced QR factors."""
    q, r = jnp.linalg.qr(matrix)
    return q, r


@sequential_vmap
def singular_values(matrix: Float[Array, "n k"]) -> Float[Array, " k"]:
    """All singular values, descending."""
    return jnp.linalg.svd(matrix, compute_uv=False)


@sequential_vmap
def eigenvalues(matrix: Float[Array, "n n"]) -> Complex[Array, " n"]:
    """All eigenvalues of a general matrix, in no order; on the CPU alone."""
    return jnp.linalg.eigvals(matrix)


@sequential_vmap
def symmetric_eigenvalues(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    """All eigenvalues of a symmetric matrix, ascending."""
    return jnp.linalg.eigvalsh(matrix)


def spectral_radius(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """The largest modulus of an eigenvalue."""
    return jax.numpy.max(jnp.abs(eigenvalues(matrix)))
