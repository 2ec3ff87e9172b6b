"""A signal that asks to stop is honoured, also where the exception that it raises is lost."""

import gc
import signal

import pytest

from gradient_horizon.commands import interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_whose_exception_is_lost_is_remembered(number):
    lost = []

    def pressed(phase: str, info: dict[str, int]) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:  # as the garbage collector does with what its callbacks raise
            lost.append(phase)

    before = signal.getsignal(number)
    with interrupts.honoured():
        interrupts.check()
        gc.callbacks.append(pressed)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(pressed)
        assert lost == ["start", "stop"]
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        interrupts.forget()
        interrupts.check()
    assert signal.getsignal(number) is before


def test_what_was_asked_of_an_earlier_command_is_forgotten():
    with pytest.raises(KeyboardInterrupt), interrupts.honoured():
        signal.raise_signal(signal.SIGINT)
    with interrupts.honoured():
        interrupts.check()


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.honoured():
            signal.raise_signal(signal.SIGINT)
            interrupts.check()
    finally:
        signal.signal(signal.SIGINT, before)
