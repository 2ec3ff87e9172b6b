"""Declarations, by which one file adds a cell, an ensemble of weights, a task, a clip rule, an experiment or a figure.

    DECLARES = declare.Cell(
        "lstm",
        "long short-term memory",
        make="LSTMCell",
        settings={"forget_bias": declare.Setting(0.0, rules.FINITE, "value added to the bias of the forget gate")},
    )

The file lies in the folder of its room (`ROOMS`), or it is the module that an installed package names as an entry
point of the group `gradient_horizon.cells`, `gradient_horizon.tasks`, ... A file may declare several things, as a
tuple.

Settings are checked, and wrong ones refused, before JAX is loaded. Therefore only the *head* of the file is executed
for its declaration: the constants above `DECLARES`, and imports from the standard library and of
`gradient_horizon.names`. Other imports are skipped; classes and functions follow below. The object that `make` names is
imported when it is used.
"""

import ast
import dataclasses
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from gradient_horizon.names.rules import Rule

ASSIGNED = "DECLARES"
# Settings that decide the networks of every experiment that draws them.
DRAWN = (
    *("experiment", "cell", "weights", "hidden_size", "steps", "seeds", "weight_scales", "bias_scale", "input_scale"),
    *("state_scale", "inputs", "input_size", "noise_scale", "precision"),
)


@dataclass(frozen=True)
class Setting:
    """A setting: its default, the rule for its values, and its meaning in one line.

    - `type`: what OmegaConf converts values to; None: the type of the default.
    - `coordinate`: for a list, the coordinate of the result along which sweeps over the setting are joined.
    - `usual`: the value that null stands for, given the other settings as a mapping; `usual_from`: those that matter.
    - `idle`: why the setting has no effect, given all settings, as in `clip=none`; empty if it has one.
    """

    default: Any
    rule: Rule
    description: str
    type: Any = None
    coordinate: str = ""
    usual: Callable[[Mapping[str, Any]], Any] | None = None
    usual_from: tuple[str, ...] = ()
    idle: Callable[[Any], str] = lambda settings: ""


@dataclass(frozen=True)
class Need:
    """A rule for one setting given the others: it must hold, or its value is refused with what is allowed."""

    setting: str
    holds: Callable[[Any], bool]
    allowed: Callable[[Any], str]


