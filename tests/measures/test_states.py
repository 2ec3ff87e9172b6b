import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from quick_programs import compiled

from gradient_horizon import (
    log_jacobian_norms,
    log_jacobian_norms_all_pairs,
    log_singular_values,
    lyapunov_exponents,
    make_cell,
    node_split,
)
from gradient_horizon.measures.trajectory import rollout

N, T = 4, 12
RNG = np.random.default_rng(0)
BOTH = ("frobenius", "spectral")
A, B = (jnp.asarray(0.7 * (RNG.standard_normal((N, N)) + 1j * RNG.standard_normal((N, N))) / N**0.5) for _ in range(2))
Z0 = jnp.asarray(RNG.standard_normal(N) + 0.3j)
XS = jnp.asarray(0.3 * RNG.standard_normal((T, N)))


@pytest.fixture(autouse=True, scope="module")
def _promotion_as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def holomorphic(a, z, x):
    return jnp.tanh(0.5 * a @ z + x)


def with_conjugate(a, z, x):
    return a @ z + B @ z.conj() + x


def as_real_pair(step):
    def of_pair(a, h, x):
        after = step(a, h[:N] + 1j * h[N:], x)
        return jnp.concatenate([after.real, after.imag])

    return of_pair, jnp.concatenate([Z0.real, Z0.imag])


MEASURES = {
    "end": lambda *given, **settings: dict(log_jacobian_norms(*given, norms=BOTH, **settings)),
    "start": lambda *given, **settings: dict(log_jacobian_norms(*given, anchor="start", **settings)),
    "reference": lambda *given, **settings: dict(log_jacobian_norms(*given, method="jacrev", **settings)),
    "pairs": log_jacobian_norms_all_pairs,
    "singular": log_singular_values,
    "spectrum": lyapunov_exponents,
}


def measured(step, params, h0, xs, only=tuple(MEASURES), **settings):
    """Everything that is asked for of one network; what would be measured again if it were suspect is traced too."""

    def of(name):
        measure = lambda params, xs: MEASURES[name](step, params, h0, xs, **settings)  # noqa: E731
        found = compiled(measure)(params, xs)
        assert jax.eval_shape(jax.jit(measure), params, xs) == jax.eval_shape(lambda: found)
        return jax.tree.map(np.asarray, found)

    return {name: of(name) for name in only}


@pytest.fixture(scope="module")
def of_holomorphic():
    return measured(holomorphic, A, Z0, XS)


def test_a_holomorphic_step_is_measured_by_its_complex_jacobian(of_holomorphic):
    """Against the product of complex Jacobians, formed by NumPy."""
    states, z = [], Z0
    for x in XS:
        states.append(z)
        z = holomorphic(A, z, x)
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda z, x: holomorphic(A, z, x), holomorphic=True)))
    factors = np.asarray(jacobian(jnp.stack(states), XS))
    from_start, from_end = np.eye(N), np.eye(N)
    for k in range(T):
        from_start, from_end = factors[k] @ from_start, from_end @ factors[T - 1 - k]
        for anchor, product in (("start", from_start), ("end", from_end), ("reference", from_end)):
            found = of_holomorphic[anchor]
            np.testing.assert_allclose(found["frobenius"][k], np.log(np.linalg.norm(product)), atol=1e-12)
        spectral = np.log(np.linalg.norm(from_end, 2))
        np.testing.assert_allclose(of_holomorphic["end"]["spectral"][k], spectral, atol=1e-12)
        np.testing.assert_allclose(of_holomorphic["pairs"][k, 0], np.log(np.linalg.norm(from_start)), atol=1e-9)
    condition = np.linalg.cond(from_start)
    expected = np.log(np.linalg.svd(from_start)[1])
    np.testing.assert_allclose(of_holomorphic["singular"], expected, atol=10 * condition * np.finfo(float).eps)
    log_dets = np.linalg.slogdet(factors)[1]
    np.testing.assert_allclose(of_holomorphic["spectrum"].exponents.sum(), log_dets.mean(), atol=1e-12)


