"""The page of `gradient-horizon verify`: it passes, every line of it can fail, and each ingredient broken on purpose is
caught by the law that names it."""

import dataclasses
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon.cells import activations
from gradient_horizon.cells.activations import ACTIVATIONS
from gradient_horizon.experiments import grid, networks
from gradient_horizon.measures import jacobian_products, singular_values, volume_growth
from gradient_horizon.measures import trajectory as trajectories
from gradient_horizon.measures.trajectory import Trajectory, rollout
from gradient_horizon.numerics import lapack, lu, sums, underflow
from gradient_horizon.numerics.derivatives import jvp_columns, vjp_rows
from gradient_horizon.theory import mean_field_theory, moments
from gradient_horizon.verify import (
    SECTIONS,
    floating_point,
    identities,
    long_products,
    mean_field,
    random_matrices,
    report,
    verify,
)
from gradient_horizon.verify.comparison import Comparison, extrapolated, product_rounding, worst


def test_every_law_holds_could_fail_and_is_on_the_page():
    sections = verify()
    lines = [line for section in sections for line in section.comparisons]
    assert [line.law for line in lines if not line.passed] == []
    assert len(lines) >= 25
    assert len({line.law for line in lines}) == len(lines)
    assert [section.title for section in sections] == list(SECTIONS)
    assert_can_fail(lines)
    assert_is_one_file_with_figures(sections)


def assert_can_fail(lines):
    for line in lines:
        # room for less than a tenth of the number, or of a nat
        assert 0 <= line.tolerance < 0.15 * max(1.0, abs(line.predicted)) or math.isinf(line.predicted), line.law
        assert line.source, line.law
        assert line.origin, line.law
        wrong = 1.0 if math.isnan(line.predicted) else math.nan
        assert not dataclasses.replace(line, measured=wrong).passed, line.law
        if math.isfinite(line.predicted):
            above = line.predicted + 1.01 * line.tolerance + 1e-300 + 1e-12 * abs(line.predicted)
            assert not dataclasses.replace(line, measured=above).passed, line.law


def assert_is_one_file_with_figures(sections):
    text = report.as_html(sections, report.provenance(full=False, seconds=1.0))
    assert text.count("data:image/png;base64,") == 4
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.count('<tr class="pass">') == sum(len(section.comparisons) for section in sections)
    assert '<tr class="fail">' not in text
    assert report.verdict(sections) == (f"All {text.count('<tr class=')} laws hold.", [])


@pytest.fixture
def sabotage(monkeypatch):
    """Break something, run some checks, and hear which laws failed."""

    def failed(checks, target=None, name="", replacement=None):
        if target is not None:
            set_it = monkeypatch.setitem if isinstance(target, dict) else monkeypatch.setattr
            set_it(target, name, replacement)
        grid.program.cache_clear()
        return [
            line.law for section in verify(sections={"": checks}) for line in section.comparisons if not line.passed
        ]

    yield failed
    grid.program.cache_clear()


def named(laws, words):
    assert laws, "not caught"
    assert all("stopped by" not in law for law in laws), laws
    return [law for law in laws if law.startswith(words)]


def test_a_wrong_order_of_the_product_is_caught(sabotage, monkeypatch):
    def wrong(multiply):
        return lambda flat_step, params, h, x, matrix: (
            matrix @ multiply(flat_step, params, h, x, jnp.eye(len(h), dtype=h.dtype))
            if multiply is jvp_columns
            else multiply(flat_step, params, h, x, jnp.eye(len(h), dtype=h.dtype)) @ matrix
        )

    monkeypatch.setattr(jacobian_products, "jvp_columns", wrong(jvp_columns))
    laws = sabotage([floating_point.order], jacobian_products, "vjp_rows", wrong(vjp_rows))
    assert len(named(laws, "order of the product")) == 2


@pytest.mark.parametrize(
    ("name", "derivative"),
    [("tanh", lambda x: 1 - jnp.tanh(x) ** 2), ("sigmoid", lambda x: jnp.exp(x) / (1 + jnp.exp(x)) ** 2)],
)
def test_a_derivative_without_its_digits_is_caught(sabotage, name, derivative):
    right = ACTIVATIONS[name]
    broken = activations._activation(right.value, derivative, right.log_derivative)
    laws = sabotage([floating_point.slopes_of_saturated_units], ACTIVATIONS, name, broken)
    assert named(laws, f"{name}′")
    assert not [law for law in laws if law.startswith("erf")]


