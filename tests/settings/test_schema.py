"""What settings allow, what they mean, and the hash of what decides the numbers."""

import importlib.util
import json
import math
import time

import numpy as np
import pytest

from gradient_horizon import names
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings import identity, schema, validation
from gradient_horizon.settings.compose import experiments_defaults
from gradient_horizon.settings.identity import content_hash, deciding
from gradient_horizon.settings.schema import Config, settings_of
from gradient_horizon.settings.validation import checked, describe_settings

RANGES = ("weight_scales", "learning_rates", "clip_thresholds")

# setting, a value that it refuses, a word of what it allows
WRONG = [
    ("cell", "perceptron", "tanh"),
    ("cell", 3, "tanh"),
    ("cell", None, "tanh"),
    ("experiment", "jacobi", "jacobian"),
    ("weights", "uniform", "orthogonal"),
    ("inputs", "words", "digits"),
    ("precision", "float16", "float64"),
    ("method", "finite_differences", "jacrev"),
    ("steps", -1, "at least 1"),
    ("steps", 0, "at least 1"),
    ("steps", 2.5, "whole number"),
    ("steps", True, "whole number"),
    ("steps", "many", "whole number"),
    ("hidden_size", 0, "at least 1"),
    ("batch_size", 0, "at least 1"),
    ("input_size", 0, "or null"),
    ("weight_scales", [], "at least 0"),
    ("weight_scales", [1.0, math.nan], "finite"),
    ("weight_scales", math.inf, "finite"),
    ("weight_scales", "large", "list"),
    ("weight_scales", ["large"], "finite"),
    ("weight_scales", [-0.5], "at least 0"),
    ("weight_scales", [1.0, 1.0], "different"),
    ("weight_scales", [1.0, 1], "different"),
    ("weight_scales", {"start": 0.5, "stop": 1.0}, "num"),
    ("weight_scales", {"start": 0.5, "stop": 1.0, "num": 0}, "num"),
    ("weight_scales", {"start": 0.5, "stop": 0.5, "num": 2}, "different"),
    ("weight_scales", {"start": 0.5, "stop": 1.0, "num": 2, "step": 0.1}, "spacing"),
    ("weight_scales", {"start": 0.5, "stop": 1.0, "num": 2, "spacing": "square"}, "linear or log"),
    ("weight_scales", {"start": 0.0, "stop": 1.0, "num": 2, "spacing": "log"}, "list"),
    ("weight_scales", {"start": "a", "stop": 1.0, "num": 2}, "list"),
    ("seeds", 0, "at least 1"),
    ("seeds", -3, "at least 1"),
    ("seeds", [], "list"),
    ("seeds", [1, 1], "different"),
    ("seeds", [-1], "from 0"),
    ("seeds", [2**32], str(2**32 - 1)),
    ("seeds", [0.5], "whole numbers"),
    ("seeds", [[0], [1]], "whole numbers"),
    ("seeds", "all", "list"),
    ("seeds", math.nan, "list"),
    ("bias_scale", math.nan, "finite"),
    ("bias_scale", "large", "finite"),
    ("input_scale", -1.0, "at least 0"),
    ("state_scale", math.inf, "finite"),
    ("noise_scale", [1.0], "finite"),
    ("forget_bias", math.nan, "finite"),
    ("leak", 0.0, "above 0"),
    ("leak", 1.5, "at most 1"),
    ("horizon_threshold", 0.0, "above 0"),
    ("norms", [], "one or more"),
    ("norms", "nuclear", "spectral"),
    ("norms", ["spectral", "spectral"], "each once"),
    ("block", "memory", "hidden"),
    ("anchors", ["middle"], "start"),
    ("anchors", [["end"]], "start"),
    ("lags", [], "or null"),
    ("lags", 0, "at least 1"),
    ("lags", [1, 2.5], "whole numbers"),
    ("lags", [2, 2], "different"),
    ("recheck", "perhaps", "true or false"),
    ("force", 1, "true or false"),
    ("name", "a/b", "without slashes"),
    ("name", "..", "without slashes"),
    ("name", " ", "without slashes"),
    ("output", None, "folder"),
    ("memory_budget", 0.0, "above 0"),
    ("memory_budget", "all", "or null"),
    ("memory_budget", math.inf, "at most 1000000, or null"),
    ("memory_budget", math.nan, "at most 1000000, or null"),
    ("memory_budget", 1e300, "at most 1000000, or null"),
]


