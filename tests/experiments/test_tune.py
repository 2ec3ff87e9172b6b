"""Critical values that are known in closed form, the search for them, and what `gradient-horizon tune` prints."""

import inspect
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import run_here
from scipy import stats

import gradient_horizon as gh
from gradient_horizon.cells.cell import make_cell
from gradient_horizon.commands.tune import lines_of
from gradient_horizon.experiments import measure
from gradient_horizon.experiments.bracketing import Bracket, Search, certain_counts
from gradient_horizon.experiments.tune import config_of, tune, with_value
from gradient_horizon.names.rules import SettingError
from gradient_horizon.theory.one_unit import lstm_forget_log_norm

T, DECADES = 60, 3
RATE = DECADES * math.log(10) / T  # |log β| of a gradient that changes by a factor of a thousand in T steps
SMALL: dict[str, Any] = {"hidden_size": 4, "seeds": 6}


def brackets(found, value, resolution=1e-3):
    """Whether `value` lies within the bracket, which is as narrow as it should be."""
    low, high = sorted(found.bracket)
    return low <= value <= high and found.value in (low, high) and high - low <= resolution * 1.001


class TestClosedForms:
    def test_the_forget_bias_of_an_lstm_without_weights(self):
        """∂c_T/∂c_0 = σ(b)^T, so the critical b solves -T log σ(b) = 3 log 10; all seeds agree."""
        found = tune("lstm", T, "forget_bias", weight_scale=0.0, block="cell", **SMALL)
        critical = -math.log(math.expm1(RATE))
        assert lstm_forget_log_norm(critical, T) == pytest.approx(-DECADES * math.log(10))
        assert brackets(found, critical)
        assert found.value >= critical
        assert (found.verdict, found.counts) == ("found", {"vanished": 0, "exploded": 0, "beyond": 6, "nonfinite": 0})
        assert (found.lower, found.upper) == found.bracket
        assert found.unsteady == 0
        # horizons at the values tried are those of the law, so a larger bias never shortens one
        law = np.floor(DECADES * math.log(10) / np.logaddexp(0.0, -found.values)) + 1
        np.testing.assert_allclose(
            found.lags, np.broadcast_to(np.minimum(law, T + 1)[:, None], found.lags.shape), atol=1
        )

    @pytest.mark.parametrize(("kind", "critical"), [("vanished", math.exp(-RATE)), ("exploded", math.exp(RATE))])
    def test_the_two_weight_scales_of_an_orthogonal_network(self, kind, critical):
        """‖M‖ / √n = g^lag."""
        found = tune("linear", T, "weight_scale", kind=kind, weights="orthogonal", **SMALL)
        assert brackets(found, critical, 1e-3 * critical)
        assert found.value >= critical if kind == "vanished" else found.value <= critical
        assert found.counts["beyond"] == 6

    @pytest.mark.slow
    def test_the_leak_of_a_network_without_weights(self):
        """∂h_T/∂h_0 = (1 - leak)^T: the smallest leaks pass, and the search runs downwards."""
        found = tune(make_cell("leaky_tanh", 4), T, "leak", weight_scale=0.0, seeds=6)
        critical = -math.expm1(-RATE)
        assert brackets(found, critical, 1e-3 * critical)
        assert found.value <= critical
        assert found.verdict == "found"

    def test_a_factory(self):
        """One unit h ← v h with an input that does not matter; two critical v of either sign are found in turn."""

        def factory(value):
            draw = lambda key: jnp.zeros((T, 1), jnp.float32)  # noqa: E731
            return (lambda v, h, x: v * h + x), (lambda key: value), (lambda key: jnp.ones(1, jnp.float32)), draw

        found = tune(factory, T, "v", bounds=(-2.0, 2.0), seeds=3)
        assert brackets(found, -math.exp(-RATE), 4e-3)  # below it the gradient explodes, above it vanishes
        assert found.value <= -math.exp(-RATE)
        assert len(found.crossings) == 2
        low, high = sorted(found.crossings[1])
        assert low <= math.exp(-RATE) <= high
        assert (found.lower, found.upper) == (-math.inf, math.inf)  # three seeds say nothing at 95 %
        assert found.unsteady == 3


def scalar_factory(gain):
    """One unit h ← gain(value) h, whose horizon is known."""

    def factory(value):
        return (lambda v, h, x: v * h), (lambda key: gain(value, key)), lambda key: jnp.ones(1, jnp.float32)

    return factory


