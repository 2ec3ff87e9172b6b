"""The experiment holds what the library measures on the same networks, and refuses settings that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import experiments, henrici_departure, transient_growth
from gradient_horizon.cells import make_cell
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings.validation import checked

SETTINGS = {"hidden_size": 5, "steps": 60, "aligning": 20, "jacobians": 4, "seeds": 2, "precision": "float64"}


def measured(**settings):
    return experiments.measure(checked({"experiment": "transient", **SETTINGS, **settings}), lambda _: None)


def test_each_network_is_measured_as_by_itself():
    found = measured(weight_scales=[0.7, 1.8])
    cell, key = make_cell("tanh", 5), jax.random.key(1)
    for scale in (0.7, 1.8):
        params = cell.init(key, scale, dtype=jnp.float64)
        h0 = cell.initial_state(key, dtype=jnp.float64)
        alone = transient_growth(cell.step, params, h0, steps=60, transient=20, samples=4)
        at = found.sel(seed=1, weight_scale=scale)
        # the same states to rounding, which 60 steps of a network of 5 units do not amplify beyond 1e-8
        for name in ("log_overshoot", "log_overshoot_bound", "log_peak", "henrici_mean", "henrici_max"):
            assert float(at[name]) == pytest.approx(float(getattr(alone, name)), abs=1e-8), name
        assert float(at.largest_exponent) == pytest.approx(float(alone.exponent), abs=1e-8)
        assert int(at.overshoot_lag) == int(alone.overshoot_lag)
        assert int(at.parallelisable) == int(alone.parallelisable)
        of_w = henrici_departure(params.recurrent).relative
        assert float(at.henrici_of_w) == pytest.approx(float(of_w), abs=1e-13)
    assert all({"long_name", "units"} <= set(variable.attrs) for variable in found.data_vars.values())
    # departure relative to ‖W‖_F does not depend on the scale
    np.testing.assert_allclose(*found.henrici_of_w.transpose("weight_scale", "seed").values, atol=1e-13)


@pytest.mark.parametrize("cell", ["gru", "lstm", "relu"])
@pytest.mark.slow
def test_other_cells_and_inputs(cell):
    found = measured(cell=cell, inputs="noise", weight_scales=[0.5])
    assert bool(found.finite.all())
    assert (found.log_overshoot >= 0).all()
    assert (found.log_overshoot <= found.log_overshoot_bound).all()


def test_the_usual_alignment_is_a_quarter_of_the_steps():
    assert checked({"experiment": "transient", "steps": 100}).aligning == 25
    assert checked({"experiment": "transient", "steps": 4000}).aligning == 300
    with pytest.raises(SettingError, match="aligning: 50 is not allowed; allowed: less than steps=50"):
        checked({"experiment": "transient", "steps": 50, "aligning": 50})
    with pytest.raises(SettingError, match="jacobians: -1 is not allowed"):
        checked({"experiment": "transient", "jacobians": -1})
