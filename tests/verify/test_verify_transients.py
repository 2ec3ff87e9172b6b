"""The laws of transient growth hold, and a wrong measurement breaks them."""

import jax.numpy as jnp

from gradient_horizon.measures import normality, overshoot, window_exponents
from gradient_horizon.verify import transients, verify


def failed(checks):
    return [line.law for section in verify(sections={"": checks}) for line in section.comparisons if not line.passed]


def test_a_departure_that_keeps_the_pairs_of_complex_eigenvalues_is_caught(monkeypatch):
    monkeypatch.setattr(normality.jnp, "diag", lambda values, k=0: jnp.zeros((len(values) + k, len(values) + k)))
    laws = failed([transients.random_departures])
    assert any("departure² / ‖W‖_F²" in law for law in laws)


def test_a_kreiss_bound_without_the_distance_from_the_circle_is_caught(monkeypatch):
    singular_values = normality.lapack.singular_values
    monkeypatch.setattr(normality.lapack, "singular_values", lambda matrix: singular_values(matrix) / 2)
    laws = failed([transients.jordan_blocks])
    assert any("never exceeds it" in law for law in laws)
    assert any("comes close" in law for law in laws)


def test_an_overshoot_over_the_wrong_rate_is_caught(monkeypatch):
    exponents = overshoot.lyapunov_exponents

    def shifted(*args, **settings):
        found = exponents(*args, **settings)
        return found._replace(exponents=found.exponents - 1e-3)

    monkeypatch.setattr(overshoot, "lyapunov_exponents", shifted)
    assert any("normal W" in law for law in failed([transients.normal_matrices]))


def test_windows_that_do_not_carry_the_frame_on_are_caught(monkeypatch):
    grow = window_exponents.grow

    def anew(stretch, every, growth, window):
        return grow(stretch, every, window_exponents.start_from(jnp.eye(growth.basis.shape[1])), window)

    monkeypatch.setattr(window_exponents, "grow", anew)
    laws = failed([transients.windows])
    assert any("in 10 windows" in law for law in laws)
    assert any("whole spectrum" in law for law in laws)
