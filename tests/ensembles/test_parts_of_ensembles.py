"""What `gh.ensemble` is made of: the choice of lanes, blocks in threads, options of single programs, levels of care."""

import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import make_cell
from gradient_horizon.ensembles import blocks, process
from gradient_horizon.ensembles.arguments import arguments_of
from gradient_horizon.ensembles.lanes import gains_from_lanes
from gradient_horizon.numerics.fallback import postponed, with_care
from gradient_horizon.numerics.xla import reduces

N = 6
W, H = jnp.ones((N, N), jnp.float32), jnp.ones(N, jnp.float32)


def residual(params, h, x):
    return h + jnp.tanh(params @ ((h - h.mean()) / jnp.sqrt(h.var() + 1e-5)))


def looped(params, h, x):
    return jax.lax.fori_loop(0, 2, lambda _, h: jnp.tanh(params @ h), h)


@pytest.mark.parametrize(
    ("step", "gains"),
    [
        (lambda w, h, x: jnp.tanh(w @ h), True),
        (lambda w, h, x: 0.9 * h + 0.1 * jnp.sin(w @ h + 2.0), True),
        (lambda w, h, x: jax.nn.relu(w @ h), True),
        (lambda w, h, x: jnp.tanh(w @ h + jnp.sum(w)), True),  # a sum of parameters is none of the state
        (lambda w, h, x: jnp.tanh(w @ jnp.tanh(w @ h)), False),
        (residual, True),  # of 6 entries
        (looped, False),
    ],
)
def test_lanes_are_for_one_short_product_and_arithmetic_on_entries(step, gains):
    assert gains_from_lanes(step, W, H, None) is gains


@pytest.mark.parametrize("name", ["tanh", "relu", "gru", "lstm"])
def test_lanes_are_shared_by_the_cells_that_a_sweep_lets_share_them(name):
    cell = make_cell(name, N)
    key = jax.random.key(0)
    params, h0 = cell.init(key), cell.initial_state(key)
    assert gains_from_lanes(cell.step, params, h0, None) is (name in ("tanh", "relu"))


def test_rows_longer_than_the_lanes_are_not_shared():
    assert not gains_from_lanes(lambda w, h, x: jnp.tanh(w @ h), jnp.ones((40, 40)), jnp.ones(40), None)
    assert not gains_from_lanes(residual, jnp.ones((16, 16)), jnp.ones(16), None)


def test_chunks_in_threads_come_in_order_with_the_same_numbers():
    seen = set()

    class Stage(blocks.Program):
        def __call__(self, networks, constants):
            seen.add(threading.get_ident())
            return super().__call__(networks, constants)

    stage = Stage(lambda network, _: network * network)
    networks = np.arange(50, dtype=np.float32)
    rows, values = zip(*blocks.map_blocks([stage], 2, networks, threads=2), strict=True)
    assert [part.start for part in rows] == list(range(0, 50, 2 * jax.device_count()))
    np.testing.assert_array_equal(np.concatenate(values), networks**2)
    assert len(seen) > 1


def test_an_error_in_a_thread_is_the_callers():
    class Failing(blocks.Program):
        def __call__(self, networks, constants):
            if networks[0] > 20:
                raise RuntimeError("here")
            return super().__call__(networks, constants)

    with pytest.raises(RuntimeError, match="here"):
        list(blocks.map_blocks([Failing(lambda network, _: network)], 2, np.arange(50.0), threads=2))


def test_a_program_sets_the_flags_that_the_environment_does_not(monkeypatch):
    assert process.compiler_options() == {}, "prepared processes have them all"
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    options = process.compiler_options()
    assert "xla_cpu_multi_thread_eigen" not in options
    assert "xla_backend_extra_options" not in options
    assert options["xla_cpu_scheduler_type"] == "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=true"


def test_levels_of_care_replace_quick_results_one_after_the_other():
    def third(x):
        return with_care(x > 2, x, lambda x: x + 300, x)

    def second(x):
        return with_care(x > 1, x + 10, third, x)

    def first(x):
        return with_care(x > 0, x + 1, lambda x: second(x), x)

    def at(care, x):
        with postponed(care) as suspicions:
            result = jax.jit(lambda x: (first(x), [*suspicions]))(jnp.asarray(x))
        return int(result[0]), [bool(flag) for flag in result[1]]

    assert at(0, 3) == (4, [True])
    assert at(0, 0) == (1, [False])
    assert at(1, 3) == (13, [True])
    assert at(2, 3) == (3, [True])
    assert at(3, 3) == (303, [])


def test_leaves_are_sorted_by_whether_each_network_has_its_own():
    params = {"W": np.zeros((4, 2, 5, 3)), "rate": 0.5, "b": np.zeros(3), "none": None}
    in_axes = ({"W": 1, "rate": None, "b": None, "none": None}, None, None)
    (of_params, of_state, of_inputs), shape = arguments_of((params, np.zeros(3), None), in_axes, 2, None)
    assert shape == (2, 5)
    assert [leaf.shape for leaf in of_params.own] == [(10, 4, 3)]
    assert [leaf.shape for leaf in of_params.shared] == [(3,)]
    assert of_params.fixed.values == (0.5,)
    assert (of_state.own, of_inputs.own, of_inputs.shared) == ([], [], [])
    network = of_params.fixed.joined([of_params.own[0][3]], of_params.shared)
    assert network["rate"] == 0.5
    assert network["none"] is None
    assert network["W"].shape == (4, 3)


def test_a_layer_normalisation_reduces_and_a_cell_does_not():
    assert reduces(lambda h: residual(W, h, None), H)
    assert reduces(lambda h: h / jnp.sqrt(h.var() + 1), H)  # within a function that JAX has jitted
    assert not reduces(lambda h: jnp.tanh(W @ h), H)