def test_the_real_pair_of_a_holomorphic_step_has_everything_twice(of_holomorphic):
    step, h0 = as_real_pair(holomorphic)
    pair = measured(step, A, h0, XS, ("end", "singular"))
    end = of_holomorphic["end"]
    np.testing.assert_allclose(pair["end"]["spectral"], end["spectral"], atol=1e-12)
    np.testing.assert_allclose(pair["end"]["frobenius"], end["frobenius"] + 0.5 * np.log(2), atol=1e-12)
    np.testing.assert_allclose(pair["singular"], np.repeat(of_holomorphic["singular"], 2), atol=1e-9)


def test_exponents_of_a_diagonal_holomorphic_map_are_those_of_its_moduli():
    moduli, angles = np.array([1.3, 0.9, 0.5, 1e-3]), np.array([0.3, 2.0, -1.0, 3.0])
    step = lambda a, z, _: a * z  # noqa: E731
    found = lyapunov_exponents(step, jnp.asarray(moduli * np.exp(1j * angles)), Z0, steps=300, transient=200)
    np.testing.assert_allclose(found.exponents, np.log(moduli), atol=1e-9)
    # the dimension and the entropy count each exponent twice, as two real directions grow by it
    np.testing.assert_allclose(found.entropy_rate, 2 * np.log(1.3), atol=1e-9)
    total = 2 * np.log(1.3) + 2 * np.log(0.9)
    np.testing.assert_allclose(found.kaplan_yorke_dimension, 4 + total / np.log(2.0), atol=1e-7)
    assert found.sum_rule_error < 1e-12


def test_a_step_with_a_conjugate_is_measured_as_a_real_pair():
    step, h0 = as_real_pair(with_conjugate)
    found, pair = (measured(*given, XS, ("end", "spectrum")) for given in ((with_conjugate, A, Z0), (step, A, h0)))
    assert found["spectrum"].exponents.shape == (2 * N,)
    exponents = [of_one.pop("spectrum").exponents.sum() for of_one in (found, pair)]
    np.testing.assert_allclose(*exponents, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), found, pair)


@pytest.mark.parametrize(("a", "b"), [(0.5, 1.0), (1.2, 0.3)])
def test_a_conjugate_splits_an_exponent_in_two(a, b):
    """z ↦ a z + b z̄ multiplies Re z by a + b and Im z by a - b."""
    step = lambda _, z, x: a * z + b * jnp.conj(z)  # noqa: E731
    found = lyapunov_exponents(step, None, jnp.ones(1, jnp.complex128), steps=400, transient=300)
    np.testing.assert_allclose(found.exponents, np.log([a + b, abs(a - b)]), atol=1e-9)