@pytest.mark.parametrize("kind", ["vanished", "exploded"])
def test_networks_that_are_not_finite_never_pass_and_have_a_count_of_their_own(kind):
    """h ← √(value - 1) h: NaN below 1, vanishes from there to 1 + e^-2RATE, and explodes from 1 + e^2RATE = 2.26 on."""
    factory = scalar_factory(lambda value, key: jnp.sqrt(value - 1))
    found = tune(factory, T, "v", kind=kind, bounds=(0.5, 2.0), seeds=3)
    assert brackets(found, 1 + math.exp(-2 * RATE) if kind == "vanished" else 1.0, 1.5e-3)
    nan = found.kinds[found.values < 1]
    assert (nan == gh.HorizonKind.NONFINITE).all()
    nowhere = tune(factory, T, "v", kind=kind, bounds=(0.5, 0.9), seeds=3)
    assert nowhere.verdict == "nowhere"
    assert nowhere.counts == {"vanished": 0, "exploded": 0, "beyond": 0, "nonfinite": 3}
    said = lines_of(nowhere)
    assert "0 networks reach, 0 vanish, 0 explode, 3 are not finite" in said[1]
    assert said[2] == f"gradients that are not finite count as {kind}"


def test_what_is_said_is_true_of_any_level():
    """Of ten networks h ← value h, seeds 0 to 2 are h ← 0: at most 70 % pass."""
    factory = scalar_factory(lambda value, key: jnp.where(jax.random.key_data(key)[-1] < 3, 0.0, value))
    found = tune(factory, T, "v", bounds=(0.5, 1.0), seeds=10, level=0.7)
    assert brackets(found, math.exp(-RATE), 0.5e-3)
    said = lines_of(found)
    assert said[1] == (
        f"there, over {T} steps, 7 networks reach, 3 vanish, 0 explode; quantile 0.3 of the horizons 1 (vanished) to "
        f"> {T}; at {found.bracket[0]!r} fewer than 70 % have not vanished"
    )
    said = lines_of(tune(factory, T, "v", bounds=(0.5, 1.0), seeds=10, level=0.8))
    assert said[0].startswith(
        "v: no value found: more than 20 % of the gradients have vanished within 60 steps at every"
    )
    assert "quantile 0.2 of the horizons 1 (vanished)" in said[1]
    half = lines_of(tune(factory, T, "v", bounds=(0.5, 1.0), seeds=10))
    assert f"median horizon > {T}; at" in half[1]
    assert half[1].endswith("fewer than half have not vanished")


def test_the_resolution_for_a_factory_is_relative_to_its_bounds():
    factory = scalar_factory(lambda value, key: 1e6 * value)
    seeds: Any = np.arange(2)
    found = tune(factory, T, "v", bounds=(5e-7, 1.1e-6), seeds=seeds)
    assert brackets(found, 1e-6 * math.exp(-RATE), 0.6e-9)


def test_where_there_is_no_such_value_it_says_on_which_side():
    arguments: dict[str, Any] = {"weight_scale": 0.0, "block": "cell", "bounds": (-3.0, 0.0), **SMALL}
    nowhere = tune("lstm", T, "forget_bias", **arguments)
    assert math.isnan(nowhere.value)
    assert (nowhere.verdict, nowhere.closest) == ("nowhere", 0.0)
    assert nowhere.counts["vanished"] == 6
    everywhere = tune("lstm", T, "forget_bias", kind="exploded", **arguments)
    assert (everywhere.verdict, everywhere.crossings) == ("everywhere", ())


def test_the_horizons_are_those_of_a_run_at_that_value():
    config = config_of("tanh", T, "weight_scale", **SMALL)
    found = tune("tanh", T, "weight_scale", **SMALL)
    place = int(np.flatnonzero(found.values == found.value)[0])
    measured = measure(with_value(config, "weight_scale", found.value), lambda _: None)
    np.testing.assert_array_equal(measured.horizon.values[0], found.lags[place])
    least = math.ceil(0.5 * 6)
    assert np.sum(found.kinds[place] != gh.HorizonKind.VANISHED) >= least
    failing = int(np.flatnonzero(found.values == found.bracket[0])[0])
    assert np.sum(found.kinds[failing] != gh.HorizonKind.VANISHED) < least


