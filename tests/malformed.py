"""A grammar of malformed command lines and presets, without end, and what must become of each of them.

What is wrong with a case is known from the way it is made, never from the rules that it is to be refused by.

    for arguments, files in itertools.islice(cases(seed=1), 10_000):
        assert check(arguments, files) == ""
"""

import contextlib
import io
import json
import math
import os
import random
import string
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gradient_horizon.commands import parser

Case = tuple[list[str], dict[str, str]]
SECONDS = 2.0  # of a processor at most, for one refusal
WAITED = 20.0  # seconds at most, however busy the machine is
LONGEST = 5000  # characters of the line that says what is wrong

# Settings by what their values look like; of each a few values that are allowed.
WORDS = {
    "cell": ["tanh", "relu", "gru", "lstm"],
    "weights": ["gaussian", "orthogonal"],
    "inputs": ["none"],
    "block": ["state"],
    "method": ["auto", "jacrev"],
    "precision": ["float32", "float64"],
    "experiment": ["jacobian", "lyapunov"],
}
TRAINING_WORDS = {"task": ["adding", "digits"], "optimizer": ["sgd", "adam"], "clip": ["book", "none"]}
SWITCHES = ("recheck", "force", "quick_look")
COUNTS = ("hidden_size", "batch_size", "pack", "updates", "test_size", "floss_exponents")
COUNTS_OR_NULL = ("steps", "input_size", "exponents", "distance", "record_every")
FROM_ZERO = ("bias_scale", "input_scale", "state_scale", "noise_scale", "output_scale", "omega")
ABOVE_ZERO = ("horizon_threshold", "floss_rate")
RANGES = ("weight_scales", "learning_rates", "clip_thresholds")
WORD_LISTS = ("norms", "anchors")
SETTINGS = (
    *WORDS, *TRAINING_WORDS, *SWITCHES, *COUNTS, *COUNTS_OR_NULL, *FROM_ZERO, *ABOVE_ZERO, *RANGES, *WORD_LISTS,
    *("leak", "forget_bias", "seeds", "lags", "memory_budget", "name", "output", "transient", "solved_below"),
    *("initialisation", "until_solved", "omega_squared", "floss_updates", "floss_every"),
)  # fmt: skip
FINE = ("steps=7", "cell=relu", "seeds=[3,1]", "weight_scales={start:0.5,stop:1,num:2}", "norms=spectral", "seeds=2")
BREAKS = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")
# what follows a line break, as the harmless stand-in for a command
MARKERS = ("touch marker", "#SBATCH --wrap=touch", "$(touch marker)", "; touch marker", "`touch marker`")
HEADER = "# @package _global_\n"


def word(rng: random.Random, most: int = 9) -> str:
    """Letters that spell no allowed word, no number, and nothing that YAML or Hydra reads as something else."""
    return "q" + "".join(rng.choice(string.ascii_lowercase + "_") for _ in range(rng.randint(1, most))) + "q"


