"""The laws of a watch hold, and a watch that is broken on purpose fails them."""

import dataclasses
import math

import jax.numpy as jnp

from gradient_horizon.diagnosis import laws, parameters, reading
from gradient_horizon.verify import verify


def failed(checks):
    (section,) = verify(sections={"": checks})
    return [line.law for line in section.comparisons if not line.passed]


def test_every_law_of_a_watch_holds_and_could_fail():
    (section,) = verify(sections=laws.SECTIONS)
    assert len(section.comparisons) == 5
    assert [line.law for line in section.comparisons if not line.passed] == []
    for line in section.comparisons:
        assert line.source
        assert line.origin
        assert not dataclasses.replace(line, measured=line.predicted + 1.01 * line.tolerance + 1e-9).passed
        assert not dataclasses.replace(line, measured=math.nan).passed


def test_a_gradient_at_the_wrong_time_is_caught(monkeypatch):
    right = reading.log_state_gradient_norms
    monkeypatch.setattr(reading, "log_state_gradient_norms", lambda *arguments: jnp.roll(right(*arguments), 1))
    (law,) = failed([laws.growing])
    assert "every t" in law


def test_a_look_that_misses_an_overflow_is_caught(monkeypatch):
    right = parameters.look
    nan_only = lambda leaf: jnp.where(jnp.isinf(leaf), jnp.ones_like(leaf), leaf)  # noqa: E731
    monkeypatch.setattr(parameters, "look", lambda before, arrays: right(before, [nan_only(leaf) for leaf in arrays]))
    assert len(failed([laws.breaking])) == 1