class TestSearch:
    def search(self, crossings, low=0.0, high=10.0, resolution=1e-3, log=False):
        """Networks that each pass from their own value on."""
        crossings = np.asarray(crossings)
        found = Search(lambda value: int(np.sum(crossings <= value)), len(crossings), low, high, resolution, log)
        found.scan()
        return found

    @pytest.mark.parametrize(("low", "log"), [(0.0, False), (0.1, True)])
    @pytest.mark.parametrize("seeds", [6, 15, 16, 40])
    def test_the_interval_is_that_of_the_order_statistics(self, seeds, low, log):
        crossings = np.sort(np.random.default_rng(seeds).uniform(1.0, 9.0, seeds))
        found = self.search(crossings, low=low, log=log)
        least = math.ceil(seeds / 2)
        bracket = found.narrowed(found.brackets(least)[0], least)
        assert bracket.failing < crossings[least - 1] <= bracket.passing
        lower, upper = found.interval(bracket, 0.5)
        # the sign test: the k-th smallest and the k-th largest, with P(Bin(S, ½) < k) ≤ 0.025
        k = int(stats.binom.ppf(0.025, seeds, 0.5))
        assert stats.binom.cdf(k - 1, seeds, 0.5) <= 0.025 < stats.binom.cdf(k, seeds, 0.5)
        width = 1e-3 * (crossings[-1] if log else 1)
        assert crossings[k - 1] - width <= lower < crossings[k - 1]
        assert crossings[seeds - k] <= upper <= crossings[seeds - k] + width
        assert len(found.counts) < 70

    @pytest.mark.parametrize(("total", "share"), [(1, 0.5), (5, 0.5), (6, 0.5), (16, 0.9), (1000, 0.3)])
    def test_the_certain_counts_are_those_of_the_binomial_test(self, total, share):
        few, many = certain_counts(total, share)
        below, above = stats.binom.cdf(np.arange(-1, total + 1), total, share), stats.binom.sf
        assert few == np.flatnonzero(below <= 0.025)[-1] - 1
        assert many == next((k for k in range(total + 2) if above(k - 1, total, share) <= 0.025), None)

    def test_values_have_few_digits_and_downwards_is_a_way_too(self):
        found = Search(lambda value: int(value < math.pi) * 9, 9, 0.0, 10.0, 1e-3)
        found.scan()
        bracket = found.narrowed(found.brackets(5)[0], 5)
        assert bracket.passing < math.pi <= bracket.failing
        assert max(len(f"{value!r}") for value in found.counts) <= 6
        assert found.interval(bracket, 0.5) == (bracket.passing, bracket.failing)

    @pytest.mark.parametrize(
        ("low", "high", "log"),
        [(1.0005, 1.0045, True), (-1.0045, -1.0005, False), (0.9996, 1.0001, False), (1.0, 1.0 + 1e-9, True)],
    )
    def test_every_value_lies_within_the_bounds(self, low, high, log):
        found = self.search([1.5 * high], low, high, 0.5, log)
        values = sorted(found.counts)
        assert (values[0], values[-1], len(values)) == (low, high, 9)
        # evenly spaced, but for digits within a quarter of a step at either end
        np.testing.assert_allclose(np.diff(values), (high - low) / 8, atol=0.55 * (high - low) / 8)

    def test_neighbouring_floats_end_it(self):
        found = Search(lambda value: int(value > 1.0), 1, 1.0, 1.0 + 2.0**-52, 1e-300)
        found.count(1.0)
        found.count(1.0 + 2.0**-52)
        assert found.narrowed(Bracket(1.0, 1.0 + 2.0**-52), 1) == (1.0, 1.0 + 2.0**-52)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("perceptron", 10, "leak"), "cell: 'perceptron' is not allowed; allowed: linear"),
        ((7, 10, "leak"), "cell: 7 is not allowed; allowed: linear"),
        (("lstm", 0, "forget_bias"), "steps: 0 is not allowed; allowed: a whole number of at least 1"),
        (("lstm", 10, "hidden_size"), "setting: 'hidden_size' is not allowed; allowed: weight_scale, bias_scale"),
        (("tanh", 10, "forget_bias"), r"forget_bias: '\?' is not allowed; allowed: where cell=tanh: weight_scale"),
        (("tanh", 10, "weight_scale", {"weight_scale": 2.0}), "weight_scale: 2.0 is not allowed: it is the setting"),
        (("lstm", 10, "forget_bias", {"weight_scale": [1.0, 2.0]}), "weight_scales: .* allowed: one weight scale"),
        (("lstm", 10, "forget_bias", {"kind": "gone"}), "kind: 'gone' is not allowed; allowed: vanished or exploded"),
        (("lstm", 10, "forget_bias", {"level": 1.0}), "level: 1.0 is not allowed; allowed: a number above 0 and below"),
        (("lstm", 10, "forget_bias", {"bounds": (1.0, 1.0)}), "bounds: .* allowed: two finite numbers in ascending"),
        (("leaky_tanh", 10, "leak", {"bounds": (0.5, 2.0)}), "bounds: 2.0 is not allowed; allowed: a number above 0"),
        (("lstm", 10, "forget_bias", {"resolution": 0.0}), "resolution: 0.0 is not allowed; allowed: a number of at"),
        (("lstm", 10, "forget_bias", {"bounds": 3.0}), "bounds: 3.0 is not allowed; allowed: two finite numbers"),
        (("tanh", 5, "weight_scale", {"anchors": ["start"]}), r"anchors: \['start'\] is not allowed: it is no setting"),
        (("tanh", 5, "weight_scale", {"seeds": 1.5}), "seeds: 1.5 is not allowed; allowed"),
        (
            ((lambda v: 3), 10, "v", {"bounds": (0.0, 1.0)}),
            "cell: .* is not allowed: the factory returns 3; allowed",
        ),
        (
            ((lambda v: (lambda *_: 0, 1.0, 2.0)), 10, "v", {"bounds": (0.0, 1.0)}),
            r"cell: .* the factory returns params that is no function; allowed: \(step, params, h0\) or",
        ),
        (("lstm", 10, "forget_bias", {"experiment": "nodes"}), "experiment: 'nodes' is not allowed: tuning always"),
        (((lambda value: None), 10, "v"), "bounds: None is not allowed; allowed: the lowest and the highest value"),
        (
            ((lambda value: None), 10, "v", {"bounds": (0.0, 1.0), "hidden_size": 3}),
            "hidden_size: 3 is not allowed: a factory draws its own networks; it reads horizon_threshold and precision",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, why):
    *positional, named = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(SettingError, match=f"^{why}") as caught:
        inspect.unwrap(tune)(*positional, **named)
    assert "\n" not in str(caught.value)