NUMBERS = [
    key for key, entry in schema.FIELDS.items() if entry.type in (int, float, int | None, float | None, schema.Steps)
]
LISTS_OF_NUMBERS = ("seeds", "lags", *RANGES)


@pytest.mark.parametrize("setting", [*NUMBERS, *LISTS_OF_NUMBERS])
def test_no_truth_is_a_number_and_no_number_is_without_bound(setting):
    wrong = [True, False, math.inf, -math.inf, math.nan, 10**400, -(10**400), "1", {}, [[1]]]
    for value in (*wrong, *([entry] for entry in wrong)):
        with pytest.raises(SettingError, match=f"^{setting}: "):
            checked({setting: value})
    if schema.FIELDS[setting].type in (int, int | None):
        for value in (2**31, 10**30, 1.5, 3.0):
            with pytest.raises(SettingError, match=f"^{setting}: "):
                checked({setting: value})


@pytest.mark.parametrize("setting", RANGES)
@pytest.mark.parametrize(
    "part",
    [
        *({"num": value} for value in (True, False, 2.0, -1, 10**12, None, "3", [3], math.nan)),
        *({"start": value} for value in (True, math.nan, math.inf, "1", None, -1.0, 10**400, [1])),
        *({"stop": value} for value in (False, math.nan, -math.inf, "1", None, -1.0, 10**400)),
        *({"spacing": value} for value in (True, None, 1, "square", ["log"])),
    ],
)
def test_a_range_is_of_numbers(setting, part):
    given = {"start": 0.5, "stop": 2.0, "num": 3, **part}
    with pytest.raises(SettingError, match=f"^{setting}: "):
        validation.check_value(setting, given)


def test_a_long_range_with_a_wrong_end_is_not_spelt_out_first():
    begun = time.monotonic()
    with pytest.raises(SettingError):
        validation.check_value("learning_rates", {"start": 0, "stop": 1, "num": 10**7})
    assert time.monotonic() - begun < 0.5  # spelt out it takes some seconds


@pytest.mark.parametrize("setting", ["bias_scale", "forget_bias", "input_scale", "weight_scales"])
def test_minus_zero_is_zero(setting):
    values = {"cell": "lstm", "inputs": "noise"}
    (one, other) = (checked({**values, setting: zero}) for zero in (0.0, -0.0))
    assert json.dumps(identity.as_dict(one)) == json.dumps(identity.as_dict(other))
    assert content_hash(deciding(one)) == content_hash(deciding(other))


def test_a_message_is_one_line_that_can_be_read_whatever_was_typed():
    for value in ("a\nb", "a\rb", "\u2028", "\x1b[2J", "x" * 10**6, 10**5000, ["y" * 10**5]):
        message = str(SettingError("cell\r\u2029" + "z" * 10**6, value, because="so\nand\x85so"))
        assert message.isprintable()
        assert len(message) < 700


@pytest.mark.parametrize(("setting", "value", "allowed"), WRONG)
def test_a_wrong_value_is_refused_by_name(setting, value, allowed):
    with pytest.raises(SettingError) as refused:
        checked({setting: value})
    message = str(refused.value)
    assert message.startswith(f"{setting}: {value!r} is not allowed; allowed: ")
    assert allowed in message.partition("; allowed: ")[2]
    assert "\n" not in message


def test_an_unknown_setting_is_told_the_nearest_one():
    with pytest.raises(SettingError, match=r"^hiden_size: 3 is not allowed.*\(did you mean hidden_size\?\)$"):
        checked({"hiden_size": 3})


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for output in (file, file / "inside"):
        with pytest.raises(SettingError, match=r"output: .*allowed: a writable folder"):
            checked({"output": str(output)})
    checked({"output": str(tmp_path / "new" / "folder")})
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "pushforward"}, "method: 'pushforward' .*auto, jacrev or pullback where anchors holds end"),
        (
            {"method": "pullback", "anchors": ["start"]},
            "method: 'pullback' .* or pushforward where anchors holds start",
        ),
        ({"method": "pullback", "anchors": ["end", "start"]}, "method: 'pullback' .* where anchors holds start"),
        ({"input_size": 3}, "input_size: 3 is not allowed; allowed: null where inputs=none"),
        ({"experiment": "singular_values", "steps": 9, "lags": [10]}, r"lags: \[10\] is .* allowed: at most steps=9"),
        ({"input_size": 1, "inputs": "digits"}, "input_size: 1 is not allowed; allowed: null where inputs=digits"),
    ],
)
def test_settings_that_do_not_fit_each_other(values, message):
    with pytest.raises(SettingError, match=message):
        checked(values)


