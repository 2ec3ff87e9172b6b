"""Ctrl-C is honoured at every moment, also where the exception that it raises is lost.

Python turns SIGINT into a `KeyboardInterrupt` wherever the interpreter happens to be. In a callback of the garbage
collector (JAX registers one), in `__del__` or in a weak reference's callback it is printed and dropped, and the work
would go on. The handler here also remembers the signal; long work asks for it between its steps.
"""

import _thread
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = False


def stop(number: int, frame: FrameType | None) -> None:
    """A signal's handler: raises `KeyboardInterrupt`, which `check` raises again where it was lost."""
    global _asked
    _asked = True
    raise KeyboardInterrupt


@contextmanager
def honoured() -> Iterator[None]:
    """Let SIGTERM and SIGINT `stop` this process meanwhile; for its main thread.

    SIGINT stays ignored where it is, as in the background of a script.
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
    """Raise `KeyboardInterrupt` in the main thread, from another: also where SIGINT is ignored, as in the background of
    a script, and Python's own way does nothing."""
    handled = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    _thread.interrupt_main(handled[0] if handled else signal.SIGINT)


def check() -> None:
    """Raises `KeyboardInterrupt` where a signal has asked to stop."""
    if _asked:
        raise KeyboardInterrupt


def forget() -> None:
    """Forget that a signal asked to stop, as it has been dealt with."""
    global _asked
    _asked = False