class TestCommand:
    SETTINGS = ("cell=lstm", f"steps={T}", "hidden_size=4", "seeds=6", "weight_scale=0.0", "block=cell")

    def test_it_prints_the_value_and_the_command_that_runs_it(self, tmp_path):
        ran = run_here("tune", "forget_bias=?", *self.SETTINGS, folder=tmp_path)
        found = tune("lstm", T, "forget_bias", weight_scale=0.0, block="cell", **SMALL)
        assert ran.returncode == 0, ran.stderr
        first, there, command = ran.stdout.splitlines()
        assert first == f"forget_bias = {found.value!r} (95 %: {found.lower!r} to {found.upper!r}; 6 seeds)"
        assert there.startswith(f"there, over {T} steps, 6 networks reach, 0 vanish, 0 explode; median horizon > {T};")
        assert command.startswith("gradient-horizon run ")
        assert "weight_scales=0.0" in command.split()
        assert command.endswith(f"block=cell forget_bias={found.value!r}")
        assert not list(tmp_path.iterdir())
        dry = run_here(*command.split()[1:], "--dry-run", folder=tmp_path)
        assert "computing 1 (6 networks)" in dry.stdout, dry.stderr

    def test_json_holds_everything(self, tmp_path):
        ran = run_here("tune", "forget_bias=?", *self.SETTINGS, "--json", "--between", "-3", "0", folder=tmp_path)
        answer = json.loads(ran.stdout)
        assert ran.returncode == 1
        assert answer["verdict"] == "nowhere"
        assert answer["value"] is answer["command"] is answer["lower"] is None
        assert np.shape(answer["lags"]) == (len(answer["values"]), 6)

    def test_without_a_value_it_says_what_comes_closest(self, tmp_path):
        ran = run_here("tune", "forget_bias=?", *self.SETTINGS, "--between", "-3", "0", folder=tmp_path)
        assert ran.returncode == 1
        none, closest = ran.stdout.splitlines()
        assert none.startswith("forget_bias: no value found: more than half of the gradients have vanished within 60")
        assert closest.startswith("closest at forget_bias = 0: 0 networks reach, 6 vanish, 0 explode, median horizon 1")

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            ([], "tune: 'nothing': 0 settings asked for; allowed: exactly one NAME=? (quote the ?)"),
            (["forget_bias=?", "leak=?"], "tune: 'forget_bias=? leak=?': 2 settings asked for; allowed: exactly one"),
            (["weight_scale=?", "weight_scale=2"], "weight_scales: [2.0] is not allowed: it is the setting asked for"),
            (["weight_scale=?", "cell=gru,lstm"], "cell: ['gru', 'lstm'] is not allowed; allowed: one value"),
            (["weight_scale=?", "name=x"], "name: 'name=x' is not allowed with tune; allowed: the settings of the"),
            (["weight_scale=?", "+sweeps=x"], "sweeps: '+sweeps=x' is not allowed with tune; allowed: the settings"),
            (["weight_scale=?", "steps=0"], "steps: '0' is not allowed; allowed: a whole number of at least 1\n"),
            (["weight_scale=?", "stepz=3"], "stepz: 3 is not allowed; allowed: the settings"),
            (["weight_scale=?", "--between", "2", "1"], "bounds: (2.0, 1.0) is not allowed; allowed: two finite"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(self, tmp_path, words, why):
        ran = run_here("tune", *words, folder=tmp_path)
        assert ran.returncode == 2
        assert ran.stderr.startswith(f"gradient-horizon: {why}")
        assert ran.stderr.count("\n") == 1
