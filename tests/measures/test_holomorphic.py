import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradient_horizon.measures.holomorphic import is_holomorphic

N = 3
RNG = np.random.default_rng(0)
A = jnp.asarray(RNG.standard_normal((N, N)) + 1j * RNG.standard_normal((N, N)))
B = A.T


@pytest.fixture(autouse=True, scope="module")
def _promotion_as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@jax.custom_jvp
def conjugate_derivative(z):
    return 2 * z


conjugate_derivative.defjvp(lambda primals, tangents: (2 * primals[0], jnp.conj(tangents[0])))

HOLOMORPHIC = {
    "matrix": lambda z: A @ z,
    "real matrix": lambda z: A.real @ z + jnp.abs(A) @ z,
    "exp": lambda z: jnp.exp(A @ z) * z,
    "tanh": lambda z: jnp.tanh(A @ z),
    "quotient": lambda z: 1 / (z + 2),
    "power": lambda z: z**2.5,
    "jitted": lambda z: jax.jit(lambda z: jnp.sin(z) @ A)(z),
    "in a scan": lambda z: lax.scan(lambda c, a: (jnp.tanh(a @ c), None), z, jnp.stack([A, B]))[0],
    "by cases": lambda z: lax.cond(z[0].real > 0, lambda z: 2 * z, lambda z: 3j * z, z),
    "where": lambda z: jnp.where(z.real > 0, z, 2 * z),
    "in a loop": lambda z: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(A @ c[1])), (0, z))[1],
    "formed anew": jax.checkpoint(lambda z: jnp.tanh(A @ z) * A[0]),
    "solved": lambda z: jnp.linalg.solve(A + 5 * jnp.eye(N), z),
    "Fourier": jnp.fft.fft,
    "inner product": lambda z: jnp.vdot(A[0], z) * A[1],
}
NOT_HOLOMORPHIC = {
    "conjugate": lambda z: A @ z + B @ z.conj(),
    "modulus": lambda z: z * jnp.abs(z),
    "modReLU": lambda z: jax.nn.relu(jnp.abs(z) - 0.1) * z / jnp.abs(z),
    "real part": lambda z: z.real + 0j,
    "exchanged": lambda z: z.imag + 1j * z.real,
    "jitted": lambda z: jax.jit(lambda z: jnp.conj(z) @ A)(z),
    "in a loop": lambda z: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.conj(A @ c[1])), (0, z))[1],
    "formed anew": jax.checkpoint(lambda z: jnp.tanh(A @ z.conj()) * A[0]),
    "own derivative": conjugate_derivative,
    "norm": lambda z: z / jnp.linalg.norm(z),
    "inner product": lambda z: jnp.vdot(z, A[0]) * A[1],
}
CAREFUL = {  # holomorphic, but not seen to be
    "conjugated twice": lambda z: lax.scan(lambda c, a: (jnp.conj(a @ c), None), z, jnp.stack([A, B]))[0],
    "put together": lambda z: lax.complex(z.real, z.imag),
}


def commutes_with_i(function):
    z = jax.random.normal(jax.random.key(3), (N,), jnp.float64) + 0.3j
    v = jax.random.normal(jax.random.key(4), (N,), jnp.float64) - 0.2j
    return np.allclose(jax.jvp(function, (z,), (1j * v,))[1], 1j * jax.jvp(function, (z,), (v,))[1], rtol=1e-9)


@pytest.mark.parametrize(
    ("function", "seen", "true"),
    [
        pytest.param(function, seen, true, id=name)
        for functions, seen, true in (
            (HOLOMORPHIC, True, True),
            (NOT_HOLOMORPHIC, False, False),
            (CAREFUL, False, True),
        )
        for name, function in functions.items()
    ],
)
def test_what_is_seen_to_be_holomorphic_obeys_cauchy_and_riemann(function, seen, true):
    assert is_holomorphic(function, jax.ShapeDtypeStruct((N,), jnp.complex128)) == seen
    assert commutes_with_i(function) == true