def nested(rng: random.Random, value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {word(rng): value}
    return value


def no_number(rng: random.Random) -> Any:
    """What is no finite number: of any setting that takes one."""
    return rng.choice([
        lambda: word(rng),
        lambda: rng.choice([math.nan, math.inf, -math.inf]),
        lambda: rng.choice([True, False]),
        lambda: {word(rng): rng.randint(0, 9)},
        lambda: nested(rng, rng.randint(1, 9), rng.randint(2, 5)),
        lambda: "",
        lambda: rng.choice([1, -1]) * 10 ** rng.randint(309, 600),
    ])()  # fmt: skip


def wrong_value(rng: random.Random, key: str) -> Any:
    """A value that the setting does not allow, by what the setting means."""
    below = rng.choice([-rng.randint(1, 10**6), -(10 ** rng.randint(1, 30)), -rng.random() - 1e-9])
    fraction = rng.randint(1, 99) + rng.choice([0.5, 0.25, 0.125])
    too_many = 2**31 + rng.randint(0, 2**40) if rng.random() < 0.5 else 10 ** rng.randint(10, 300)
    if key in WORDS or key in TRAINING_WORDS or key == "initialisation":
        given = [
            word(rng),
            rng.randint(0, 99),
            True,
            fraction,
            [word(rng)],
            {},
            math.nan,
            "tanh ".upper(),
            word(rng, 300),
        ]
        return rng.choice(given if key == "initialisation" else [*given, None])
    if key in (*SWITCHES, "until_solved", "omega_squared"):
        return rng.choice([rng.randint(0, 9), word(rng), None, fraction, [True], {word(rng): True}, "yes please"])
    if key in COUNTS:
        return rng.choice([0, None, below, fraction, too_many, no_number(rng)])
    if key in COUNTS_OR_NULL:
        return rng.choice([0, below, fraction, too_many, no_number(rng)])
    if key in ("transient", "floss_updates", "floss_every"):
        return rng.choice([below, fraction, too_many, no_number(rng)])
    if key in FROM_ZERO:
        return rng.choice([None, below, no_number(rng)])
    if key in ABOVE_ZERO:
        return rng.choice([None, 0, -0.0, below, no_number(rng)])
    if key == "leak":
        return rng.choice([None, 0, below, fraction, no_number(rng)])
    if key == "forget_bias":
        return rng.choice([None, no_number(rng)])
    if key == "solved_below":
        return rng.choice([0, below, no_number(rng)])
    if key == "memory_budget":
        return rng.choice([0, below, no_number(rng), 10.0 ** rng.randint(7, 308), 1e300, too_many * 10**6])
    if key in RANGES:
        return wrong_range(rng, below, fraction)
    if key in WORD_LISTS:
        return rng.choice([
            [], None, {}, word(rng), rng.randint(0, 9), True, [word(rng)], [["spectral"]], [word(rng), word(rng)],
            ["spectral", "spectral"] if key == "norms" else ["end", "end"],
        ])  # fmt: skip
    if key == "seeds":
        twice = rng.randint(0, 99)
        return rng.choice([
            [], None, {}, 0, below, fraction, [twice, twice], [twice, fraction], [below], [2**32 + twice], [[twice]],
            [True], word(rng), [word(rng)], True, 10 ** rng.randint(8, 300), math.nan, {"start": 0, "stop": 3},
        ])  # fmt: skip
    if key == "lags":
        twice = rng.randint(1, 99)
        return rng.choice(
            [[], {}, 0, [0], below, fraction, [twice, twice], [[twice]], word(rng), [True], True, [math.nan]]
        )
    if key == "name":
        slash = rng.choice(["../", "/", "a/", "./"]) + word(rng)
        unseen = word(rng) + rng.choice([*BREAKS, "\x07", "\x7f", "\u202e"]) + word(rng)
        return rng.choice(
            [slash, unseen, "..", ".", "", " ", "x" * rng.randint(201, 400), 7, True, [word(rng)], {}, fraction]
        )
    assert key == "output"
    unseen = word(rng) + rng.choice([*BREAKS, "\x07", "\x7f", "\u202e"]) + rng.choice(MARKERS)
    return rng.choice([unseen, None, True, 7, fraction, [word(rng)], {}, "x" * rng.randint(300, 900), "/dev/null/x"])


def wrong_range(rng: random.Random, below: float, fraction: float) -> Any:
    whole = {"start": 0.5, "stop": 2.5, "num": 3, "spacing": rng.choice(["linear", "log"])}
    odd: dict[str, list[Any]] = {
        "start": [True, "a", None, math.nan, math.inf, [1], 10**400, below],
        "stop": [False, "b", None, math.nan, -math.inf, {}, 0.5, -(10**400)],
        "num": [True, False, 0, -1, 2.0, fraction, "three", None, 10**12, [3], math.nan],
        "spacing": [True, 3, None, "square", [], word(rng)],
    }
    part = rng.choice([*odd])
    lacking = {name: value for name, value in whole.items() if name != rng.choice(["start", "stop", "num"])}
    if len(lacking) == 4:
        del lacking["num"]
    return rng.choice([
        {**whole, part: rng.choice(odd[part])},
        {**whole, part: rng.choice(odd[part])},
        lacking,
        {**whole, word(rng): rng.randint(0, 9)},
        [], {}, "", word(rng), True, below, [below], [fraction, fraction], [[fraction]], [word(rng)], [True, fraction],
        [math.nan], math.inf, [None], [fraction, 10**400],
    ])  # fmt: skip


def typed(value: Any) -> str:
    """The value in the grammar of Hydra."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{typed(entry)}' for key, entry in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and not value.replace("_", "").isalnum():
        return f"'{value}'"
    return str(value)


def as_json(value: Any) -> str:
    """The value as YAML, which takes JSON but for what is no finite number."""
    return json.dumps(value).replace("NaN", ".nan").replace("-Infinity", "-.inf").replace("Infinity", ".inf")


def changed(rng: random.Random, text: str) -> str:
    """The text with one character more, less or other, and no name of a setting."""
    while True:
        place = rng.randrange(len(text))
        new = text[:place] + rng.choice(["", word(rng, 1), rng.choice(string.ascii_lowercase)]) + text[place + 1 :]
        if new and new not in SETTINGS and new[0].isalpha() and new not in ("sweeps", "defaults", "hydra"):
            return new


def value_typed(rng: random.Random) -> list[str]:
    key = rng.choice(SETTINGS)
    return [f"{rng.choice(['', '', '', '+', '++'])}{key}={typed(wrong_value(rng, key))}"]


def key_unknown(rng: random.Random) -> list[str]:
    key = rng.choice(SETTINGS)
    name = rng.choice(
        [changed(rng, key), f"{key}.{word(rng)}", f"{key}.0", word(rng, 40), f"{key}/{word(rng)}", key.upper()]
    )
    return [f"{rng.choice(['', '+', '++', '~'])}{name}={typed(wrong_value(rng, key))}"]


def deleted(rng: random.Random) -> list[str]:
    key = rng.choice([*SETTINGS, "sweeps", "hydra", "hydra/launcher", "hydra.launcher.n_jobs", word(rng)])
    return [f"~{key}{rng.choice(['', '=', '=tanh', f'={word(rng)}'])}"]


def broken(rng: random.Random) -> list[str]:
    key = rng.choice(SETTINGS)
    opened = "".join(
        rng.choice(["[", "{a:", "[1,", "{b:[", "choice(", "range(1,", "'", '"', "[[", "${"]) for _ in range(9)
    )
    return [
        rng.choice([
            lambda: f"{key}={opened[: rng.randint(1, len(opened))]}[",
            lambda: f"{key}={'[' * rng.randint(1, 3000)}{']' * rng.randint(0, 1)}[",
            lambda: f"{key}={'[' * 30}1{']' * 30}",
            lambda: f"={word(rng)}",
            lambda: key,
            lambda: f"{word(rng)} {word(rng)}=3",
            lambda: f"{key}={rng.choice(BREAKS)}]{word(rng)}",
            lambda: f"{key}==={rng.choice(')]}')}",
            lambda: rng.choice([" ", "@", "@=", "a@b", "~", "+", "++", "+=1", "~=1", ":", "\\", "'", '"', "\x00=1",
            "\udcff=1"]),
            lambda: f"{key}={word(rng)}{rng.choice(')]}')}",
            lambda: f"{key}=({'(' * rng.randint(0, 500)}",
            lambda: f"{rng.choice(string.punctuation.replace('-', '').replace('_', ''))}{key}=]",
            lambda: f"{key}=" + "9" * rng.randint(4301, 9000),
            lambda: f"{key}=[{','.join(['[1]'] * rng.randint(1, 200))}",
            lambda: f"{key}={'x' * rng.randint(20_001, 99_999)}",
        ])()
    ]  # fmt: skip


def function(rng: random.Random) -> list[str]:
    key = rng.choice([key for key in SETTINGS if key not in ("experiment", "name", "output")])
    number = rng.randint(1, 9)
    misused = rng.choice([
        "glob(*)", f"glob([{word(rng)},*])", "glob(include=*,exclude=t*)", "interval(0,1)", "tag(a,interval(0,1))",
        f"shuffle({number},{number + 1})", f"shuffle(range(1,{number + 2}))", "shuffle([1,2])", "choice()", "range()",
        f"range({word(rng)},{number})", f"range(1,{number + 1},0)", f"range({number},{number})", f"range({number},0)",
        "range(1,1e9,0.001)", f"range(1,{10 ** rng.randint(9, 40)})", "range(nan,3)", "range(0,inf)", "range(0,1,nan)",
        f"range(0.5,{number}.5,0.0)", f"choice(range(1,{number}))", "sort(glob(*))", "sort(interval(0,1))", "tag(a)",
        f"{word(rng)}({number})", f"int({word(rng)})", "extend_list(1)", "bool(7,8,q)", f"str([{number}])extra",
        "range(true,3)",
        f"float({word(rng)})", "sort(1,a,[2])", "choice(interval(0,1))", f"choice({word(rng)},glob(*))", "int(nan)",
        "int(1e400)",
    ])  # fmt: skip
    return [f"{key}={misused}", *rng.choice([["-m"], ["-m"], []])]


def swept(rng: random.Random) -> list[str]:
    """Several values without -m, or one of several that is wrong, or a sweep of what cannot be swept."""
    key = rng.choice(SETTINGS)
    wrong = typed(wrong_value(rng, key)) or "''"
    return rng.choice([
        [rng.choice(["cell=tanh,relu", "steps=range(1,9)", "seeds=[1],[2]", "cell=choice(tanh,relu)",
        "steps=sort(3,1)"])],
        [f"{key}={wrong},{wrong}", "-m"],
        [f"cell=tanh,{word(rng)}", "-m"],
        [f"steps=3,{rng.choice(['0', '-1', 'true', 'null', '[1]', '1.5'])}", "-m"],
        [f"name={word(rng)},{word(rng)}", "-m"],
        [f"output={word(rng)},{word(rng)}", "-m"],
        ["experiment=jacobian,lyapunov", "-m"],
        ["pack=1,2", "-m"],
        ["force=true,false", "-m"],
        [f"steps=range(1,{rng.randint(400, 999)})", f"hidden_size=range(1,{rng.randint(400, 999)})", "-m"],
        [f"hydra/launcher={rng.choice(['joblib,slurm', 'basic,basic', 'choice(slurm)', 'glob(*)'])}", "-m"],
        ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={rng.choice(['1,2', 'range(1,3)', 'glob(*)'])}", "-m"],
    ])  # fmt: skip


def line(rng: random.Random) -> str:
    """A text with a line of its own that would be a command."""
    return word(rng) + rng.choice(BREAKS) + rng.choice(MARKERS)


TEXTS = (
    "partition",
    "qos",
    "comment",
    "constraint",
    "exclude",
    "gres",
    "account",
    "name",
    "mem_per_cpu",
    "mem_per_gpu",
)
NUMBERS = (
    *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "cpus_per_gpu"),
    *("gpus_per_task", "signal_delay_s", "max_num_timeout", "array_parallelism"),
)
NO_OPTIONS = (
    "python",
    "srun_args",
    "teardown",
    "use_srun",
    "submitit_folder",
    "wckey",
    "mail_user",
    "dependency",
    "_target_",
)
OF_JOBLIB: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("backend", ("threading", "multiprocessing", "dask", "ray")),
    ("prefer", ("threads", "none")),
    ("require", ("sharedmem", "x")),
    ("mmap_mode", ("w", "x", "r++")),
    ("pre_dispatch", ("__import__('os')", "2**9", "2*n_jobs+1", "9**9**9", "-1")),
    ("batch_size", ("all", "-2", "1.5")),
    ("max_nbytes", ("1X", "lots", "-1")),
    ("n_jobs", (0, 10**9, "many")),
    ("timeout", (0, -1, "long")),
    ("verbose", (-1, 10**6)),
    ("temp_folder", ("/tmp/x\ntouch marker",)),
)
OF_RAY: tuple[tuple[str, Any], ...] = (
    ("ray.init.runtime_env", {"pip": ["evil"]}),
    ("ray.init.runtime_env", {"py_executable": "touch marker"}),
    ("ray.init._temp_dir", "/tmp"),
    ("ray.remote.runtime_env", {"env_vars": {"PATH": "/tmp"}}),
    ("ray.remote.name", "x"),
    ("ray.env.PATH", "/tmp"),
    ("ray.nothing", 1),
)


def option(rng: random.Random) -> tuple[str, str, Any]:
    """A launcher, one of its options, and a value that it does not allow whoever sets it."""
    joblib_name, joblib_values = rng.choice(OF_JOBLIB)
    ray_name, ray_value = rng.choice(OF_RAY)
    flags = {rng.choice(["comment", "output", "Wrap it", "a b", "x\ny", "-x"]): line(rng)}
    return rng.choice([
        ("slurm", rng.choice(TEXTS), line(rng)),
        ("slurm", rng.choice(TEXTS), line(rng)),
        ("slurm", rng.choice(TEXTS), rng.choice(["'", '"', "\\", "`", "$"]) + word(rng)),
        ("slurm", rng.choice(NUMBERS), rng.choice([line(rng), word(rng), -1, 10**9, -1.5])),
        ("slurm", rng.choice(NO_OPTIONS), rng.choice([line(rng), word(rng), [word(rng)], True])),
        ("slurm", "setup", [line(rng)]),
        ("slurm", "setup", rng.choice([line(rng), [[word(rng)]], {word(rng): 1}, [[1]]])),
        ("slurm", "additional_parameters", flags),
        ("slurm", "stderr_to_stdout", rng.choice([line(rng), [True], 7])),
        ("joblib", joblib_name, rng.choice(joblib_values)),
        ("joblib", word(rng), rng.randint(1, 9)),
        ("joblib", ray_name, ray_value),
        ("slurm", ray_name, ray_value),
    ])  # fmt: skip


def launcher(rng: random.Random) -> list[str]:
    name, key, value = option(rng)
    prefix = rng.choice(["", "", "+", "++"])
    return rng.choice([
        [f"hydra/launcher={name}", f"{prefix}hydra.launcher.{key}={typed(value)}"],
        [f"hydra/launcher={name}", f"{prefix}hydra.launcher.{key}={typed(value)}", "-m", "cell=tanh,relu"],
        [f"hydra/launcher={rng.choice([word(rng), 'submitit_local', 'ray_aws', '', 'null', '[slurm]', '../slurm'])}"],
        [f"{rng.choice(['+', '++'])}hydra/launcher=nothing"],
        [f"hydra.launcher={{{word(rng)}:1}}"],
        [f"hydra/launcher@hydra.{word(rng)}=slurm"],
    ])  # fmt: skip


def hydras(rng: random.Random) -> list[str]:
    key = rng.choice([
        "hydra", "hydra.mode", "hydra.run.dir", "hydra.sweep.dir", "hydra.searchpath", "hydra.sweeper",
        "hydra.callbacks",
        "hydra.sweeper.params.cell", "hydra.job.name", "hydra.job.env_set.PATH", "hydra/job_logging", "hydra/sweeper",
        "hydra/hydra_logging", "hydra/help", "hydra/output", "hydra.job_logging", "hydra/callbacks",
        f"hydra.{word(rng)}",
        "hydra.launcher._target_", f"hydra.launcher.{word(rng)}._target_", f"hydra/{word(rng)}", "hydra.verbose",
    ])  # fmt: skip
    value = rng.choice([
        "os.system", "{_target_:os.system}", "{a:{_target_:subprocess.run}}", "MULTIRUN", "[file:///tmp]", "null",
        "true",
        "7", word(rng), "default", "tanh,relu", "[]", "{}", "${oc.env:HOME}", "'touch marker'",
    ])  # fmt: skip
    return [f"{rng.choice(['', '+', '++', '~'])}{key}={value}"]


def packaged(rng: random.Random) -> list[str]:
    group = rng.choice(["experiment", "sweeps", "hydra/launcher", "cell", "steps", word(rng)])
    where = rng.choice(
        ["hydra.launcher", "_global_", "_group_", "hydra", "a:b", ":b", "a.b", word(rng), "experiment:cell"]
    )
    return [
        f"{rng.choice(['', '+', '++', '~'])}{group}@{where}={rng.choice(['training', 'main', 'slurm', 'tanh', '3'])}"
    ]


def preset_chosen(rng: random.Random) -> list[str]:
    return rng.choice([
        [f"+sweeps={word(rng)}"], ["sweeps=main"], ["++sweeps=main"], ["~sweeps"], ["~sweeps=main"], ["+sweeps=[main]"],
        ["+sweeps=main", "+sweeps=edge"], [f"+sweeps=main,{word(rng)}", "-m"], ["+sweeps=main,edge", "-m"],
        ["+sweeps=null"],
        [f"+sweeps=../{word(rng)}"], ["+sweeps=/etc/passwd"], ["+sweeps="], ["+sweeps={main:1}"], ["+sweeps=glob(*)",
        "-m"],
        ["+sweeps=${cell}"], ["+sweeps=mian"], [f"+sweeps/{word(rng)}=main"], [f"+sweeps.{word(rng)}=main"],
        ["+sweeps=7"],
        ["+sweeps=main", value_typed(rng)[0]], ["+sweeps=main", key_unknown(rng)[0]], ["+sweeps=main", broken(rng)[0]],
    ])  # fmt: skip


# Settings of which each is allowed, and not together.
UNFIT = (
    ["experiment=lyapunov", "steps={n}", "transient={n}"],
    ["experiment=lyapunov", "hidden_size={n}", "exponents=9{n}"],
    ["experiment=singular_values", "steps={n}", "lags=[9{n}]"],
    ["experiment=nodes", "cell=gru"],
    ["experiment=nodes", "cell=lstm"],
    ["method=pullback", "anchors=[start]"],
    ["method=pushforward", "steps={n}"],
    ["block=cell", "steps={n}"],
    ["input_size={n}"],
    ["experiment=training", "updates={n}", "record_every=9{n}"],
    ["experiment=training", "task=adding", "distance=9{n}"],
    ["experiment=training", "initialisation=irnn", "cell=gru"],
    ["experiment=training", "omega=0.{n}", "cell=lstm"],
    ["experiment=training", "hidden_size={n}", "floss_exponents=9{n}"],
    ["experiment=notes", "cell=relu"],
    ["experiment=pairs", "norms=spectral"],
    ["experiment=nodes", "lags={n}"],
    ["experiment=input_gradients", "inputs=none"],
    ["learning_rates=0.{n}"],
    ["updates={n}"],
    ["exponents={n}"],
    ["task=adding"],
    ["forget_bias=0,{n}", "-m"],
    ["noise_scale=1,2{n}", "-m"],
    ["experiment=training", "clip=none", "clip_thresholds=[{n},9{n}]"],
    ["hydra.launcher.n_jobs={n}"],
    ["hydra.launcher.partition=p{n}"],
    ["hydra/launcher=joblib", "hydra.launcher.partition=p{n}"],
    ["hydra/launcher=slurm", "hydra.launcher.n_jobs={n}"],
    ["weight_scales=[0.5,", "{n}]"],
    ["weight_scales={{start:", "0.5,", "stop:", "{n}9}}"],
)


def unfit(rng: random.Random) -> list[str]:
    number = rng.randint(1, 9)
    return [text.format(n=number) for text in rng.choice(UNFIT)]


def not_run(rng: random.Random) -> list[str]:
    """Other commands, and options that there are not."""
    option = rng.choice([f"--{word(rng)}", f"-{rng.choice('xyzq')}", f"--{word(rng)}={word(rng)}", f"--{line(rng)}"])
    return rng.choice([
        ["run", option], ["run", "cell=relu", option, "steps=3"], [word(rng)], ["status", word(rng)], ["collect",
        word(rng)],
        ["figures", word(rng)], ["settings", f"cell={word(rng)}"], ["settings", f"experiment={word(rng)}"],
        ["settings", "experiment=notes", "experiment=pairs"], ["verify", "-o", f"{word(rng)}.txt"], ["status"],
        ["collect"],
        ["completion", word(rng)], ["verify", "-o", f"{word(rng)}/x.html"], ["collect", word(rng), "-o", word(rng)],
        [option],
        ["status", line(rng)], ["figures", line(rng)], ["figures", "--draw-only", word(rng)],
    ])  # fmt: skip


def preset_value(rng: random.Random) -> str:
    key = rng.choice(SETTINGS)
    value = wrong_value(rng, key)
    before = {"steps": 7} if rng.random() < 0.5 and key != "steps" else {}
    if rng.random() < 0.5:
        return HEADER + as_json({**before, key: value})
    return HEADER + "".join(f"{name}: {as_json(entry)}\n" for name, entry in {**before, key: value}.items())


def preset_key(rng: random.Random) -> str:
    key = rng.choice(SETTINGS)
    name = rng.choice(
        [changed(rng, key), word(rng, 40), f"{key}.x", "_target_", "sweeps", "1", "true", "null", "", "x y", "é"]
    )
    return HEADER + f"{json.dumps(name) if rng.random() < 0.7 else name}: {as_json(wrong_value(rng, key))}\n"


def preset_hydra(rng: random.Random) -> str:
    launcher_name, key, value = option(rng)
    chosen: dict[str, Any] = {key: value}
    if "." in key:
        head, middle, *rest = key.split(".")
        chosen = {head: {middle: {rest[0]: value} if rest else value}}
    own = {rng.choice(["setup", "account", "additional_parameters", "stderr_to_stdout"]): word(rng)}
    own |= {"setup": ["touch marker"]} if rng.random() < 0.5 else {}
    section: Any = rng.choice([
        {"launcher": chosen}, {"launcher": chosen}, {"launcher": own}, {"launcher": own}, {"launcher": None}, None,
        {"sweeper": None}, {"sweeper": rng.randint(0, 9)}, {"sweeper": [word(rng)]},
        {"sweeper": {"params": [word(rng)]}},
        {"sweeper": {"params": {word(rng): "1,2"}}}, {"sweeper": {"params": {"cell": None}}}, rng.randint(0, 9), [],
        word(rng),
        {"sweeper": {"params": {"cell": f"tanh,{word(rng)}"}}},
        {"sweeper": {"params": {"hydra.launcher.setup": "[a],[b]"}}},
        {"sweeper": {"params": {rng.choice(["name", "output", "pack", "force"]): "1,2"}}}, {"mode": rng.randint(0, 9)},
        {"sweeper": {"params": {"cell": rng.choice(["glob(*)", "interval(0,1)", "shuffle(tanh,gru)", "[",
        "range(1,3)", ""])}}},
        {"sweeper": {"params": {"+sweeps": "main"}}}, {"sweeper": {"params": {"experiment": "jacobian,pairs"}}},
        {"sweeper": {"params": {"steps": rng.choice(["3,0", "range(1,9,0)", "3,${oc.env:HOME}", line(rng), True,
        [[1]]])}}},
        {"sweeper": {"_target_": "os.system"}}, {"launcher": {"_target_": "os.system"}}, {"mode": word(rng)},
        {"mode": [1]},
        {"callbacks": {"a": {"_target_": "os.system"}}}, {"run": {"dir": "/tmp"}},
        {"job": {"env_set": {"PATH": "/tmp"}}},
        {"searchpath": ["file:///tmp"]}, {"output_subdir": "x"}, {word(rng): word(rng)}, {"launcher": [chosen]},
    ])  # fmt: skip
    defaults = {"defaults": [{"override /hydra/launcher": launcher_name}]} if rng.random() < 0.5 else {}
    return HEADER + as_json({**defaults, "hydra": section})


def preset_defaults(rng: random.Random) -> str:
    name = word(rng)
    entries: Any = rng.choice([
        [{"override /hydra/launcher": rng.choice([name, "../x", "/tmp/x", None, ["slurm"], "cloud", "submitit_local",
        3])}],
        [{"override /experiment": rng.choice([name, None, 3, ["training"], "../config", "jacobian,pairs"])}],
        [{"override hydra/launcher": "slurm"}], [{"/hydra/launcher": "slurm"}], [{"/hydra/job_logging": "default"}],
        [{"override /hydra/job_logging": "default"}], [{"override /hydra/sweeper": "basic"}], [{name: name}], [name],
        [{"/experiment@hydra.launcher": "training"}], [{f"/{name}@hydra.launcher": name}], ["main"], ["/sweeps/main"],
        [{"optional /experiment": "x"}], rng.randint(0, 9), None, name, {name: 1}, [[]], [None], [{}], ["_self_",
        {"a": 1, "b": 2}],
        [{"override /experiment@a": "training"}], [{"override /experiment": "training",
        "override /hydra/launcher": "slurm"}],
        [{"/hydra": "launcher"}], [{"override /settings": "x"}], ["/config"], [f"../{name}"], ["_self_",
        rng.randint(0, 9)],
    ])  # fmt: skip
    return HEADER + as_json({"defaults": entries, "steps": rng.randint(2, 9)})


def preset_anchors(rng: random.Random) -> str:
    key, a = rng.choice(SETTINGS), word(rng)
    levels = rng.randint(2, 30)
    bomb = "".join(
        f"{word(rng)}: &{a}{n} [{','.join([f'*{a}{n - 1}'] * rng.randint(2, 9)) if n else '1'}]\n"
        for n in range(levels)
    )
    return HEADER + rng.choice([
        bomb, f"{key}: &{a} [*{a}]\n", f"{key}: &{a} {{b: *{a}}}\n", f"&{a} {key}: [*{a}]\n", f"{key}: *{a}\n",
        f"steps: &{a} 7\nhidden_size: *{a}\n", f"hydra: &{a} {{sweeper: *{a}}}\n", f"x: &{a} {{steps: 3}}\n<<: *{a}\n",
        f"defaults: &{a} [*{a}]\n", f"seeds: &{a} [1, *{a}]\n<<: {{steps: 3}}\n", f"{key}: [&{a} 1, *{a}, *{a}]\n",
    ])  # fmt: skip


def preset_deep(rng: random.Random) -> str:
    key, depth = rng.choice([*SETTINGS, "hydra", "defaults", word(rng)]), rng.randint(11, 3000)
    return HEADER + rng.choice([
        f"{key}: {'[' * depth}{']' * depth}\n", f"{key}: {'[' * depth}\n", f"{key}: {'{a: ' * depth}1{'}' * depth}\n",
        f"{key}:\n  {'- ' * depth}1\n", f"{key}: {'[{a: ' * depth}1{'}]' * depth}\n", f"{key}: {'? ' * depth}1\n",
        f"{key}:\n" + "".join(f"{' ' * n}a:\n" for n in range(1, min(depth, 200))), "[" * depth, "{" * depth,
        "- " * depth + "1",
    ])  # fmt: skip


def preset_text(rng: random.Random) -> str:
    key, value = rng.choice(SETTINGS), word(rng)
    noise = "".join(chr(rng.choice([*range(32), *range(127, 160), 0x2028, 0xFEFF, 0xDC80, 0xDCFF])) for _ in range(20))
    return rng.choice([
        f"{HEADER}{key}: [\n", f"{HEADER}- {value}\n", f"{HEADER}{value}\n", f"{HEADER}{key}: {value}: {value}\n",
        HEADER, "",
        f"{HEADER}\t{key}: {value}\n", f"{HEADER}steps: 3\nsteps: {rng.randint(4, 99)}\n", f"# {value}\n",
        f"steps: {rng.randint(1, 99)}\n",
        f"{HEADER}{key}: !!python/object/apply:os.system ['touch marker']\n",
        f"{HEADER}{key}: !!python/name:os.system\n",
        f"{HEADER}{key}: !{value} 3\n", f"{HEADER}steps: !!int 3\n", f"{HEADER}steps: !!binary aGVsbG8=\n",
        f"{HEADER}! steps: 3\nx{value}",
        f"{HEADER}steps: 3\n---\nsteps: 4\n", f"{HEADER}steps: 3\n...\n{value}", f"{HEADER}{noise}", noise,
        f"{HEADER}{key}: {noise}\n",
        f"# @package {rng.choice(['hydra.launcher', 'hydra', '_group_', value])}\nsteps: {rng.randint(1, 99)}\n",
        f"# @package hydra.launcher\n{HEADER}setup: [touch marker]\n", f"{HEADER}{HEADER}steps: {rng.randint(1, 99)}\n",
        f"{HEADER}cell: ${{oc.env:{value.upper()}}}\n", f"{HEADER}steps: ${{hidden_size}}\n",
        f"{HEADER}{key}: ${{{value}\n",
        f"{HEADER}{key}: ???\n", f"{HEADER}name: x${{oc.env:HOME,{value}}}\n", f"{HEADER}? [{value}]\n: 1\n",
        f"{HEADER}? {{a: 1}}\n",
        f"{HEADER}seeds: [{', '.join(map(str, range(rng.randint(10_500, 11_000))))}]\nx: 1\n",
        f"{HEADER}#{'x' * 70_000}\n",
        f"{HEADER}{key}: '{value}\n", f"{HEADER}{key}: \"\\x{value}\"\n", f"{HEADER}%YAML 9.9\n---\nsteps: 3\n",
        f"{HEADER}steps: 3 # x\n\x00",
        f"{HEADER}steps: {'9' * 5000}\n", f"{HEADER}{key}: |\n  {value}\n {value}\n",
        f"{HEADER}{'x' * 2000}: {value}\n", "\ufeff" + value,
        f"{HEADER}" + "".join(f"{word(rng)}: {n}\n" for n in range(200)), f"{HEADER}steps: 1e400\n",
        f"{HEADER}steps: 0x{value}\n",
        f"{HEADER}steps: 1_000:99:{value}\n", f"{HEADER}{key}: @{value}\n", f"{HEADER}{key}: `{value}`\n",
        f"{HEADER}{key}: %{value}\n",
    ])  # fmt: skip


LINES: tuple[Callable[[random.Random], list[str]], ...] = (
    *(value_typed, value_typed, key_unknown, deleted, broken, function, swept, launcher, launcher, hydras, packaged),
    *(preset_chosen, unfit),
)
FILES: tuple[Callable[[random.Random], str], ...] = (
    *(preset_value, preset_value, preset_key, preset_hydra, preset_hydra, preset_defaults, preset_anchors, preset_deep),
    *(preset_text, preset_text),
)


def cases(seed: int) -> Iterator[Case]:
    """Arguments of the command and files of its working folder, by their names; a name that ends in / is a folder.

    Each case is wrong. Bytes that are no text stand in a file's text as Python's surrogate escapes.
    """
    rng = random.Random(seed)
    while True:
        kind = rng.random()
        if kind < 0.04:
            yield not_run(rng), {}
        elif kind < 0.6:
            wrong = rng.choice(LINES)(rng)
            flags = [text for text in wrong if text == "-m"]
            settings = [text for text in wrong if text != "-m"]
            names = {text.lstrip("+~").partition("=")[0].partition("@")[0].strip() for text in settings}
            # in front of it alone: the last value of a setting counts; what decides whether it fits stays as it is
            free = [text for text in FINE if text.partition("=")[0] not in names]
            before = rng.sample(free, rng.randint(0, 2)) if len(settings) == 1 else []
            yield ["run", *flags, *before, *settings], {}
        else:
            name = word(rng)
            path = f"sweeps/{name}.yaml" + ("/" if rng.random() < 0.01 else "")
            text = "" if path.endswith("/") else rng.choice(FILES)(rng)
            yield ["run", *rng.choice([[], ["-m"]]), f"+sweeps={name}"], {path: text}


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode(errors="surrogateescape"))


def _there(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def fault(status: object, out: str, err: str) -> str:
    """What is wrong with the answer to malformed input; empty where it is one line and status 2."""
    if status != 2:
        return f"status {status}: {(out + err).strip()[-300:]}"
    if out:
        return f"standard output: {out[:300]}"
    if len(err.splitlines()) != 1 or not err.endswith("\n"):
        return f"{len(err.splitlines())} lines: {err[:300]}"
    if not err.startswith("gradient-horizon: ") or "Traceback" in err:
        return f"no refusal: {err[:300]}"
    return f"a line of {len(err)} characters: {err[:300]}" if len(err) > LONGEST else ""


def within(
    folder: Path, arguments: list[str], files: dict[str, str], run: Callable[[list[str]], tuple[object, str, str]]
) -> str:
    """What was wrong with the answer of `run`, in this folder, to the arguments; that it wrote something included."""
    _write(folder, files)
    before = _there(folder)
    # what is accepted after all is said, and not computed
    dry = [*arguments[:1], "--dry-run", *arguments[1:]] if arguments[:1] == ["run"] else arguments
    begun, worked = time.monotonic(), time.process_time()
    told = run(dry)
    waited, worked = time.monotonic() - begun, time.process_time() - worked
    wrong = fault(*told)
    if not wrong and _there(folder) != before:
        wrong = f"files: {sorted(_there(folder))}"
    return wrong or (f"{worked:.1f} s of work in {waited:.1f} s" if worked > SECONDS or waited > WAITED else "")


def _in_process(arguments: list[str]) -> tuple[object, str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            status: object = parser.main(arguments)
        except SystemExit as stop:
            status = stop.code
        except BaseException as error:
            return f"{type(error).__name__}: {error}"[:300], out.getvalue(), err.getvalue()
    return status, out.getvalue(), err.getvalue()


def check(arguments: list[str], files: dict[str, str]) -> str:
    """Run the command in this process, in an empty folder with these files; what was wrong, or an empty text."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return within(Path(folder), arguments, files, _in_process)
        finally:
            os.chdir(here)


def count(number: int, seed: int = 0) -> tuple[int, list[str]]:
    """How many of `number` cases were refused as they should be, and what was wrong with each of the others."""
    found = []
    for (arguments, files), _ in zip(cases(seed), range(number), strict=False):
        if wrong := check(arguments, files):
            found.append(f"{wrong}\n    {arguments!r:.300} {files!r:.600}")
    return number - len(found), found
