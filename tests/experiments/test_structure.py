"""A number that changes neither a shape nor the code is an argument of the compiled programs, not a part of them."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from compilations import programs

from gradient_horizon import make_cell
from gradient_horizon.experiments import measure
from gradient_horizon.experiments.networks import draw_of
from gradient_horizon.experiments.structure import joined, parted
from gradient_horizon.experiments.training import spec_of
from gradient_horizon.settings.validation import checked

SMALL = {"hidden_size": 3, "steps": 5, "seeds": 1, "weight_scales": [0.5], "bias_scale": 0.5}
DRAWN = {"weight_scales": [0.7], "bias_scale": 0.25, "state_scale": 0.3}
DRIVEN = {**DRAWN, "input_scale": 0.9, "noise_scale": 0.3}
LEARNING = {
    "task": "delayed_xor",
    "steps": 6,
    "batch_size": 2,
    "test_size": 2,
    "updates": 2,
    "record_every": 1,
    "learning_rates": [0.1],
    "clip_thresholds": [0.5],
}
LEARNT = {
    "weight_scales": [0.7],
    "bias_scale": 0.25,
    "input_scale": 0.9,
    "output_scale": 0.3,
    "solved_below": 0.3,
    "learning_rates": [0.2],
    "clip_thresholds": [0.1],
    "updates": 4,
    "record_every": 2,
}
# experiment: what it measures first; then one setting after the other that must not compile anything
SWEPT = {
    "jacobian": ({"cell": "leaky_tanh", "inputs": "noise"}, {**DRIVEN, "leak": 0.3, "horizon_threshold": 0.1}),
    "jacobian-lstm": ({"cell": "lstm"}, {**DRAWN, "forget_bias": 1.5}),
    "lyapunov": ({"cell": "leaky_tanh"}, {**DRAWN, "leak": 0.3}),
    "singular_values": ({"cell": "leaky_tanh"}, {**DRAWN, "leak": 0.3}),
    "pairs": ({"cell": "leaky_tanh"}, {**DRAWN, "leak": 0.3}),
    "nodes": ({"cell": "tanh"}, DRAWN),
    "input_gradients": ({"cell": "leaky_tanh", "inputs": "noise"}, {**DRIVEN, "leak": 0.3}),
    "transient": ({"cell": "leaky_tanh"}, {**DRAWN, "leak": 0.3}),
    "fixed_points": ({"cell": "leaky_tanh", "starts": 4}, {**DRAWN, "leak": 0.3}),
    "notes": ({}, {"weight_scales": [0.7]}),
    "training": ({**LEARNING, "cell": "tanh", "omega": 1.0}, {**LEARNT, "omega": 0.3}),
    "training-leaky": (
        {**LEARNING, "cell": "leaky_tanh", "floss_updates": 1, "floss_every": 1},
        {**LEARNT, "leak": 0.3, "floss_updates": 3, "floss_rate": 0.01, "floss_every": 2},
    ),
    "training-lstm": ({**LEARNING, "cell": "lstm"}, {**LEARNT, "forget_bias": 1.5}),
}


@pytest.mark.parametrize("name", SWEPT)
def test_no_number_of_a_setting_is_compiled_into_a_program(name):
    first, others = SWEPT[name]
    settings = {"experiment": name.partition("-")[0], **SMALL, **first}

    def compiled(**changed):
        with jax.numpy_dtype_promotion("standard"):  # for optax's Adam, in flossing
            return programs(lambda: measure(checked({**settings, **changed}), lambda _: None))

    assert compiled() > 0
    assert {key: compiled(**{key: value}) for key, value in others.items()} == dict.fromkeys(others, 0)


def test_what_takes_code_away_is_another_program():
    """A leak of 1, no regulariser, no flossing, none during training."""
    assert parted(make_cell("leaky_tanh", 3, leak=1.0))[0] != parted(make_cell("leaky_tanh", 3, leak=0.9))[0]
    training = {"experiment": "training", **SMALL, **LEARNING, "cell": "tanh", "floss_updates": 1}
    one = parted(spec_of(checked(training)))[0]
    for key, value in {"omega": 0.5, "floss_every": 2, "floss_updates": 0}.items():
        assert parted(spec_of(checked({**training, key: value})))[0] != one, key


@pytest.mark.parametrize("cell", ["tanh", "leaky_tanh", "lstm"])
def test_a_tree_is_put_together_again(cell):
    config = checked({**SMALL, "cell": cell, "leak": 0.1, "forget_bias": -0.7, "noise_scale": 1 / 3})
    training = checked({"experiment": "training", **SMALL, **LEARNING, "cell": cell, "floss_updates": 3})
    made = make_cell(cell, 3, 2, leak=0.1, forget_bias=-0.7)
    for tree in (draw_of(config), made, spec_of(training)):
        structure, numbers = parted(tree)
        assert numbers.dtype == np.float64  # no setting loses a digit before it is cast to the precision of the run
        assert joined(structure, numbers) == tree
        assert hash(structure) == hash(parted(tree)[0])


@pytest.mark.parametrize("leak", [0.1, 0.9, 1 / 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_leak_that_is_an_argument_changes_no_bit(leak, dtype):
    """1 - leak is taken in float64 and rounded once, as that of a constant is."""
    cell = make_cell("leaky_tanh", 7, leak=leak)
    key = jax.random.key(0)
    params, h = cell.init(key, dtype=dtype), cell.initial_state(key, dtype=dtype)
    as_argument = jax.jit(lambda cell, params, h: cell.step(params, h))(cell, params, h)
    as_constant = jax.jit(cell.step)(params, h)
    assert as_argument.dtype == as_constant.dtype == dtype
    np.testing.assert_array_equal(as_argument, as_constant)


MANY_JOBS = """
import sys
from pathlib import Path
from gradient_horizon.ensembles import process
process.prepare_own(devices=1, compile_cache=False)
from gradient_horizon.commands import sweep

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

jobs = ["bias_scale=range(0.001,0.3505,0.001)", "hidden_size=4", "steps=4", "seeds=1", "quick_look=false"]
plan = sweep.plan([*jobs, f"output={sys.argv[1]}", "name=many"], multirun=True)
sweep.prepare_folder(plan)
print(len(plan.jobs))
for part in (plan.jobs[:50], plan.jobs[50:]):
    assert not sweep.run(part, lambda job: lambda networks: None).failed
    print(resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process as Linux tells it")
def test_the_jobs_of_a_swept_scalar_leave_nothing_in_memory(tmp_path):
    told = subprocess.run(
        [sys.executable, "-c", MANY_JOBS, str(tmp_path)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    jobs, few, many = map(int, told.split())
    assert jobs == 350
    assert many < 1.05 * few