def test_what_is_no_float_goes_beside_the_state():
    """A counter, a key and a flag inside the state, against the same network with what they do among its inputs."""

    def step(w, state, _):
        key, own = jax.random.split(state["key"])
        h = jnp.tanh(w @ state["h"] * (1 + state["count"] % 2) + jax.random.normal(own, (N,), jnp.float64))
        return {"h": h, "count": state["count"] + 1, "key": key, "on": ~state["on"]}

    key, noise = jax.random.key(3), []
    state = {"h": XS[0], "count": jnp.int32(0), "key": key, "on": jnp.array(True)}
    for _ in range(T):
        key, own = jax.random.split(key)
        noise.append(jax.random.normal(own, (N,), jnp.float64))
    plain = lambda w, h, x: jnp.tanh(w @ h * x[1] + x[0])  # noqa: E731
    inputs = (jnp.stack(noise), 1 + jnp.arange(T) % 2)
    some = ("end", "pairs")
    found = measured(step, A.real, state, None, some, steps=T)
    jax.tree.map(np.testing.assert_array_equal, found, measured(plain, A.real, XS[0], inputs, some))

    def gradient(step, h0, xs, block, **settings):
        def total(w):
            return jnp.sum(log_jacobian_norms(step, w, h0, xs, block=block, **settings)["frobenius"])

        return jax.jit(jax.grad(total))(A.real)

    own = gradient(step, state, None, lambda state: state["h"][:2], steps=T)
    np.testing.assert_allclose(own, gradient(plain, XS[0], inputs, lambda h: h[:2]), atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_network_of_16_bits_goes_its_own_way_with_products_of_float32(dtype):
    """Against the product in float64 of the Jacobians that the network itself has, along its own trajectory."""
    w, h0, xs = A.real.astype(dtype), XS[0].astype(dtype), XS.astype(dtype)
    step = lambda w, h, x: jnp.tanh(w @ h + x)  # noqa: E731
    found = measured(step, w, h0, xs, ("end", "start", "singular"))
    states = rollout(step, w, h0, xs).states
    assert states.dtype == jnp.float32
    np.testing.assert_array_equal(states, states.astype(dtype).astype(jnp.float32))
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda h, x: step(w, h, x))))
    factors = np.asarray(jacobian(states[:-1].astype(dtype), xs), np.float64)
    product = np.eye(N)
    # XLA may keep more digits of a step inside one program than inside another: T factors round by eps of 16 bits
    eps = float(jnp.finfo(dtype).eps)
    for k in range(T):
        product = product @ factors[T - 1 - k]
        expected = np.log(np.linalg.norm(product))
        np.testing.assert_allclose(found["end"]["frobenius"][k], expected, atol=N * (k + 1) * eps)
    assert found["end"]["frobenius"].dtype == np.float32
    np.testing.assert_allclose(found["start"]["frobenius"][-1], found["end"]["frobenius"][-1], atol=1e-5)
    log_det = np.linalg.slogdet(product)[1]
    np.testing.assert_allclose(found["singular"].sum(), log_det, atol=N**2 * T * eps)


def test_the_product_of_a_network_of_16_bits_does_not_round_to_16():
    """W = 257/256 exactly, in bfloat16 one digit too many: as a product of 2 steps 1.0078, rounded to 8 bits 1.0078…"""
    w = jnp.array([[1.0078125]], jnp.bfloat16)  # 1 + 2^-7
    found = log_jacobian_norms(lambda w, h, _: w @ h, w, jnp.ones(1, jnp.bfloat16), steps=200)["frobenius"]
    np.testing.assert_allclose(found, np.arange(1, 201) * np.log1p(2.0**-7), rtol=1e-5)


def test_the_nodes_of_a_network_of_16_bits():
    """Their sum is the growth of the vector that its own Jacobians, formed in 16 bits, pass back."""
    cell = make_cell("tanh", N)
    params = cell.init(jax.random.key(0), 1.2, dtype=jnp.bfloat16)
    h0 = cell.initial_state(jax.random.key(1), dtype=jnp.bfloat16)
    split = node_split(cell, params, h0, steps=T)
    states = rollout(cell.step, params, h0, steps=T).states[:-1].astype(jnp.bfloat16)
    factors = np.asarray(jax.vmap(lambda h: jax.jacfwd(lambda h: cell.step(params, h, None))(h))(states), np.float64)
    vector = np.ones(N)
    for factor in factors[::-1]:
        vector = vector @ factor
    growth = np.log(np.linalg.norm(vector) / N**0.5)
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    assert split["matrix"].dtype == jnp.float32
    np.testing.assert_allclose(np.sum(split["matrix"] + split["activation"]), growth, atol=N * T * eps)


def test_parts_of_16_and_of_32_bits():
    """An LSTM's cell of float32 beside a hidden state of bfloat16: the block of each."""
    step = lambda w, s, x: ((w @ s[1]).astype(jnp.bfloat16), 0.5 * s[1] + x)  # noqa: E731
    state = (jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.float32))
    xs = jnp.zeros((5, 2), jnp.float32)
    found = log_jacobian_norms(step, jnp.eye(2, dtype=jnp.float32), state, xs, block=lambda s: s[1])
    np.testing.assert_allclose(found["frobenius"], np.log(2**0.5) - np.log(2) * np.arange(1, 6), rtol=1e-6)
    assert found.state_size == 2