def test_another_kink_is_caught(sabotage):
    broken = activations._activation(lambda x: jnp.maximum(x, 0), lambda x: (x > 0).astype(x.dtype), jnp.log)
    assert named(sabotage([floating_point.kinks], ACTIVATIONS, "relu", broken), "relu′")


def test_a_jacobian_at_the_wrong_state_is_caught(sabotage):
    def late(*arguments, **settings):
        states = rollout(*arguments, **settings).states
        return Trajectory(jnp.concatenate([states[1:], states[-1:]]))

    laws = sabotage([floating_point.state], trajectories, "rollout", late)
    assert len(named(laws, "state of J_t")) == 2


def always_safe(square, smallest):
    return jnp.ones(square.shape, bool)


def test_a_product_that_is_not_renormalised_is_caught(sabotage, monkeypatch):
    monkeypatch.setattr(underflow, "is_safe", always_safe)  # or the product would be formed again with more care

    def never(square):
        return jnp.sqrt(square), jnp.full(square.shape, underflow.room(square.dtype), jnp.int32)

    laws = sabotage([floating_point.underflow], underflow, "size", never)
    assert named(laws, "underflow")


def test_one_exponent_for_the_whole_matrix_is_caught(sabotage):
    laws = sabotage(
        [long_products.products_that_hand_over, floating_point.zero_is_a_value], underflow, "is_safe", always_safe
    )
    for digits in ("float32", "float64"):
        assert [law for law in named(laws, "16 units") if digits in law]
    assert named(laws, "2 units in every vector that hand over, ‖M‖_F at every lag from the start, float32")
    assert named(laws, "a product with a part")


def test_lags_in_the_wrong_order_are_caught(sabotage):
    laws = sabotage(
        [floating_point.order, floating_point.state], jacobian_products, "_outward", lambda values, anchor: values
    )
    assert named(laws, "order of the product: ∂h_T/∂h_t")
    assert not named(laws, "order of the product: ∂h_t/∂h_0")


def test_slopes_of_a_state_that_dies_away_are_caught(sabotage):
    def plain(*arguments, rescale=False, **settings):
        return rollout(*arguments, **settings)

    assert named(
        sabotage([floating_point.dying_state], networks, "rollout", plain), "ReLU without bias or input: log‖M‖"
    )


def test_a_spectrum_without_its_tail_is_caught(sabotage):
    def unsorted_qr(columns):
        q, r = lapack.qr(columns.T)
        return lu.LU(q.T, jnp.diagonal(r), jnp.arange(len(columns), dtype=jnp.int32))

    laws = sabotage([identities.sum_rule], lu, "lu", unsorted_qr)
    assert named(laws, "sum rule in float32")


def test_a_sum_that_drifts_is_caught(sabotage):
    def plain(so_far, term, rest=0.0):
        return sums.Sum(so_far.total + (term + rest), so_far.rest)

    laws = sabotage([long_products.long_sums], sums, "add", plain)
    assert named(laws, "λ_i of a diagonal matrix")


def test_noise_for_a_zero_is_caught(sabotage):
    laws = sabotage([long_products.exact_zeros], singular_values, "through", lambda reach, pattern, time: reach)
    assert named(laws, "three blocks")


def test_what_is_flushed_on_the_way_is_caught(sabotage):
    assert named(
        sabotage([long_products.hand_over], volume_growth, "_THIN", 0.0), "their largest exponent from one vector"
    )


def test_gauss_and_hermites_nodes_are_caught(sabotage):
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    weights = weights / weights.sum()
    broken = moments.Moments(
        lambda q: float(weights @ np.tanh(np.sqrt(q) * nodes) ** 2),
        lambda q: float(weights @ np.cosh(np.clip(np.sqrt(q) * nodes, -150, 150)) ** -4.0),
    )
    assert len(named(sabotage([mean_field.averages], mean_field_theory.BOUNDED, "tanh", broken), "tanh, g =")) == 2


@pytest.mark.slow
def test_a_norm_for_a_radius_is_caught(sabotage):
    laws = sabotage([random_matrices.norm_and_radius], lapack, "eigenvalues", lapack.singular_values)
    assert named(laws, "radius")


def test_a_check_that_raises_is_a_line_that_fails():
    def broken(full):
        yield Comparison("good", "none", 1.0, 1.0, 0.0, "exact")
        raise RuntimeError("no luck\nat all")

    (section,) = verify(sections={"one": [broken]})
    assert [(line.law, line.passed) for line in section.comparisons] == [
        ("good", True), ("broken: stopped by RuntimeError: no luck", False)
    ]  # fmt: skip
    said = "1 of 2 laws fail (besides those not reached; checks stopped: 1):"
    assert report.verdict([section]) == (said, ["broken: stopped by RuntimeError: no luck"])
    assert "in broken" in section.comparisons[1].trace
    assert "<details><summary>traceback</summary><pre>Traceback" in report.as_html([section], "today")
    assert '<tr class="fail">' in report.as_html([section], "")


