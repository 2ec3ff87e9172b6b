"""The laws of covariant vectors and of continuous time hold, and fail if what they check is broken."""

import jax.numpy as jnp
import pytest

from gradient_horizon.numerics import lapack
from gradient_horizon.verify import continuous_time, covariant, verify


def failed(*checks):
    lines = [line for section in verify(sections={"": checks}) for line in section.comparisons]
    assert not [line.trace for line in lines if line.trace]
    return [line.law for line in lines if not line.passed]


@pytest.fixture
def _fresh():
    covariant._network.cache_clear()
    yield
    covariant._network.cache_clear()


@pytest.mark.usefixtures("_fresh")
def test_a_sweep_that_solves_with_the_transpose_is_caught(monkeypatch):
    monkeypatch.setattr(lapack, "solve_upper_triangular", lambda r, c: jnp.linalg.solve(r.T, c))
    laws = failed(covariant.covariance)
    assert any(law.startswith("J_t v_i(t) is parallel") for law in laws)


@pytest.mark.usefixtures("_fresh")
def test_the_basis_itself_is_caught(monkeypatch):
    """As if the orthonormal vectors of the QR were covariant."""
    monkeypatch.setattr(lapack, "solve_upper_triangular", lambda r, c: c)
    assert len(failed(covariant.covariance, covariant.eigenvectors)) >= 4


def test_another_method_is_caught(monkeypatch):
    """Euler's method has other exponents than a Runge-Kutta step, for the linear equation."""

    def euler(flow, h, _):
        return h + flow.dt * (flow.linear @ h + (flow.quadratic @ h) @ h)

    monkeypatch.setattr(continuous_time, "_step", euler)
    assert failed(continuous_time.linear)
