"""How much of a job is done, and how long the rest takes at the pace of the last seconds."""

import math
import time

WINDOW = 10.0  # seconds over which the pace is measured


class Tally:
    """Counts finished networks, of `total`. The pace counts from the first ones on: compiling comes before them."""

    def __init__(self, total: int):
        self.total, self.done = total, 0.0
        self._since, self._before = math.inf, 0.0
        self._pace: float | None = None

    def add(self, networks: float) -> bool:
        """Count more networks; whether that gave a new pace."""
        self.done += networks
        if self._since == math.inf:
            self._since, self._before = time.monotonic(), self.done
        passed = time.monotonic() - self._since
        if passed < WINDOW:
            return False
        self._pace = (self.done - self._before) / passed
        self._since, self._before = time.monotonic(), self.done
        return True

    @property
    def left(self) -> float | None:
        """Seconds; None where no pace is known yet."""
        return (self.total - self.done) / self._pace if self._pace else None
