"""Whatever is typed or stands in a file: one line that names the setting, exit status 2, and nothing is written."""

import contextlib
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import malformed
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradient_horizon.commands import parser
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings import schema, validation

FOLDER = "sweeps"


def refuses(key: str, value: object) -> bool:
    """Whether the setting does not allow the value, by its own rule."""
    try:
        validation.check_value(key, value)
    except SettingError:
        return True
    return False


KEYS = st.sampled_from(sorted(schema.FIELDS))
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,12}", fullmatch=True)
NUMBERS = st.integers() | st.integers(-3, 3) | st.floats() | st.sampled_from([10**400, 1e308, -0.0])
PLAIN = st.none() | st.booleans() | NUMBERS | st.from_regex(r"[a-zA-Z_]{1,8}", fullmatch=True)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=5
)


# What is wrong: the words that are typed, and the word that the answer must hold.
WRONG_VALUES = (
    st.tuples(KEYS, VALUES)
    .filter(lambda pair: refuses(*pair))
    .map(lambda pair: (f"{pair[0]}={malformed.typed(pair[1])}", pair[0]))
)
UNKNOWN = st.tuples(st.sampled_from(["", "+", "++"]), NAMES, VALUES).filter(
    lambda parts: parts[1] not in (*schema.FIELDS, "sweeps", "hydra")
)
UNKNOWN_KEYS = UNKNOWN.map(lambda parts: (f"{parts[0]}{parts[1]}={malformed.typed(parts[2])}", parts[1]))
DELETED = KEYS.map(lambda key: (f"~{key}", key))
SWEPT = st.sampled_from([("cell=tanh,relu", "cell"), ("steps=range(1,9)", "steps"), ("seeds=[1],[2]", "seeds")])
CODE = st.sampled_from(
    [
        ("+hydra.launcher._target_=os.system", "hydra.launcher"),
        ("hydra/job_logging=default", "hydra/job_logging"),
        ("hydra.callbacks={a:{_target_:os.system}}", "hydra.callbacks"),
        ("hydra/launcher=cloud", "hydra/launcher"),
        ("hydra.run.dir=/tmp", "hydra.run.dir"),
        ("cell=${oc.env:HOME}", "cell"),
        ("steps=${hydra.nothing}", "steps"),
        ("name=../x", "name"),
        ("name=/etc", "name"),
        (f"name={'x' * 300}", "name"),
        (f"output={'x/' * 5000}", "output"),
        ("output=/dev/null/x", "output"),
        ("seeds=99999999999999", "seeds"),
        ("weight_scales={start:0,stop:1,num:99999999999}", "weight_scales"),
        ("+sweeps=nothing", "sweeps"),
        ("experiment=main", "experiment"),
    ]
)
BROKEN = st.sampled_from(
    ["cell", "=3", "cell=[", "cell={a", "cell=a(", "cell=[a,", "cell='", "a b=3", "cell=" + "[" * 2000]
)
UNREADABLE = BROKEN.map(lambda text: (text, "override"))
FINE = st.sampled_from(
    ["steps=7", "cell=relu", "seeds=[3,1]", "weight_scales={start:0.5,stop:1,num:2}", "norms=spectral"]
)
LISTS = st.tuples(
    st.lists(FINE, max_size=2, unique=True),
    st.one_of(WRONG_VALUES, WRONG_VALUES, UNKNOWN_KEYS, DELETED, SWEPT, CODE, UNREADABLE),
    st.lists(FINE, max_size=2, unique=True),
)