def test_a_state_that_cannot_be_measured_is_refused():
    same = lambda _, h, x: h  # noqa: E731
    for state, message in (
        (
            {"a": jnp.ones(2), "b": jnp.ones(2, jnp.float32)},
            r"h0: dtypes \['float32', 'float64'\]; allowed: float32",
        ),
        (jnp.arange(3), r"h0: dtypes \['int64'\]; allowed"),
        (jnp.ones(2, jnp.float8_e4m3fn), r"h0: dtypes \['float8_e4m3fn'\]; allowed"),
        (jnp.ones(0), "h0: no entries; allowed"),
    ):
        with pytest.raises(ValueError, match=message):
            log_jacobian_norms(same, None, state, steps=2)
    with pytest.raises(ValueError, match=r"step: returns a state of \(2,\) float32, but h0 is \(2,\) complex128"):
        log_jacobian_norms(lambda _, z, x: z.real.astype(jnp.float32), None, jnp.ones(2, jnp.complex128), steps=2)
    state = (jnp.ones(2), jnp.int32(1))
    with pytest.raises(ValueError, match="block: selects no differentiated entries"):
        log_jacobian_norms(same, None, state, steps=2, block=lambda s: s[1])


@jax.custom_vjp
def spike(a):
    return (a > 0).astype(a.dtype)


spike.defvjp(lambda a: (spike(a), a), lambda a, g: (g / (1 + 10 * jnp.abs(a)) ** 2,))


def spiking(w, u, x):
    """Leaky units that fire above 0, with a surrogate derivative."""
    return 0.9 * u + w @ spike(u) + x


def looping(w, h, x):
    """Three rounds, but how many is known only when it runs."""
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(w @ c[1] + x)), (0, h))[1]


def unrolled(w, h, x):
    for _ in range(3):
        h = jnp.tanh(w @ h + x)
    return h


def test_steps_with_one_direction_of_derivatives_are_measured_by_that():
    of_spikes = measured(spiking, A.real, XS[0], XS, ("end", "start", "reference", "spectrum"))
    states = rollout(spiking, A.real, XS[0], XS).states
    jacobian = jax.jit(jax.vmap(jax.jacrev(lambda u: spiking(A.real, u, XS[0]))))  # x does not enter it
    factors = np.asarray(jacobian(states[:-1]))
    product = np.linalg.multi_dot(factors[::-1])
    for anchor in ("start", "end", "reference"):
        assert np.isclose(of_spikes[anchor]["frobenius"][-1], np.log(np.linalg.norm(product)), atol=1e-12)
    np.testing.assert_allclose(of_spikes["spectrum"].exponents.sum(), np.linalg.slogdet(factors)[1].mean(), atol=1e-9)
    some = ("end", "reference", "pairs")
    of_loops, expected = (measured(step, A.real, XS[0], XS, some) for step in (looping, unrolled))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), of_loops, expected)


def test_a_step_without_any_derivative_is_refused():
    def called(_, h, x):
        return jax.pure_callback(lambda h: h, h, h)

    for anchor in ("start", "end"):
        with pytest.raises(TypeError, match="step: has neither a forward nor a reverse derivative"):
            log_jacobian_norms(called, None, XS[0], steps=2, anchor=anchor)
    with pytest.raises(TypeError, match="step: has neither"):
        log_jacobian_norms(lambda _, h, x: spike(looping(A.real, h, 0.0)), None, XS[0], steps=2)


def test_a_fault_of_the_step_itself_is_told_as_it_is():
    with pytest.raises(TypeError, match="dot_general requires contracting dimensions"):
        log_jacobian_norms(lambda _, h, x: jnp.ones((2, 3)) @ h, None, jnp.ones(2), steps=2)
