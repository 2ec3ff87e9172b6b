"""Reliable Ctrl-C: the process stops even if the exception raised by the signal is lost.

Python turns SIGINT into a `KeyboardInterrupt` wherever the interpreter happens to be. In a callback of the garbage
collector (JAX registers one), in `__del__` or in a weak reference's callback, the exception is printed and dropped, and
the work goes on. The handler here also records the signal, and long-running work checks for it between its steps.
"""

import _thread
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = False


def stop(number: int, frame: FrameType | None) -> None:
    """Signal handler: raise `KeyboardInterrupt`, which `check` raises again if it was lost."""
    global _asked
    _asked = True
    raise KeyboardInterrupt


@contextmanager
def honoured() -> Iterator[None]:
    """Let SIGTERM and SIGINT `stop` this process within the context; for the main thread only.

    SIGINT remains ignored if it already is, as in a script's background jobs.
    """
    forget()
    numbers = [signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN else [])]
    before = {number: signal.signal(number, stop) for number in numbers}
    report = sys.unraisablehook
    # Python would print the traceback of an interrupt that it drops; `check` raises it again.
    sys.unraisablehook = lambda lost: None if _asked and lost.exc_type is KeyboardInterrupt else report(lost)
    try:
        yield
    finally:
        sys.unraisablehook = report
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_main() -> None:
    """Raise `KeyboardInterrupt` in the main thread, from another thread.

    This also works if SIGINT is ignored, as in a script's background jobs, where Python's own way does nothing.
    """
    handled = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    _thread.interrupt_main(handled[0] if handled else signal.SIGINT)


def check() -> None:
    """Raise `KeyboardInterrupt` if a signal has asked the process to stop."""
    if _asked:
        raise KeyboardInterrupt


def forget() -> None:
    """Clear the request to stop, once it has been dealt with."""
    global _asked
    _asked = False
