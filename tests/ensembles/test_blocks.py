"""A network's result depends on its own seed and settings alone, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from gradient_horizon import make_cell, names
from gradient_horizon.ensembles import blocks, map_networks
from gradient_horizon.experiments.jacobian import measure
from gradient_horizon.settings import validation

SQUARES = blocks.Program(lambda network, shift: {"square": network["x"] * network["x"] + shift})


def measured(**values) -> xr.Dataset:
    return measure(validation.checked({"steps": 30, "anchors": ["end", "start"], **values}), lambda _: None)


def assert_same_bytes(part: xr.Dataset, whole: xr.Dataset) -> None:
    """Every variable of every network of `part` stands in `whole`, in the same bits."""
    for name, variable in part.data_vars.items():
        other = whole[name].sel({dim: part[dim] for dim in variable.dims})
        assert variable.values.tobytes() == other.values.tobytes(), name


@pytest.mark.parametrize(
    ("cell", "size", "more"),
    [
        ("tanh", 8, {"inputs": "noise"}),
        ("relu", 33, {"weights": "orthogonal", "bias_scale": 0.1}),
        ("tanh", 33, {"weights": "sparse", "precision": "float64"}),
    ],
)
def test_the_company_of_a_network_does_not_change_a_bit_of_it(cell, size, more):
    scales, seeds = [0.5, 1.0, 1.3, 2.5], list(range(11))
    same = {"cell": cell, "hidden_size": size, **more}
    whole = measured(**same, weight_scales=scales, seeds=seeds)
    for company in (
        {"weight_scales": [1.3], "seeds": [7]},
        {"weight_scales": [2.5, 0.5], "seeds": [10, 3, 0]},
        {"weight_scales": [1.3, 2.0, 1.0, 7.0, 0.9], "seeds": [99, 7, 5, 4, 2**32 - 1]},
    ):
        part = measured(**same, **company)
        shared = {
            "weight_scale": [scale for scale in company["weight_scales"] if scale in scales],
            "seed": [seed for seed in company["seeds"] if seed in seeds],
        }
        assert_same_bytes(part.sel(shared), whole)


ON_DEVICES = """
import hashlib, sys
from gradient_horizon.ensembles import process
process.prepare_own(devices=int(sys.argv[1]), compile_cache=False)
import jax
from gradient_horizon.settings import validation
from gradient_horizon.experiments.jacobian import measure
assert jax.device_count() == int(sys.argv[1])
values = {"cell": "tanh", "hidden_size": 33, "steps": 30, "seeds": 21, "weight_scales": [0.9, 1.7], "inputs": "noise"}
dataset = measure(validation.checked(values), lambda _: None)
for name in sorted(dataset.data_vars):
    print(name, hashlib.sha256(dataset[name].values.tobytes()).hexdigest())
