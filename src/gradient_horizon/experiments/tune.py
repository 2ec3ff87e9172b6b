"""Which value of one setting lets the gradient reach a given number of steps? JAX is loaded only to measure."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gradient_horizon import names
from gradient_horizon.experiments.bracketing import Bracket, Search
from gradient_horizon.measures.horizon import Horizon, Reach, horizon_of, horizon_quantile
from gradient_horizon.names import HorizonKind, declare, rules
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings import schema, validation
from gradient_horizon.settings.schema import Config

SEEDS = 16
RESOLUTION = 1e-3
KINDS = ("vanished", "exploded")
WEIGHT_SCALE = "weight_scale"  # one value of the setting `weight_scales`
_NOT_TUNED = ("horizon_threshold",)
# settings of a run that tuning decides by itself, or that it has no use for
ALONE = ("experiment", "name", "output", "quick_look", "force", "pack", "recheck", "norms", "anchors")

Measure = Callable[[float], Horizon]  # from a value of the setting to the horizons of all seeds


@dataclass(frozen=True)
class Tuned:
    """The critical value of a setting, and what it rests on (see `tune`).

    - `value`: a value at which at least `level` of the networks pass, next to one at which fewer do; NaN if `verdict`
      is `everywhere` or `nowhere`.
    - `verdict`: `found`; `split`: found, but at `value` fewer than `level` of the networks reach `steps` lags, as some
      vanish and others explode; `everywhere`, `nowhere`: at all values tried, or at none, at least `level` of the
      networks pass.
    - `bracket`: (failing, passing), no further apart than the resolution; `value` is the latter.
    - `lower`, `upper`: limits between which the share of networks that pass crosses `level`, at 95 % confidence;
      infinite if the values tried, or too few seeds, leave them open.
    - `horizon`: the two networks that bracket the quantile of horizons at `value` (if it is NaN: at `closest`).
    - `counts`: the numbers of networks there whose gradient has `vanished`, has `exploded`, is `beyond`, that is,
      reaches `steps` lags, or is `nonfinite`, that is, has a norm of NaN.
    - `closest`: `value`, or, if it is NaN, the value tried at which most networks reach furthest.
    - `crossings`: all the brackets found, of which that of `value` is the first; `unsteady`: the number of networks
      that pass and fail more than once along the values tried.
    - `values` (V,), `lags` (V, S) and `kinds` (V, S): the horizon of every network at every value tried, as
      `horizon_of` returns them.
    """

    setting: str
    steps: int
    kind: str
    level: float
    value: float
    verdict: str
    bracket: tuple[float, float]
    lower: float
    upper: float
    horizon: tuple[Reach, Reach]
    counts: dict[str, int]
    closest: float
    crossings: tuple[Bracket, ...]
    unsteady: int
    values: Float[np.ndarray, " V"]
    lags: Float[np.ndarray, "V S"]
    kinds: Int[np.ndarray, "V S"]

    @property
    def has_nonfinite(self) -> bool:
        """True if a norm was NaN at any value tried."""
        return bool(np.any(self.kinds == HorizonKind.NONFINITE))


def tune(
    cell: Any,
    steps: int,
    setting: str,
    *,
    kind: str = "vanished",
    level: float = 0.5,
    bounds: tuple[float, float] | None = None,
    resolution: float | None = None,
    seeds: int | Sequence[int] = SEEDS,
    watch: Callable[[float], None] = lambda value: None,
    **settings: Any,
) -> Tuned:
    """The value of `setting` at which the gradient of a network begins, or ceases, to reach `steps` lags.

    A network *passes* if its gradient has not vanished (or exploded: `kind`) within `steps` lags, in a sequence of that
    length: its horizon is of another kind, or beyond. A network with a norm of NaN never passes. The critical value is
    where the share of seeds that pass crosses `level`: with ½, where the median network does. It is found by trying a
    few values between the `bounds`, then by bisection; all values use the same seeds, hence the same random numbers,
    and one compiled program. If the share crosses several times, the lowest crossing is found.

    **Arguments:**

    - `cell`: the name of a cell; a cell; or a function `factory(value)` that returns `(step, params, h0)` or `(step,
      params, h0, xs)`, where `params(key)`, `h0(key)` and `xs(key)` draw from a seed's key and `value` is traced.
    - `setting`: a numeric setting of the command `run` that draws the network: `forget_bias`, `weight_scale`, `leak`,
      `bias_scale`, ...; for a factory, any name.
    - `kind`: `vanished` for the value where the gradient ceases to vanish; `exploded` for the one where it begins to
      explode. A weight scale has both, with the values that reach `steps` lags between them, if there are any.
    - `level`: the share of networks that must pass, above 0 and below 1.
    - `bounds`: the lowest and the highest value tried; needed for a factory. By default -8 and 16 for settings that may
      be negative, 1e-4 and 0.999 for fractions, 0.1 and 10 for others.
    - `resolution`: the width of the final bracket, relative to the value for settings that cannot be negative. By
      default `RESOLUTION`; for a factory, `RESOLUTION` times the distance between the bounds.
    - `seeds`: a number of seeds, from 0 on, or a list.
    - `watch`: called with each value before it is measured.
    - `settings`: other settings of the command `run`, such as `hidden_size=128` and `inputs="noise"`, with their usual
      defaults, but `weight_scale=1`. For a factory, only `horizon_threshold` and `precision`. A cell that reads inputs
      is driven by noise, unless `inputs` is given.

    **Raises:** `ValueError` for a wrong argument.
    """
    search = {"kind": kind, "level": level, "bounds": bounds, "resolution": resolution}
    if isinstance(cell, str) or _is_declared(cell):
        check_search(steps, **search)
        return tune_config(
            config_of(cell, operator.index(steps), setting, seeds=seeds, **settings), setting, watch=watch, **search
        )
    if not callable(cell):
        raise SettingError("cell", cell, f"{', '.join(names.CELLS)}; a cell of these; or a factory")
    check_search(steps, **search)
    if bounds is None:
        raise SettingError("bounds", None, "the lowest and the highest value, for a factory")
    steps = operator.index(steps)
    resolution = RESOLUTION * (float(bounds[1]) - float(bounds[0])) if resolution is None else resolution
    measure, total = _of_factory(cell, steps, seeds, **settings)
    return _searched(measure, total, setting, steps, False, bounds, kind, level, resolution, watch)


def tune_config(
    config: Config,
    setting: str,
    *,
    kind: str,
    level: float,
    bounds: tuple[float, float] | None,
    resolution: float | None,
    watch: Callable[[float], None],
) -> Tuned:
    """`tune` for the networks of checked settings, in which that of `setting` is replaced."""
    low, high = bounds_of(setting, bounds)
    is_log = low > 0 and not _rule(setting).accepts(-1.0)
    measure = partial(_measured, config, setting)
    total, steps = len(config.seeds), config.steps
    resolution = RESOLUTION if resolution is None else resolution
    return _searched(measure, total, setting, steps, is_log, (low, high), kind, level, resolution, watch)


def _searched(
    measure: Measure,
    total: int,
    setting: str,
    steps: int,
    is_log: bool,
    bounds: tuple[float, float],
    kind: str,
    level: float,
    resolution: float,
    watch: Callable[[float], None],
) -> Tuned:
    horizons: dict[float, Horizon] = {}
    fails = HorizonKind[kind.upper()], HorizonKind.NONFINITE

    def passes(value: float) -> int:
        watch(value)
        horizons[value] = measure(value)
        return int(np.sum(~np.isin(horizons[value].kind, fails)))

    search = Search(passes, total, float(bounds[0]), float(bounds[1]), resolution, is_log)
    search.scan()
    return _concluded(search, horizons, fails, setting, steps, kind, level)


def _concluded(
    search: Search,
    horizons: Mapping[float, Horizon],
    fails: Sequence[HorizonKind],
    setting: str,
    steps: int,
    kind: str,
    level: float,
) -> Tuned:
    least = math.ceil(level * search.total - 1e-9)
    crossings = search.brackets(least)
    value, bracket, limits = math.nan, (math.nan, math.nan), (-math.inf, math.inf)
    if crossings:
        bracket = search.narrowed(crossings[0], least)
        value, limits = bracket.passing, search.interval(bracket, level)
        crossings[0] = bracket
    values = sorted(horizons)
    lags, kinds = (np.array([horizons[one][part] for one in values]) for part in (0, 1))
    closest = value if crossings else values[int(np.argmax(np.nanmedian(np.where(np.isnan(lags), 0, lags), axis=1)))]
    at = horizons[closest]
    counts = {kind.name.lower(): int(np.sum(at.kind == kind)) for kind in HorizonKind}
    if crossings:
        verdict = "found" if counts["beyond"] >= least else "split"
    else:
        verdict = "everywhere" if search.counts[closest] >= least else "nowhere"
    passed = ~np.isin(kinds, fails)
    changes = np.sum(passed[1:] != passed[:-1], axis=0)
    reaches = horizon_quantile(*at, 1 - level)
    return Tuned(
        *(setting, steps, kind, level, value, verdict, bracket, *limits, reaches, counts, closest, tuple(crossings)),
        *(int(np.sum(changes > 1)), np.array(values), lags, kinds),
    )


def check_search(steps: Any, *, kind: Any, level: Any, bounds: Any, resolution: Any) -> None:
    """Raise `SettingError` for the first argument of a search that is wrong."""
    if not rules.is_index(steps) or steps < 1:
        raise SettingError("steps", steps, "a whole number of at least 1")
    if kind not in KINDS:
        raise SettingError("kind", kind, " or ".join(KINDS))
    if not rules.is_number(level) or not 0 < level < 1:
        raise SettingError("level", level, "a number above 0 and below 1")
    if resolution is not None and (not rules.is_number(resolution) or resolution < 1e-6):
        raise SettingError("resolution", resolution, "a number of at least 1e-6")
    if bounds is not None and not (
        isinstance(bounds, Sequence | np.ndarray)
        and np.shape(bounds) == (2,)
        and all(map(rules.is_number, bounds))
        and float(bounds[0]) < float(bounds[1])
    ):
        raise SettingError("bounds", bounds, "two finite numbers in ascending order")


def tunable() -> tuple[str, ...]:
    """The settings that can be tuned: numbers that decide how a network is drawn."""
    read = schema.settings_of("jacobian")
    numbers = [name for name in read if schema.FIELDS[name].type is float and name not in _NOT_TUNED]
    return (WEIGHT_SCALE, *numbers)


def check_setting(setting: str) -> None:
    """Raise `SettingError` for a setting that cannot be tuned."""
    if setting not in tunable():
        raise SettingError("setting", setting, f"{', '.join(tunable())}{validation.did_you_mean(setting, tunable())}")


def config_of(cell: Any, steps: Any, setting: str, **settings: Any) -> Config:
    """The settings of the networks to be measured, all checked; that of `setting` is still its default.

    Raises `SettingError` for a setting that is unknown or cannot be tuned, or that does not change these networks.
    """
    check_setting(setting)
    written = {**_of_cell(cell), **settings}
    if WEIGHT_SCALE in written:
        written["weight_scales"] = written.pop(WEIGHT_SCALE)
    tuned = "weight_scales" if setting == WEIGHT_SCALE else setting
    if tuned in written and not (tuned in _of_cell(cell) and tuned not in settings):
        raise SettingError(setting, written[tuned], because="it is the setting to be tuned")
    if "experiment" in written:
        raise SettingError("experiment", written["experiment"], because="tuning always measures experiment=jacobian")
    for key in set(ALONE) & set(written):
        raise SettingError(key, written[key], because="it is no setting of the networks, the only ones allowed")
    written = {"weight_scales": 1.0, "seeds": SEEDS, "steps": steps, **written}
    written["seeds"] = _plain_seeds(written["seeds"])
    config = validation.checked(written)
    check_tuned(config, setting)
    return config


def _plain_seeds(seeds: Any) -> Any:
    """Seeds as a Python integer or a list of them; anything else unchanged, for the rule to refuse."""
    if rules.is_index(seeds):
        return operator.index(seeds)
    try:
        every = None if isinstance(seeds, str | bytes | Mapping) else [*seeds]
    except TypeError:
        every = None
    return seeds if every is None else [operator.index(seed) if rules.is_index(seed) else seed for seed in every]


def check_tuned(config: Config, setting: str) -> None:
    """Raise `SettingError` if `config` has several weight scales, or `setting` does not change its networks."""
    if len(config.weight_scales) > 1:
        raise SettingError("weight_scales", config.weight_scales, "one weight scale")
    idle = validation.unread(config)
    if setting in idle:
        others = ", ".join(name for name in tunable() if name not in idle)
        raise SettingError(setting, "?", f"where {idle[setting]}: {others}")


def bounds_of(setting: str, bounds: Sequence[float] | None) -> tuple[float, float]:
    """`bounds`, checked, or the usual ones."""
    accepts = _rule(setting).accepts
    if bounds is None:
        return (-8.0, 16.0) if accepts(-1.0) else (0.1, 10.0) if accepts(2.0) else (1e-4, 0.999)
    low, high = map(float, bounds)
    for bound in (low, high):
        if not accepts(bound):
            raise SettingError("bounds", bound, f"{_rule(setting).allowed}, as for {setting}")
    return low, high


def _rule(setting: str) -> rules.Rule:
    return rules.NOT_NEGATIVE if setting == WEIGHT_SCALE else schema.SETTINGS[setting].rule


def _is_declared(cell: Any) -> bool:
    """True for a cell that `make_cell` returns, and that its name and settings therefore describe."""
    return getattr(cell, "name", None) in names.CELLS and hasattr(cell, "hidden_size") and hasattr(cell, "init")


def _of_cell(cell: Any) -> dict[str, Any]:
    """The settings that describe a cell, or its name."""
    if isinstance(cell, str):
        return {"cell": cell}
    own = {key: float(getattr(cell, key)) for key in declare.declared(declare.Cell)[cell.name].settings}
    driven = {"inputs": "noise", "input_size": cell.input_size} if cell.input_size else {}
    return {"cell": cell.name, "hidden_size": cell.hidden_size, **driven, **own}


def with_value(config: Config, setting: str, value: float) -> Config:
    """`config` with this value of the setting."""
    if setting == WEIGHT_SCALE:
        return validation.changed(config, {"weight_scales": [value]})
    return validation.changed(config, {setting: value})


def _measured(config: Config, setting: str, value: float) -> Horizon:
    """The horizons of the networks of all seeds; the compiled programs take the value as an argument."""
    from gradient_horizon.experiments import jacobian
    from gradient_horizon.experiments.networks import Networks

    networks = Networks(with_value(config, setting, value))
    log_norms, _, _ = jacobian.every_log_norm(networks, lambda done: None)
    return horizon_of(log_norms["end"]["frobenius"], jacobian.measured_size(networks), config.horizon_threshold)


def _made(factory: Callable[[Any], Any], value: Any) -> Sequence[Callable[..., Any]]:
    """What the factory makes; `SettingError` unless it is a step and two or three functions of a key."""
    made = factory(value)
    if not isinstance(made, Sequence) or len(made) not in (3, 4):
        what = rules.shown(made)
    else:
        wrong = [name for name, one in zip(("step", "params", "h0", "xs"), made, strict=False) if not callable(one)]
        if not wrong:
            return made
        what = f"{wrong[0]} that is no function"
    allowed = "allowed: (step, params, h0) or (step, params, h0, xs), where params(key), h0(key) and xs(key) draw"
    raise SettingError("cell", factory, because=f"the factory returns {what}; {allowed}")


def _of_factory(
    factory: Callable[[Any], Any],
    steps: int,
    seeds: int | Sequence[int],
    *,
    horizon_threshold: float = 3.0,
    precision: str = "float32",
    **others: Any,
) -> tuple[Measure, int]:
    """The horizons of a factory's networks as a function of the value, and the number of seeds."""
    if others:
        name, value = next(iter(others.items()))
        raise SettingError(
            name, value, because="a factory draws its own networks; it reads horizon_threshold and precision"
        )
    every_seed: Any = validation.check_value("seeds", _plain_seeds(seeds))
    threshold = validation.check_value("horizon_threshold", horizon_threshold)
    validation.check_value("precision", precision)
    import jax

    from gradient_horizon.ensembles import blocks
    from gradient_horizon.ensembles.block_size import block_size
    from gradient_horizon.measures.jacobian_norms import log_jacobian_norms
    from gradient_horizon.measures.states import layout_of
    from gradient_horizon.numerics.arrays import available

    dtype = available(precision)

    def network(value: Any, seed: Any) -> Any:
        key = jax.random.key(seed)
        step, *draws = _made(factory, value)
        return step, [draw(key) for draw in draws]

    def measure(one: dict[str, Any]) -> Horizon:
        step, (params, h0, *xs) = network(one["value"], one["seed"])
        norms = log_jacobian_norms(step, params, h0, *xs, **({} if xs else {"steps": steps}))
        if len(norms.lag) != steps:
            raise SettingError("steps", steps, f"{len(norms.lag)}, the length of the inputs that the factory draws")
        return norms.horizon(threshold)

    h0 = jax.eval_shape(lambda value, seed: network(value, seed)[1][1], np.zeros((), dtype), np.uint32(0))
    block = block_size(layout_of(h0).size, steps, precision=precision, backend=jax.default_backend())
    program = blocks.Program(lambda one, _: measure(one))

    def measured(value: float) -> Horizon:
        every = {"value": np.full(len(every_seed), value, dtype), "seed": np.asarray(every_seed, np.uint32)}
        return Horizon(*blocks.map_networks(program, every, block=block))

    return measured, len(every_seed)