@dataclass(frozen=True)
class Declaration:
    """The fields that all declarations have.

    - `name`: the value that the user writes; `help`: what it is, in a few words.
    - `make`: the name of the object in the same file that constructs it, and the `arguments` that it takes first.
    - `settings`: its own settings, by name; on the command line they are set like all others.
    - `needs`: rules that hold between its settings and others.
    - `module`, `package`: where the declaration was found, and the installed package that it belongs to (with its
      version; empty for this one). Filled in when it is read.
    """

    room: ClassVar[str] = ""  # the folder whose files are searched
    group: ClassVar[str] = ""  # of entry points
    setting: ClassVar[str] = ""  # the setting whose value is the name

    name: str
    help: str
    make: str = ""
    arguments: tuple[Any, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    module: str = ""
    package: str = ""

    def load(self) -> Callable[..., Any]:
        """Import the object that `make` names; it still expects `arguments` first."""
        return getattr(import_module(self.module), self.make)


@dataclass(frozen=True)
class Cell(Declaration):
    """A recurrent cell: `make(*arguments, hidden_size, input_size, **settings)` returns it.

    - `family`: cells of one family share their parameters, so that the same network can be measured under each of
      them; empty: a family of its own.
    - `states`: the number of vectors of length `hidden_size` that make up the state; `blocks`: the parts of the state
      that may be differentiated alone, each with the name of its attribute.
    - `one_path`: the gradient flows back along a single path, through one node after another.
    - `homogeneous`: step(c h) = c step(h) for c > 0, without bias and inputs.
    """

    room: ClassVar[str] = "cells"
    group: ClassVar[str] = "gradient_horizon.cells"
    setting: ClassVar[str] = "cell"

    family: str = ""
    states: int = 1
    blocks: Mapping[str, str] = field(default_factory=dict)
    one_path: bool = False
    homogeneous: bool = False


@dataclass(frozen=True)
class Ensemble(Declaration):
    """An ensemble of recurrent matrices: `make(key, n, dtype)` draws W⁰ of shape (n, n)."""

    room: ClassVar[str] = "cells"
    group: ClassVar[str] = "gradient_horizon.ensembles"
    setting: ClassVar[str] = "weights"


@dataclass(frozen=True)
class Task(Declaration):
    """A task: `make(*arguments, steps, **settings)` returns it.

    - `usual_steps`: the default length of a sequence, a number or a function of the task's own settings.
    - `least_steps`: the smallest length that leaves room for every position that the task draws. `pixels`: for images,
      which are cut into equal parts, one per step: the length divides this number.
    - `solved_below`: the error below which a network counts as having solved the task; 1 % if every answer can be
      known.
    - `missing()`: what the task's data lack on this machine, and what to do about it; None if they are complete.
    """

    room: ClassVar[str] = "tasks"
    group: ClassVar[str] = "gradient_horizon.tasks"
    setting: ClassVar[str] = "task"

    usual_steps: int | Callable[[Mapping[str, Any]], int] = 100
    least_steps: int = 1
    pixels: int | None = None
    solved_below: float = 0.01
    missing: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class ClipRule(Declaration):
    """A clip rule: `make(given)` returns the clipped gradients of a `training.clipping.Clipped`.

    `needs_params`: it needs the parameters that the gradients belong to.
    """

    room: ClassVar[str] = "training"
    group: ClassVar[str] = "gradient_horizon.clip_rules"
    setting: ClassVar[str] = "clip"

    needs_params: bool = False


@dataclass(frozen=True)
class Experiment(Declaration):
    """An experiment: `make(config, report, checkpoints)` measures and returns a labelled Dataset.

    - `reads`: the shared settings that decide its numbers; it also reads the settings that belong to the cell, task,
      ensemble and clip rule named by these. `defaults`: the values of settings that have another default here.
    - `has_own_draws`: its seeds are those of another generator than JAX's.
    - `slab_size`: the name of a function in the same file that returns, given `(config, budget)`, how many networks may
      be measured at once in `budget` bytes of memory (None: all); larger jobs are cut. Without it, no job is cut.
    - `draw`: the name of a function in the same file that draws the result of one job, or of a sweep, as a matplotlib
      Figure; only the experiments of this package, whose figures are in `figures`, do without.
    """

    room: ClassVar[str] = "experiments"
    group: ClassVar[str] = "gradient_horizon.experiments"
    setting: ClassVar[str] = "experiment"

    reads: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    has_own_draws: bool = False
    slab_size: str = ""
    draw: str = ""

    def load_slab_size(self) -> Callable[[Any, int], int | None] | None:
        """Import the function that `slab_size` names; None if it names none."""
        return getattr(import_module(self.module), self.slab_size) if self.slab_size else None


@dataclass(frozen=True)
class PaperFigure(Declaration):
    """A figure of the paper: its file also defines `draw` (a joined sweep as a Figure) and `numbers` (what it plots).

    - `number`: its place in the paper; `preset`: the file of `sweeps/` that makes its data; `quick`: overrides for a
      small version of it.
    - `title`, `caption`: what is printed with it.
    """

    room: ClassVar[str] = "figures/paper"

    number: int = 0
    preset: str = ""
    title: str = ""
    caption: str = ""
    quick: tuple[str, ...] = ()


KINDS: tuple[type[Declaration], ...] = (Cell, Ensemble, Task, ClipRule, Experiment)  # those that settings name
Kind = TypeVar("Kind", bound=Declaration)


def declared(kind: type[Kind]) -> dict[str, Kind]:
    """Return everything of this kind, by name: this package's own first, file by file, then that of installed packages.

    Modules of installed packages that cannot be read, and names that are already taken, are left out with a warning.
    """
    return _declared(kind)


@cache
def _declared(kind: type[Kind]) -> dict[str, Any]:
    every: dict[str, Kind] = {}
    folder = Path(__file__).parents[1] / kind.room
    for path in sorted(folder.glob("*.py")):
        for one in _of_kind(kind, read(_module_of(path), path.read_text("utf-8"))):
            every[one.name] = one
    points = _entry_points().select(group=kind.group) if kind.group else ()
    for point in sorted(points, key=lambda point: (point.name, point.value)):
        try:
            for one in _of_kind(kind, read(point.module, _source(point.module), _package(point))):
                _check_is_new(one, every)
                every[one.name] = one
        except Exception as error:  # a package that someone else wrote must not disable the others
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            warnings.warn(f"{kind.group}: {point.value!r} is left out ({why})", RuntimeWarning, stacklevel=2)
    return every


@cache
def _entry_points() -> Any:
    return entry_points()


def _of_kind(kind: type[Kind], declarations: tuple[Declaration, ...]) -> Iterator[Kind]:
    for one in declarations:
        if isinstance(one, kind):
            yield one


def _module_of(path: Path) -> str:
    """Return the dotted name of a module of this package."""
    package = Path(__file__).parents[1]
    return ".".join([package.name, *path.relative_to(package).with_suffix("").parts])


def _check_is_new(one: Declaration, others: Mapping[str, Declaration]) -> None:
    """Raise `ValueError` for a declaration of an installed package that cannot be used."""
    if one.name in others:
        raise ValueError(f"{one.setting}={one.name} is already declared by {others[one.name].module}")
    if isinstance(one, Experiment) and not one.draw:
        raise ValueError("draw: an experiment needs a function that draws its result")
    if not one.name.isidentifier():
        raise ValueError(f"name: {one.name!r} is not allowed; allowed: letters, digits and _")


def _source(module: str) -> str:
    """Return the source of a module without importing it."""
    spec = importlib.util.find_spec(module)
    source = getattr(spec.loader, "get_source", lambda name: None)(module) if spec else None
    if source is None:
        raise ValueError(f"module {module!r} has no source that can be read")
    return source


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def read(module: str, source: str, package: str = "") -> tuple[Declaration, ...]:
    """Return what the `source` of a module declares, executing only its head; empty if it declares nothing."""
    if not any(line.startswith(f"{ASSIGNED} = ") for line in source.splitlines()):
        return ()
    namespace: dict[str, Any] = {"__name__": module}
    for statement in ast.parse(_head(source)).body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            statement = ast.copy_location(ast.Assign([statement.target], statement.value), statement)
        if not (isinstance(statement, ast.Assign) or _is_light(statement)):
            continue
        code = ast.Module([statement], type_ignores=[])
        exec(compile(ast.fix_missing_locations(code), module, "exec"), namespace)
        if ASSIGNED in namespace:
            break
    declarations = namespace[ASSIGNED]
    if isinstance(declarations, Declaration):
        declarations = (declarations,)
    return tuple(replace(one, module=module, package=package) for one in declarations)


def _head(source: str) -> str:
    """Return the lines above the first class or function."""
    lines = source.splitlines(keepends=True)
    end = next((n for n, line in enumerate(lines) if line.startswith(("class ", "def ", "@"))), len(lines))
    return "".join(lines[:end])


def _is_light(statement: ast.stmt) -> bool:
    """True for an import from the standard library or of the room `names`."""
    if isinstance(statement, ast.Import):
        return all(alias.name.partition(".")[0] in sys.stdlib_module_names for alias in statement.names)
    if isinstance(statement, ast.ImportFrom) and statement.module is not None:
        module = statement.module
        if module == "gradient_horizon":
            return [alias.name for alias in statement.names] == ["names"]
        return module.partition(".")[0] in sys.stdlib_module_names or f"{module}.".startswith("gradient_horizon.names.")
    return False


def cell_of(settings: Any) -> Cell:
    """Return the declaration of the cell that `settings` name."""
    return declared(Cell)[settings.cell]


def state_size(settings: Any) -> int:
    """Return n, the number of entries of the state of the cell that `settings` describe."""
    return settings.hidden_size * cell_of(settings).states


def where(setting: str, value: Any) -> Callable[[Any], str]:
    """Return a `Setting.idle`: the setting has no effect where another one has this value."""
    return lambda settings: f"{setting}={value}" if getattr(settings, setting) == value else ""


def unless(setting: str, value: Any) -> Callable[[Any], str]:
    """Return a `Setting.idle`: the setting has no effect where another one has any other value."""
    return lambda settings: "" if getattr(settings, setting) == value else f"{setting}={getattr(settings, setting)}"


def without_package(module: str, package: str, install: str) -> Callable[[], str | None]:
    """Return a `Task.missing` that reports a Python package if its `module` cannot be imported."""
    return lambda: None if importlib.util.find_spec(module) else f"{package} is not installed ({install})"


def without_files(paths: Sequence[Path], install: str = "") -> Callable[[], str | None]:
    """Return a `Task.missing` that reports those of `paths`, all in one folder, that are not there."""

    def missing() -> str | None:
        lacking = [path.name for path in paths if not path.is_file()]
        advice = f" ({install})" if install else ""
        return f"{paths[0].parent} lacks {', '.join(lacking)}{advice}" if lacking else None

    return missing


def own_settings() -> Iterator[tuple[Declaration, str, Setting]]:
    """Yield the owner, the name and the setting itself for every setting that a declaration adds."""
    for kind in KINDS:
        for one in declared(kind).values():
            for name, setting in one.settings.items():
                yield one, name, setting


def own_settings_of(kind: type[Declaration]) -> tuple[str, ...]:
    """Return the names of all settings that belong to declarations of this kind."""
    return tuple(dict.fromkeys(name for one in declared(kind).values() for name in one.settings))


def packages() -> tuple[str, ...]:
    """Return the installed packages, with their versions, that declare something."""
    return tuple(sorted({one.package for kind in KINDS for one in declared(kind).values() if one.package}))


def chosen(settings: Any) -> list[Declaration]:
    """Return the declarations that `settings`, with the names as attributes, choose."""
    by_kind = (declared(kind).get(getattr(settings, kind.setting, "")) for kind in KINDS)
    return [one for one in by_kind if one is not None]


def field_of(setting: Setting) -> Any:
    """Return the setting as a field of a dataclass."""
    metadata = {"setting": setting, "rule": setting.rule, "description": setting.description}
    if isinstance(setting.default, list):
        return dataclasses.field(default_factory=lambda: list(setting.default), metadata=metadata)
    return dataclasses.field(default=setting.default, metadata=metadata)