def test_digits_need_scikit_learn(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find_spec(name))
    with pytest.raises(SettingError, match=r"^inputs: 'digits' .*none or noise.*pip install gradient-horizon\[data\]"):
        checked({"inputs": "digits"})
    checked({"inputs": "noise"})


def test_every_default_is_allowed():
    assert checked({}) == checked(identity.as_dict(checked({})))


def test_lists_are_spelt_out():
    assert checked({"seeds": 8}).seeds == list(range(8))
    assert checked({"seeds": [5, 2]}).seeds == [5, 2]
    assert checked({"norms": "spectral", "anchors": "start"}).norms == ["spectral"]
    assert checked({"weight_scales": 1}).weight_scales == [1.0]
    assert checked({"weight_scales": {"start": 2, "stop": 1, "num": 1}}).weight_scales == [2.0]


@pytest.mark.parametrize(("start", "stop", "num"), [(0.5, 2.1, 33), (0.0, 1.0, 11), (3.0, 1.0, 5), (0.9, 1.2, 301)])
def test_a_linear_range_holds_its_ends_and_equal_steps(start, stop, num):
    found = checked({"weight_scales": {"start": start, "stop": stop, "num": num}}).weight_scales
    np.testing.assert_allclose(found, np.linspace(start, stop, num), rtol=1e-11, atol=1e-11)
    assert (found[0], found[-1], len(found)) == (start, stop, num)


def test_a_logarithmic_range_holds_its_ends_and_equal_ratios():
    found = checked({"weight_scales": {"start": 0.01, "stop": 100, "num": 9, "spacing": "log"}}).weight_scales
    np.testing.assert_allclose(found, np.geomspace(0.01, 100, 9), rtol=1e-11)
    assert (found[0], found[4], found[-1]) == (0.01, 1.0, 100.0)


def test_a_scale_from_a_range_is_the_one_that_is_typed():
    found = checked({"weight_scales": {"start": 0.5, "stop": 2.1, "num": 33}}).weight_scales
    assert found == [float(f"{0.5 + 0.05 * k:.2f}") for k in range(33)]


@pytest.mark.parametrize(("seeds", "short"), [(8, 8), ([0], 1), ([0, 1, 2], 3), ([1, 0], [1, 0]), ([0, 2], [0, 2])])
def test_seeds_are_spelt_short_and_mean_the_same(seeds, short):
    values = identity.as_dict(checked({"seeds": seeds}))
    assert identity.spelt_short(values)["seeds"] == short
    assert checked(identity.spelt_short(values)) == checked(values)


def hash_of(**values) -> str:
    return content_hash(deciding(checked(values)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"name": "a", "output": "elsewhere", "force": True, "quick_look": False, "memory_budget": 1}),
        ({"seeds": 2}, {"seeds": [0, 1]}),
        ({"norms": "spectral"}, {"norms": ["spectral"]}),
        ({"experiment": "singular_values", "lags": [5, 1]}, {"experiment": "singular_values", "lags": [1, 5]}),
        ({"experiment": "singular_values", "lags": 5}, {"experiment": "singular_values", "lags": [5]}),
        ({"weight_scales": 1}, {"weight_scales": [1.0]}),
        ({"weight_scales": [0.5, 1, 1.5]}, {"weight_scales": {"start": 0.5, "stop": 1.5, "num": 3}}),
        ({"weight_scales": None}, {"weight_scales": [0.5, 1.0, 1.5, 2.0]}),
        ({"bias_scale": 1}, {"bias_scale": 1.0}),
        ({"batch_size": 2}, {"batch_size": 3}),  # the jacobian does not read it
        ({"experiment": "notes", "cell": "tanh"}, {"experiment": "notes", "cell": "relu"}),
        ({"cell": "relu", "steps": 9}, {"steps": 9, "cell": "relu"}),
    ],
)
def test_what_does_not_decide_the_numbers_does_not_change_the_hash(one, other):
    assert hash_of(**one) == hash_of(**other)


