"""The value of a setting at which a share of networks first passes a test, found by bisection. Loads no JAX."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

CONFIDENCE = 0.95
GRID = 9  # values that are tried first, evenly spaced


class Bracket(NamedTuple):
    """Two neighbouring values, of which only one is good enough."""

    failing: float
    passing: float


@dataclass
class Search:
    """How many of `total` networks pass at a value between `low` and `high`; every value is tried once.

    - `passes(value)`: the number of networks that pass.
    - `resolution`: bisection stops at brackets of this width: a difference or, if `log`, a ratio less 1.
    """

    passes: Callable[[float], int]
    total: int
    low: float
    high: float
    resolution: float
    log: bool = False
    counts: dict[float, int] = field(default_factory=dict)  # by value

    def count(self, value: float) -> int:
        """The number of networks that pass at `value`."""
        if value not in self.counts:
            self.counts[value] = self.passes(value)
        return self.counts[value]

    def scan(self) -> None:
        """Try `GRID` values from end to end."""
        low, high = self._along(self.low), self._along(self.high)
        for place in range(1, GRID - 1):
            value = self._value(low + (high - low) * place / (GRID - 1))
            below, above = (self._value(low + (high - low) * (place + part) / (GRID - 1)) for part in (-0.25, 0.25))
            self.count(_fewest_digits(value, below, above, least=3))
        self.count(self.low)
        self.count(self.high)

    def brackets(self, least: int) -> list[Bracket]:
        """Every pair of neighbours among the values tried of which only one passes with at least `least` networks."""
        tried = sorted(self.counts)
        return [
            Bracket(one, other) if self.counts[other] >= least else Bracket(other, one)
            for one, other in itertools.pairwise(tried)
            if (self.counts[one] >= least) != (self.counts[other] >= least)
        ]

    def narrowed(self, bracket: Bracket, least: int) -> Bracket:
        """A bracket no wider than `resolution` within `bracket`."""
        failing, passing = bracket
        while not self._is_narrow(failing, passing):
            middle = self._between(failing, passing)
            if middle in (failing, passing):  # neighbouring floats
                break
            if self.count(middle) >= least:
                passing = middle
            else:
                failing = middle
        return Bracket(failing, passing)

    def interval(self, bracket: Bracket, share: float) -> tuple[float, float]:
        """Limits between which the share of networks that pass crosses `share`, with confidence `CONFIDENCE`.

        A limit is a value at which so few, or so many, networks pass that a binomial test with this share has p at most
        (1 - `CONFIDENCE`) / 2: an order statistic of the values at which single networks cross, if each crosses once
        (the sign test's interval, for `share` = ½). -inf or inf if no value tried is as certain.
        """
        few, many = certain_counts(self.total, share)
        upwards = bracket.passing > bracket.failing
        below = self._limit(bracket.failing, few + 1, passing=False, up=not upwards)
        above = self._limit(bracket.passing, many, passing=True, up=upwards)
        return (below, above) if upwards else (above, below)

    def _limit(self, start: float, least: int, *, passing: bool, up: bool) -> float:
        """The value nearest to `start`, or beyond it, at which at least `least` networks pass (or, else, fewer)."""
        tried = sorted((value for value in self.counts if (value >= start if up else value <= start)), reverse=not up)
        for inner, outer in zip([None, *tried], tried, strict=False):
            if (self.counts[outer] >= least) == passing:
                if inner is None:
                    return outer
                found = self.narrowed(Bracket(inner, outer) if passing else Bracket(outer, inner), least)
                return found.passing if passing else found.failing
        return math.inf if up else -math.inf

    def _along(self, value: float) -> float:
        return math.log(value) if self.log else value

    def _value(self, place: float) -> float:
        return math.exp(place) if self.log else place

    def _is_narrow(self, one: float, other: float) -> bool:
        low, high = sorted((one, other))
        return high - low <= self.resolution * (low if self.log else 1.0) * (1 + 1e-9)

    def _between(self, one: float, other: float) -> float:
        """The number of fewest digits in the middle half of a bracket."""
        low, high = sorted((self._along(one), self._along(other)))
        below, above = (self._value(low + (high - low) * part) for part in (0.25, 0.75))
        middle = self._value((low + high) / 2)
        return _fewest_digits(middle, below, above)


def _fewest_digits(value: float, low: float, high: float, least: int = 1) -> float:
    """`value`, rounded to the fewest digits, at least `least`, that leave it between `low` and `high`."""
    rounded = (float(f"{value:.{digits}g}") for digits in range(least, 17))
    return next((near for near in rounded if low <= near <= high), value)


def certain_counts(total: int, share: float) -> tuple[int, int]:
    """The largest count of `total`, and the smallest, that a binomial test calls below, and above, `share`.

    -1 and `total` + 1 if no count is as certain as `CONFIDENCE`.
    """
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        + k * math.log(share) + (total - k) * math.log1p(-share)
        for k in range(total + 1)
    ]  # fmt: skip
    chances = [math.exp(log) for log in logs]
    most = (1 - CONFIDENCE) / 2

    def longest(tail: list[float]) -> int:
        sums, count = 0.0, 0
        for chance in tail:
            sums += chance
            if sums > most:
                break
            count += 1
        return count

    return longest(chances) - 1, total + 1 - longest(chances[::-1])
