"""Declarations are read from the head of a file, without its imports, and equal those of the imported file."""

from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from gradient_horizon import names
from gradient_horizon.cells import make_cell
from gradient_horizon.names import declare, rules
from gradient_horizon.settings.identity import as_dict
from gradient_horizon.settings.schema import FIELDS, settings_of
from gradient_horizon.settings.validation import checked, unread

EVERY = [one for kind in declare.KINDS for one in declare.declared(kind).values()]

HEAVY = '''"""Needs a package that is not here."""

import math

import a_package_of_nobody
from gradient_horizon.names import declare, rules
from gradient_horizon.nowhere import nothing

LEAST: int = math.ceil(2.5)
DECLARES = declare.Task("waiting", "wait", least_steps=LEAST, settings={
    "patience": declare.Setting(1, rules.whole(LEAST), "how much"),
})

LATER = nothing.at_all


def waiting(steps, patience):
    return a_package_of_nobody.wait(steps)
'''


@pytest.mark.parametrize("one", EVERY, ids=lambda one: f"{one.setting}={one.name}")
def test_what_is_read_is_what_the_imported_file_declares(one):
    module = import_module(one.module)
    made = module.DECLARES if isinstance(module.DECLARES, tuple) else (module.DECLARES,)
    (same,) = (other for other in made if other.name == one.name)
    assert type(same) is type(one)
    assert {key: own.default for key, own in same.settings.items()} == {
        key: own.default for key, own in one.settings.items()
    }
    assert callable(one.load())
    assert one.help
    for name, own in one.settings.items():
        assert own.rule.accepts(own.rule.expand(own.default)), name
        assert FIELDS[name].metadata["description"] == f"{one.name}: {own.description}"


def test_only_the_head_of_a_file_is_executed_and_its_heavy_imports_are_skipped():
    (one,) = declare.read("somewhere", HEAVY)
    assert isinstance(one, declare.Task)
    assert (one.name, one.least_steps, one.module) == ("waiting", 3, "somewhere")
    assert not one.settings["patience"].rule.accepts(2)
    assert declare.read("somewhere", HEAVY.replace("DECLARES", "OTHER")) == ()
    with pytest.raises(NameError):  # what is declared must not need them
        declare.read("somewhere", HEAVY.replace('"wait"', "nothing"))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("DECLARES = declare.Cell('tanh', 'again')", "cell=tanh is already declared by gradient_horizon.cells.vanilla"),
        ("DECLARES = declare.Cell('two words', 'a name')", "'two words' is not allowed"),
        ("DECLARES = declare.Cell('one', nothing)", "NameError"),
        ("DECLARES = declare.Cell(", "SyntaxError"),
    ],
)
def test_an_installed_package_that_cannot_be_read_is_left_out_with_a_warning(source, why, monkeypatch):
    point = EntryPoint("someone", "package_of_someone", declare.Cell.group)
    monkeypatch.setattr(declare, "_entry_points", lambda: EntryPoints([point]))
    monkeypatch.setattr(declare, "_source", lambda module: f"from gradient_horizon.names import declare\n\n{source}\n")
    with pytest.warns(RuntimeWarning, match=f"gradient_horizon.cells: 'package_of_someone' is left out .*{why}"):
        found = declare._declared.__wrapped__(declare.Cell)
    assert set(found) == set(names.CELLS)


def test_a_module_that_is_not_there_is_left_out_with_a_warning(monkeypatch):
    point = EntryPoint("someone", "package_of_nobody", declare.Task.group)
    monkeypatch.setattr(declare, "_entry_points", lambda: EntryPoints([point]))
    with pytest.warns(RuntimeWarning, match="module 'package_of_nobody' has no source"):
        assert set(declare._declared.__wrapped__(declare.Task)) == set(names.TASKS)


def test_an_experiment_of_an_installed_package_draws_its_result(monkeypatch):
    point = EntryPoint("someone", "package_of_someone", declare.Experiment.group)
    source = "from gradient_horizon.names import declare\n\nDECLARES = declare.Experiment('mine', 'mine')\n"
    monkeypatch.setattr(declare, "_entry_points", lambda: EntryPoints([point]))
    monkeypatch.setattr(declare, "_source", lambda module: source)
    with pytest.warns(RuntimeWarning, match="draw: an experiment needs a function that draws its result"):
        assert set(declare._declared.__wrapped__(declare.Experiment)) == set(names.EXPERIMENTS)


@pytest.mark.parametrize("name", names.CELLS)
def test_declared_sizes_of_states_are_those_of_the_cells(name):
    assert make_cell(name, 5).state_size == 5 * names.STATES_OF_CELL[name]
    state = make_cell(name, 5).initial_state()
    for attribute in declare.declared(declare.Cell)[name].blocks.values():
        assert getattr(state, attribute).shape == (5,)


def test_own_settings_have_an_effect_only_with_their_owner():
    lstm, leaky, tanh = (checked({"cell": cell}) for cell in ("lstm", "leaky_tanh", "tanh"))
    assert "forget_bias" not in unread(lstm)
    assert unread(leaky)["forget_bias"] == "cell=leaky_tanh"
    assert unread(tanh)["leak"] == unread(tanh)["block"] == "cell=tanh"
    training = checked({"experiment": "training", "omega": 1.0, "clip": "none"})
    assert unread(training)["clip_thresholds"] == "clip=none"
    assert unread(training)["floss_rate"] == "floss_updates=0"
    assert "omega_squared" not in unread(training)


def test_every_setting_is_read_by_an_experiment_or_decides_no_number():
    read = {name for experiment in names.EXPERIMENTS for name in settings_of(experiment)}
    assert set(as_dict(checked({}))) - read == {"name", "output", "memory_budget", "pack", "quick_look", "force"}


def test_settings_of_a_maker_are_checked_by_their_rules():
    with pytest.raises(ValueError, match="leak: 0; allowed: a number above 0 and at most 1"):
        make_cell("leaky_tanh", 3, leak=0)
    with pytest.raises(ValueError, match=r"lek: 0\.5 is not a setting of a cell; allowed: forget_bias, leak"):
        make_cell("leaky_tanh", 3, lek=0.5)
    assert rules.FRACTION.accepts(1)