# Each setting of the jacobian experiment, changed on a base that allows every one of them.
BASE = {"cell": "lstm", "inputs": "noise", "input_size": 2}
CHANGED = {
    "experiment": "notes",
    "cell": "relu",
    "leak": 0.25,
    "forget_bias": 1.0,
    "block": "cell",
    "weights": "orthogonal",
    "hidden_size": 65,
    "steps": 101,
    "seeds": 9,
    "weight_scales": [1.0],
    "bias_scale": 0.1,
    "input_scale": 0.5,
    "state_scale": 0.5,
    "inputs": "none",
    "input_size": 3,
    "noise_scale": 2.0,
    "norms": ["frobenius", "spectral"],
    "anchors": ["end", "start"],
    "horizon_threshold": 2.0,
    "method": "jacrev",
    "recheck": True,
    "precision": "float64",
}


@pytest.mark.parametrize("setting", settings_of("jacobian"))
def test_every_deciding_setting_changes_the_hash(setting):
    values = {**BASE, setting: CHANGED[setting]}
    if values["inputs"] == "none":
        values["input_size"] = None
        assert hash_of(**values) != hash_of(**{**BASE, "input_size": None})
    assert hash_of(**values) != hash_of(**BASE)


@pytest.mark.parametrize("setting", settings_of("notes"))
def test_every_deciding_setting_of_the_notes_changes_the_hash(setting):
    changed = {**CHANGED, "batch_size": 3, "experiment": "jacobian"}[setting]
    assert hash_of(**{"experiment": "notes", setting: changed}) != hash_of(experiment="notes")


def test_the_hash_is_that_of_the_values_and_not_of_their_order():
    values = deciding(Config())
    backwards = dict(reversed(values.items()))
    assert list(backwards) != list(values)
    assert content_hash(values) == content_hash(backwards)
    assert content_hash(json.loads(json.dumps(values))) == content_hash(values)


TRAINING = {"experiment": "training", "task": "adding", "distance": None, "steps": 20, "cell": "tanh"}


@pytest.mark.parametrize(
    ("one", "other", "axes", "different"),
    [
        ({"steps": 3}, {"steps": 3}, (), {}),
        ({"steps": 3}, {"steps": 4}, (), {"steps": [3, 4]}),
        ({"steps": 3}, {"steps": 4}, ("steps",), {}),
        ({"seeds": 3, "norms": ["spectral"]}, {"seeds": [7], "norms": ["frobenius"]}, (), {}),
        ({"noise_scale": 2.0}, {}, (), {"noise_scale": [2.0, 1.0]}),  # the second has the default
        ({"experiment": "notes", "cell": "gru"}, {"experiment": "notes", "cell": "relu"}, (), {}),  # not read
        (TRAINING, {**TRAINING, "task": "digits", "steps": 64}, ("task",), {}),
        (TRAINING, {**TRAINING, "task": "digits", "steps": 32}, ("task",), {"steps": [20, 32]}),
        (TRAINING, {**TRAINING, "steps": None}, (), {}),
        ({**TRAINING, "steps": 21}, {**TRAINING, "steps": None}, (), {"steps": [21, None]}),
        (TRAINING, {**TRAINING, "initialisation": "irnn", "cell": "relu"}, ("initialisation",), {}),
        (
            TRAINING,
            {**TRAINING, "initialisation": "irnn", "cell": "gru"},
            ("initialisation",),
            {"cell": ["tanh", "gru"]},
        ),
    ],
)
def test_settings_in_which_jobs_disagree(one, other, axes, different):
    assert validation.disagreements([one, other], axes) == different
    assert validation.disagreements([other, one], axes) == {key: values[::-1] for key, values in different.items()}


def test_every_setting_is_described():
    described = validation.describe_settings()
    for name, entry in schema.FIELDS.items():
        assert f"  {name}=" in described
        assert entry.metadata["rule"].allowed in described


@pytest.mark.parametrize("experiment", names.EXPERIMENTS)
def test_every_setting_of_an_experiment_is_described_as_it_uses_it(experiment):
    own = experiments_defaults().get(experiment, {})
    text = describe_settings(experiment, own)
    used = validation.checked({"experiment": experiment, **own})
    for key in schema.settings_of(experiment):
        value = identity.spelt_short(identity.as_dict(used))[key]
        assert f"  {key}={json.dumps(value).strip(chr(34))}\n" in text
    assert ("learning_rates=" in text) == (experiment == "training")