def run(*arguments: str) -> tuple[int | str | None, str, str]:
    """Exit status, standard output and standard error of the command."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            status = parser.main(arguments)
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def assert_refused(told: tuple[int | str | None, str, str], named: str, before: dict[str, bytes]) -> None:
    status, out, err = told
    assert (status, out) == (2, ""), err
    assert err.startswith("gradient-horizon: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert named in err
    assert files() == before


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@given(LISTS)
@settings(max_examples=400, deadline=None)
def test_a_malformed_list_of_settings_is_refused_in_one_line(parts):
    before, (wrong, named), after = parts
    # the last value of a setting counts: what follows must not mend it
    after = [text for text in after if text.partition("=")[0] != wrong.lstrip("+~").partition("=")[0]]
    assert_refused(run("run", *before, wrong, *after), named, {})


PRESETS = st.one_of(
    st.tuples(KEYS, VALUES).filter(lambda pair: refuses(*pair)).map(lambda pair: (pair[0], {pair[0]: pair[1]})),
    st.tuples(NAMES, VALUES)
    .filter(lambda pair: pair[0] not in (*schema.FIELDS, "defaults"))
    .map(lambda pair: ("", dict([pair]))),
    st.sampled_from(
        [
            ("hydra.launcher", {"hydra": {"launcher": {"_target_": "os.system"}}}),
            ("bad", {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": ["cell"]}}}),
            ("cell", {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"cell": "tanh,foo"}}}}),
            ("depth", {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"depth": "1,2"}}}}),
            ("", {"hydra": {"sweeper": 3}}),
            ("", {"defaults": 3}),
            ("", {"defaults": [{"override /nothing": "x"}]}),
            ("cell", {"cell": "${oc.env:HOME}"}),
            ("cell", {"cell": "${steps}"}),
            ("cell", {"cell": {"_target_": "os.system"}}),
            ("anchors", {"weight_scales": [0.5], "anchors": {}}),  # a mapping where Hydra expects a list
        ]
    ),
).map(lambda pair: (pair[0], "# @package _global_\n" + json.dumps(pair[1])))
TEXTS = st.sampled_from(
    ["a: [", "- 1", "3", "a: b: c", "\tx", "a: 1\na: 2", "!!python/object/apply:os.system ['x']", "\x00"]
)


@given(PRESETS | TEXTS.map(lambda text: ("", text)))
@settings(max_examples=100, deadline=None)
def test_a_malformed_file_is_refused_in_one_line(preset):
    named, text = preset
    Path(FOLDER).mkdir(exist_ok=True)
    path = Path(FOLDER, "bad.yaml")
    path.write_text(text)
    assert_refused(run("run", "-m", "+sweeps=bad"), named, {str(path): text.encode()})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "cell=perceptron"], "cell"),
        (["run", "steps=-1", "seeds=3"], "steps"),
        (["run", "+typo=1"], "typo"),
        (["run", "cell=[" * 500], "override"),
        (["run", b"name=\xff\xfe"], "name"),
        (["run", "output=\u202e/\x7f/" + "y" * 5000], "output"),
        (["run", "--quickly"], "--quickly"),
        (["run", "-m", "steps=range(1,1000000000)"], "steps"),
        (["status", "nowhere", "--json"], "DIR"),
        (["wash"], "wash"),
    ],
)
def test_as_real_processes(arguments, named, tmp_path):
    ran = subprocess.run([sys.executable, "-m", "gradient_horizon", *arguments], cwd=tmp_path, capture_output=True)
    assert_refused((ran.returncode, ran.stdout.decode(), ran.stderr.decode()), named, {})


def faults(number: int, seed: int) -> list[str]:
    """What was wrong with the answers to so many malformed inputs."""
    answers = ((case, malformed.check(*case)) for case in itertools.islice(malformed.cases(seed), number))
    return [f"{wrong}: {case!r:.600}" for case, wrong in answers if wrong]


def test_a_few_hundred_malformed_inputs():
    assert faults(300, seed=1) == []


@pytest.mark.slow
def test_ten_thousand_malformed_inputs():
    assert faults(10_000, seed=2) == []


def test_malformed_inputs_are_various():
    some = [repr(case) for case in itertools.islice(malformed.cases(3), 1000)]
    assert len(set(some)) > 0.9 * len(some)


@pytest.mark.slow
def test_two_hundred_malformed_inputs_as_real_processes(tmp_path):
    def run(arguments: list[str]) -> tuple[object, str, str]:
        words = [text.encode(errors="surrogateescape") for text in arguments]
        ran = subprocess.run([sys.executable, "-m", "gradient_horizon", *words], capture_output=True)
        return ran.returncode, ran.stdout.decode(), ran.stderr.decode()

    found = []
    # a process cannot be given a null byte, nor an argument of more than 128 KiB
    cases = (case for case in malformed.cases(4) if all(len(text) < 2**17 and "\0" not in text for text in case[0]))
    for number, case in enumerate(itertools.islice(cases, 200)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with contextlib.chdir(folder):
            if wrong := malformed.within(folder, *case, run):
                found.append(f"{wrong}: {case!r:.600}")
    assert found == []


def test_what_answers_wrongly_is_found(tmp_path):
    """The judge of malformed inputs itself: an accepted one, a traceback, several lines, another status, a file."""
    line = "gradient-horizon: cell: 'x' is not allowed\n"
    assert malformed.fault(2, "", line) == ""
    for status, out, err in [
        (0, "would compute", ""),
        (1, "", line),
        ("SettingError: x", "", ""),
        (2, "computing", line),
        (2, "", line * 2),
        (2, "", line[:-1]),
        (2, "", "a\rb\n"),
        (2, "", ""),
        (2, "", "Traceback (most recent call last):\n"),
        (2, "", "gradient-horizon: " + "x" * malformed.LONGEST + "\n"),
    ]:
        assert malformed.fault(status, out, err)

    def writes(arguments: list[str]) -> tuple[object, str, str]:
        (tmp_path / "file").touch()
        return 2, "", line

    assert malformed.within(tmp_path, ["run"], {}, writes) == "files: ['file']"
    assert malformed.check(["run", "cell=relu"], {}).startswith("status 0")