"""


def test_the_number_of_devices_does_not_change_a_bit():
    # a value in the environment goes before prepare's own
    environment = {key: value for key, value in os.environ.items() if key != "JAX_NUM_CPU_DEVICES"}
    told = [
        subprocess.run(
            [sys.executable, "-c", ON_DEVICES, str(devices)],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        for devices in (1, 2, 4)
    ]
    assert "log_norm" in told[0]
    assert told[0] == told[1] == told[2]


def test_a_network_that_overflows_is_flagged_and_disturbs_no_other():
    # (with a bias, since without it the state of a ReLU network is scaled)
    same = {"cell": "relu", "hidden_size": 8, "anchors": ["end"], "bias_scale": 0.1, "inputs": "none"}
    seeds, scales, huge = list(range(6)), [0.5, 1.5], 1000.0
    together = measured(**same, seeds=seeds, weight_scales=[0.5, huge, 1.5])
    assert_same_bytes(measured(**same, seeds=seeds, weight_scales=scales), together)
    assert together.finite.sel(weight_scale=scales).all()
    assert (together.first_bad_step.sel(weight_scale=scales) == -1).all()

    cell = make_cell("relu", 8)
    for seed in seeds:
        key = jax.random.key(np.uint32(seed))
        params = cell.init(key, huge, bias_scale=0.1)
        matrix, bias, state = np.asarray(params.recurrent), np.asarray(params.bias), np.asarray(cell.initial_state(key))
        bad = -1
        with np.errstate(over="ignore", invalid="ignore"):
            for t in range(1, 31):
                state = np.maximum(matrix @ state + bias, 0)
                if not np.isfinite(state).all():
                    bad = t
                    break
        network = together.sel(weight_scale=huge, seed=seed)
        # added in another order, a sum near the largest float may overflow a step sooner or later
        assert abs(int(network.first_bad_step) - bad) <= 1
        assert bool(network.finite) == (bad < 0)
        assert (str(network.horizon_kind.values) == "nonfinite") == (bad > 0)
    assert not together.finite.sel(weight_scale=huge).all()


@pytest.mark.parametrize("size", [1, 3])
def test_dead_units_give_minus_infinity_and_never_nan(size):
    same = {"cell": "relu", "hidden_size": size, "seeds": 40, "weight_scales": [0.5, 1.0], "norms": list(names.NORMS)}
    found = measured(**same)
    for name in ("log_norm", "log_norm_from_start"):
        values = found[name]
        assert not values.isnull().any()
        dead = values == -np.inf
        assert 0 < int(dead.isel(lag=-1).sum()) < dead.isel(lag=-1).size
        # once a product is 0 it stays 0
        assert (dead.astype(int).diff("lag") >= 0).all()
    assert found.finite.all()
    exact = measured(**{**same, "precision": "float64", "anchors": ["end"]})
    np.testing.assert_array_equal(np.isneginf(found.log_norm), np.isneginf(exact.log_norm))
    for dataset in (found, exact):
        assert 0 <= dataset.attrs["products_with_exponents"] <= 80


@given(st.integers(1, 40), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_blocks_cover_every_network_once(total, block):
    networks = {"x": np.arange(total, dtype=np.float32)}
    reported: list[float] = []
    chunks = blocks.map_blocks([SQUARES], block, networks, jnp.float32(0.5))
    found = blocks.gather(chunks, total, reported.append)
    np.testing.assert_array_equal(found["square"], np.arange(total, dtype=np.float32) ** 2 + 0.5)
    assert sum(reported) == total


def test_every_ensemble_of_weights_runs_on_two_devices_without_waiting_for_itself():
    program = Path(__file__).parents[1] / "ensemble_programs.py"
    environment = {key: value for key, value in os.environ.items() if key != "JAX_NUM_CPU_DEVICES"}
    ran = subprocess.run([sys.executable, str(program)], env=environment, check=True, stdout=subprocess.PIPE, text=True)
    assert tuple(ran.stdout.split()) == names.WEIGHTS


def test_no_array_without_entries_is_given_to_the_devices():
    """As U of a network without inputs is: not every jaxlib takes one."""

    def measure(network, constants):
        return {**network, "sum": network["full"].sum() + constants[1] + constants[0].sum()}

    networks = {"empty": np.zeros((4, 3, 0), np.float32), "full": np.arange(8, dtype=np.float32).reshape(4, 2)}
    constants = np.zeros((0, 2), np.float32), np.float32(10)
    program = blocks.Program(measure)
    found = program(networks, constants)
    assert found["empty"].shape == (4, 3, 0)
    assert found["empty"].dtype == np.float32
    np.testing.assert_array_equal(found["full"], networks["full"])
    np.testing.assert_array_equal(found["sum"], [11, 15, 19, 23])
    (jitted,) = jax.make_jaxpr(program)(networks, constants).eqns
    (mapped,) = (equation for equation in jitted.params["jaxpr"].eqns if equation.primitive.name == "shard_map")
    assert len(mapped.invars) == 2
    assert all(np.prod(atom.aval.shape) > 0 for atom in mapped.invars)


@pytest.mark.parametrize("total", [1, 5, 700])
def test_map_networks_gives_each_network_what_the_measure_gives_for_it_alone(total):
    rng = np.random.default_rng(total)
    networks = {"W": rng.integers(-9, 9, (total, 3, 3)).astype(np.float32), "h": np.arange(total, dtype=np.float64)}

    def measure(network):
        return network["W"] @ network["W"], {"twice": 2 * network["h"]}

    squares, others = map_networks(measure, networks)
    assert isinstance(squares, np.ndarray)
    np.testing.assert_array_equal(squares, networks["W"] @ networks["W"])
    np.testing.assert_array_equal(others["twice"], 2 * networks["h"])
    assert others["twice"].dtype == np.float64


def test_map_networks_compiles_a_program_once_and_a_function_at_every_call():
    traced = []

    def measure(network):
        traced.append(network)
        return network + 1

    program = blocks.Program(lambda network, _: measure(network))
    for _ in range(3):
        np.testing.assert_array_equal(map_networks(program, np.arange(5.0), block=2), np.arange(5.0) + 1)
    assert len(traced) == 1
    for _ in range(2):
        map_networks(measure, np.arange(5.0))
    assert len(traced) == 3


def test_a_network_has_the_same_bits_whatever_other_networks_are_mapped():
    weights = np.random.default_rng(0).standard_normal((40, 8, 8), np.float32)

    def measure(matrix):
        return jnp.linalg.norm(matrix @ matrix @ matrix)

    whole = map_networks(measure, weights)
    assert map_networks(measure, weights[3:11]).tobytes() == whole[3:11].tobytes()


@pytest.mark.parametrize(
    ("networks", "lengths"),
    [
        ({"W": np.zeros((3, 2)), "h": np.zeros(4)}, r"\[3, 4\]"),
        ({"W": np.zeros((0, 2))}, r"\[0\]"),
        ({"W": np.zeros((3, 2)), "scale": 1.0}, r"\[0, 3\]"),
        ({}, r"\[\]"),
    ],
)
def test_map_networks_refuses_what_are_not_arrays_of_networks(networks, lengths):
    with pytest.raises(ValueError, match=rf"networks: leading axes {lengths}; allowed: one number"):
        map_networks(lambda network: network, networks)