def test_lines():
    assert Comparison("", "", math.nan, math.nan, 0.0, "").passed
    assert Comparison("", "", -math.inf, -math.inf, 0.0, "").passed
    assert not Comparison("", "", -math.inf, -1e300, 1.0, "").passed
    assert Comparison("", "", 1.0, 0.0, 0.1, "", bound=True).passed
    assert not Comparison("", "", 1.0, 1.2, 0.1, "", bound=True).passed
    chosen = worst("law", "", [1.0, 2.0, 3.0], [1.1, 2.0, 3.2], [0.5, 0.5, 0.5], "")
    assert (chosen.law, chosen.predicted, chosen.measured) == ("law (worst of 3)", 3.0, 3.2)
    assert not worst("", "", [1.0, 2.0], [1.0, math.nan], 0.1, "").passed


def test_the_bound_on_rounding_holds_in_float32():
    rng = np.random.default_rng(0)
    for n, steps in ((3, 5), (8, 40)):
        factors = rng.standard_normal((steps, n, n)).astype(np.float32)
        exact, rounded = np.eye(n), np.eye(n, dtype=np.float32)
        for factor in factors:
            exact, rounded = factor.astype(np.float64) @ exact, factor @ rounded
        error = abs(np.log(np.linalg.norm(rounded.astype(np.float64)) / np.linalg.norm(exact)))
        assert error < product_rounding(factors.astype(np.float64), np.float32) < 0.05


def test_extrapolation_removes_the_first_correction():
    rng = np.random.default_rng(1)
    limit, tolerance = extrapolated(
        0.3 + 0.4 / 48 + 1e-3 * rng.standard_normal(400), 0.3 + 0.4 / 96 + 1e-3 * rng.standard_normal(400), 1.0
    )
    assert abs(limit - 0.3) < tolerance < 1e-3


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradient_horizon", "verify", *arguments],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("page.pdf", "-o: 'page.pdf' is not an HTML page; allowed: a file whose name ends in .html"),
        ("none/page.html", "-o: 'none/page.html' cannot be written; allowed: a file in a writable folder"),
    ],
)
def test_a_wrong_file_is_refused_at_once(tmp_path, output, message):
    ran = command("-o", output, folder=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"gradient-horizon: {message}")
    assert not list(tmp_path.iterdir())


FEW = """
import sys, time
from gradient_horizon.commands import parser as cli
from gradient_horizon.ensembles import process
process.prepare_own()
process.prepare_own = lambda: None
from gradient_horizon.diagnosis import laws
from gradient_horizon.verify import floating_point, suite
from gradient_horizon.verify.comparison import Comparison
laws.SECTIONS = {}
def odd(full):
    if "wait" in sys.argv:
        print("waiting", flush=True)
        time.sleep(100)
    yield Comparison("an [odd] law", "none", 1.0, 2.0 if "fail" in sys.argv else 1.0, 0.5, "exact")
suite.SECTIONS = {"few": (floating_point.kinks, odd)}
sys.exit(cli.main(["verify", "-o", "few.html"]))
"""


@pytest.mark.parametrize(("word", "status"), [("pass", 0), ("fail", 1)])
def test_the_exit_status_says_whether_a_law_fails(tmp_path, word, status):
    ran = subprocess.run(
        [sys.executable, "-c", FEW, word], cwd=tmp_path, capture_output=True, text=True
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (status, "")
    lines = ran.stdout.splitlines()
    assert lines[:2] == ["[1/2] kinks", "[2/2] odd"]
    assert lines[-1] == "wrote few.html"
    said = ["1 of 3 laws fail:", "    an [odd] law"] if status else ["All 3 laws hold."]
    assert lines[-1 - len(said) : -1] == said
    assert "an [odd] law" in (tmp_path / "few.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["few.html"]


def test_interrupted_it_writes_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", FEW, "wait"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line == "waiting\n":
                    break
            process.send_signal(signal.SIGINT)
            _, wrong = process.communicate()
        finally:
            process.kill()
    assert (process.returncode, wrong) == (130, "gradient-horizon: interrupted\n")
    assert not list(tmp_path.iterdir())
