"""Networks side by side in the vector lanes: the same numbers as `jax.vmap` gives, whatever the function does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradient_horizon.cells import make_cell
from gradient_horizon.cells.activations import ACTIVATIONS
from gradient_horizon.ensembles import batch_last_vmap, blocks
from gradient_horizon.ensembles.block_size import batch_last_width
from gradient_horizon.measures.jacobian_norms import scaled_norms
from gradient_horizon.measures.trajectory import rollout, system_of

COUNT, WIDTH, T = 8, 4, 30
FROBENIUS, BOTH = ("frobenius",), ("frobenius", "spectral")


@pytest.fixture(autouse=True)
def _nothing_is_left_to_vmap(caplog):
    """Lanes that are not used would pass every test here."""
    yield
    assert not [record for record in caplog.get_records("call") if record.name == batch_last_vmap.__name__]


def both(function, networks, constants=None):
    one_by_one = jax.jit(jax.vmap(function, in_axes=(0, None)))(networks, constants)
    return one_by_one, jax.jit(batch_last_vmap.vmap(function, WIDTH))(networks, constants)


def assert_same(function, networks, constants=None, **tolerance):
    expected, found = both(function, networks, constants)
    assert jax.tree.structure(expected) == jax.tree.structure(found)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, **tolerance)


def matrices(n=5, m=5):
    return jnp.asarray(np.random.default_rng(0).standard_normal((COUNT, n, m)))


@pytest.mark.parametrize(
    "function",
    [
        lambda a, c: a @ a.T + c,
        lambda a, c: jnp.einsum("ij,kj->ki", a, c),  # a product whose right side no network owns
        lambda a, c: c @ a @ c[0],
        lambda a, c: jnp.matmul(a[0], a[1]),  # vectors
        lambda a, c: jnp.tensordot(a, a, 0),  # nothing is summed over
        lambda a, c: jnp.tensordot(a, a, 2),  # two axes are
        lambda a, c: jax.vmap(jnp.dot)(a, a),  # a batch within the network
        lambda a, c: a * jnp.sum(a) + jnp.mean(c),  # a number of each network beside its matrix
        lambda a, c: jnp.where(a[0, 0] > 0, a, c),
        lambda a, c: jnp.where(jnp.max(a) > 1, jnp.exp(a).T.reshape(-1), jnp.arange(25.0)),
        lambda a, c: (jnp.sort(a, axis=0), jnp.argsort(a[0]), jnp.cumsum(a, axis=1), lax.cummax(a, axis=0)),
        lambda a, c: (a[jnp.argmax(a[:, 0])], a[::-1, ::2], jnp.concatenate([a, c, a[:1]]), jnp.diagonal(a)),
        lambda a, c: lax.dynamic_slice(a, (jnp.argmin(a[0]) // 2, 0), (2, 3)),
        lambda a, c: a.at[jnp.argmax(a[0])].set(c[1]),
        lambda a, c: lax.cond(jnp.sum(a) > 0, lambda: a, lambda: c),
        lambda a, c: lax.fori_loop(0, 3, lambda k, v: v @ a / (k + 1), a),
        lambda a, c: lax.while_loop(lambda v: jnp.sum(v[0] * v[0]) < 50, lambda v: (v[0] * 2, v[1] + 1), (a, 0)),
        lambda a, c: lax.scan(lambda v, x: (jnp.tanh(v + x), (v, jnp.sum(x))), c[0], a, reverse=True),
        lambda a, c: lax.scan(lambda v, x: (v + x[0] @ a, x[1]), a[0], (c, jnp.arange(5)), unroll=2),
        lambda a, c: lax.scan(lambda v, _: (v + 1, v), 0, None, length=3),  # nothing of it is a network's
        lambda a, c: jax.jacrev(lambda v: jnp.tanh(a @ v))(c[0]),
        lambda a, c: jax.jvp(ACTIVATIONS["relu"].value, (a,), (c,)),
        lambda a, c: jnp.linalg.qr(a)[1],
        lambda a, c: (c, jnp.ones(3), jnp.int32(2)),
    ],
)
def test_a_function_gives_what_vmap_gives(function):
    assert_same(function, matrices(), jnp.asarray(np.random.default_rng(1).standard_normal((5, 5))), rtol=1e-13)


def test_long_sums_and_networks_of_several_parts():
    networks = {"long": matrices(3, 50), "none": jnp.zeros((COUNT, 4, 0)), "seed": jnp.arange(COUNT, dtype=jnp.uint32)}

    def function(network, _):
        noise = jax.random.normal(jax.random.key(network["seed"]), (4,))
        return network["long"] @ network["long"].T, network["none"] @ jnp.zeros(0) + noise

    assert_same(function, networks, rtol=1e-13)


def norms_of(cell, anchor, norms, network, _):
    params, h0 = network
    trajectory = rollout(cell.step, params, h0, steps=T)
    found = scaled_norms(system_of(cell.step, params, h0, trajectory=trajectory), anchor=anchor, norms=norms)
    return found.log(), found.suspect


@pytest.mark.parametrize(
    ("name", "n", "anchor", "norms"),
    [
        ("tanh", 1, "end", BOTH),
        ("tanh", 16, "end", FROBENIUS),
        ("tanh", 16, "start", BOTH),
        ("relu", 5, "end", BOTH),
        ("relu", 5, "start", FROBENIUS),
        ("leaky_tanh", 7, "start", FROBENIUS),
        ("gru", 4, "end", FROBENIUS),
        ("lstm", 3, "start", BOTH),
    ],
)
def test_norms_are_those_of_networks_one_by_one(name, n, anchor, norms):
    cell = make_cell(name, n)
    keys = jax.vmap(jax.random.key)(jnp.arange(COUNT))
    scales = jnp.linspace(0.3, 1.5, COUNT)
    networks = jax.vmap(
        lambda key, g: (
            cell.init(key, g, bias_scale=0.2, dtype=jnp.float64),
            cell.initial_state(key, dtype=jnp.float64),
        )
    )(keys, scales)
    # the largest singular value is searched to 16 eps of its square
    assert_same(partial(norms_of, cell, anchor, norms), networks, rtol=1e-9, atol=1e-9)


def test_products_that_die_or_leave_the_floats_between_others():
    """Factors whose squares under- and overflow, and zeros: the loop that only some of the networks enter."""
    factors = np.random.default_rng(2).standard_normal((COUNT, T, 5, 5)).astype(np.float32)
    factors[1] *= np.float32(1e-30)
    factors[2] *= np.float32(1e30)
    factors[3, 10] = 0

    def function(series, _):
        def step(_, h, x):
            return x @ h

        trajectory = rollout(step, None, jnp.zeros(5, jnp.float32), series)
        system = system_of(step, None, jnp.zeros(5, jnp.float32), series, trajectory=trajectory)
        return scaled_norms(system).log()["frobenius"]

    expected, found = both(function, jnp.asarray(factors))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=T * 5 * 6e-8)
    assert np.isneginf(found[3, -1])
    assert (np.isneginf(found) == np.isneginf(expected)).all()


def test_neighbours_change_no_bit():
    cell = make_cell("tanh", 6)
    networks = jax.vmap(lambda seed: (cell.init(jax.random.key(seed)), cell.initial_state(jax.random.key(seed))))(
        jnp.arange(COUNT)
    )
    program = jax.jit(batch_last_vmap.vmap(partial(norms_of, cell, "end", ("frobenius",)), WIDTH))
    order = np.random.default_rng(3).permutation(COUNT)
    expected = program(networks, None)
    shuffled = program(jax.tree.map(lambda leaf: leaf[order], networks), None)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a)[order], b), expected, shuffled)


def test_a_block_side_by_side_gives_what_a_block_gives():
    def measure(network, shift):
        return {"product": network["a"] @ network["a"] + shift}

    networks = {"a": np.asarray(matrices())[: COUNT // jax.device_count() * jax.device_count()]}
    shift = np.float64(3)
    one_by_one = blocks.Program(measure)(networks, shift)
    side_by_side = blocks.Program(measure, 2)(networks, shift)
    np.testing.assert_allclose(side_by_side["product"], one_by_one["product"], rtol=1e-13)


def test_a_factor_is_computed_once():
    """Not again for each term of the product, which a ReLU network's slopes are cheap enough for in XLA's eyes."""

    def product(networks, _):
        return jnp.maximum(networks["a"] @ networks["a"], 0) @ networks["a"]

    program = jax.jit(batch_last_vmap.vmap(product, WIDTH)).lower({"a": matrices()}, None).compile().as_text()
    assert program is not None
    assert " call(" in program


def test_only_small_networks_in_single_precision_lie_side_by_side():
    assert [batch_last_width(n, 256) for n in (1, 4, 5, 12, 16, 24, 25)] == [256, 256, 64, 64, 16, 16, 1]
    assert batch_last_width(3, 8) == 8
    assert batch_last_width(3, 256, precision="float64") == batch_last_width(3, 256, backend="gpu") == 1


UNKNOWN = ("scan", "while", "dot_general", "broadcast_in_dim", "mul", "transpose", "reshape")


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_operation_with_a_parameter_that_is_not_known_is_left_to_vmap(name, monkeypatch):
    monkeypatch.setitem(batch_last_vmap._KNOWN, name, set())
    if name in ("mul",):  # has none in JAX 0.10
        monkeypatch.delitem(batch_last_vmap._KNOWN, name)

    def function(a, c):
        loop = lax.while_loop(lambda v: jnp.sum(v * v) < 50, lambda v: 2 * v, a[0])
        return lax.scan(lambda v, x: (jnp.tanh(v @ a + x), v), c[0], a), loop, (a.T * 2).reshape(-1)

    assert_same(function, matrices(), jnp.ones((5, 5)), rtol=1e-13)


def test_an_ensembles_products_are_written_out_for_every_network():
    """As `jax.vmap` never does; inside `jax.shard_map` too, where JAX gives more parameters."""
    cell = make_cell("tanh", 16)
    keys = jax.vmap(jax.random.key)(jnp.arange(2 * WIDTH * jax.device_count()))
    networks = jax.vmap(lambda key: (cell.init(key), cell.initial_state(key)))(keys)
    program = blocks.Program(partial(norms_of, cell, "end", FROBENIUS), WIDTH)
    leaves, tree = jax.tree.flatten(networks)
    assert " dot(" not in str(program._compiled.lower(tree, leaves, None).compile().as_text())


def test_a_parameter_that_is_not_known_is_seen():
    assert batch_last_vmap._is_supported("transpose", {"permutation": (1, 0)})
    assert not batch_last_vmap._is_supported("transpose", {"permutation": (1, 0), "direction": "left"})
    assert not batch_last_vmap._is_supported(
        "reshape", {"dimensions": None, "new_sizes": (1,), "sharding": "of a mesh"}
    )
    assert not batch_last_vmap._is_supported("conv", {})


def test_a_program_that_is_written_in_a_way_that_is_not_known_is_left_to_vmap(monkeypatch, caplog):
    def refuse(*_):
        raise KeyError("num_consts")

    monkeypatch.setattr(batch_last_vmap, "_evaluated", refuse)
    assert_same(lambda a, c: (jnp.tanh(a @ c), a[0]), matrices(), jnp.ones((5, 5)), rtol=1e-13)
    assert "cannot be run in vector lanes" in caplog.text
    caplog.clear()


def test_an_error_of_the_function_is_its_own():
    with pytest.raises(ValueError, match="of the function"):
        batch_last_vmap.vmap(lambda a, c: (_ for _ in ()).throw(ValueError("of the function")), WIDTH)(matrices(), None)


def test_the_environment_turns_lanes_off(monkeypatch):
    assert batch_last_width(8, 64) > 1
    monkeypatch.setenv("GRADIENT_HORIZON_LANES", "0")
    assert batch_last_width(8, 64) == 1
