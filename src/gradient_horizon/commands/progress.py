"""Progress of a job: the networks done, and the time left at the pace of the last seconds."""

import math
import time

WINDOW = 10.0  # seconds over which the pace is measured


class ProgressMeter:
    """Count finished networks, of `total`. The pace is measured from the first ones on and excludes compilation."""

    def __init__(self, total: int):
        self.total, self.done = total, 0.0
        self._since, self._before = math.inf, 0.0
        self._pace: float | None = None

    def add(self, networks: float) -> bool:
        """Count more networks; return True if that updated the pace."""
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
        """The seconds left; None if no pace is known yet."""
        return (self.total - self.done) / self._pace if self._pace else None
