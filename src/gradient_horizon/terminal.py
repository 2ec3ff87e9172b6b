"""What a person sees while a sweep runs: a bar with the time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gradient_horizon.jobs import Job

SECONDS_BETWEEN_LINES = 10.0
Watch = Callable[[Job], Callable[[float], None]]


def console() -> Console:
    """The standard output; as wide as its lines where it is no terminal, so that nothing is broken across lines."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=160)


@contextmanager
def watching(screen: Console, jobs: list[Job]) -> Iterator[Watch]:
    """A `watch(job)` that gives each job the function to tell its finished networks to."""
    total = sum(job.networks for job in jobs)
    if not screen.is_terminal:
        yield _lines(screen, len(jobs))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("networks"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen) as progress:
        bar = progress.add_task("starting", total=total)

        def watch(job: Job) -> Callable[[float], None]:
            progress.update(bar, description=job.name)
            return lambda networks: progress.advance(bar, networks)

        yield watch


@contextmanager
def counting(screen: Console, total: int) -> Iterator[Callable[[str], None]]:
    """A function to tell the name of each of `total` pieces of work to, before it starts."""
    begun = 0

    if not screen.is_terminal:

        def say(name: str) -> None:
            nonlocal begun
            begun += 1
            screen.print(f"[{begun}/{total}] {name}", markup=False)

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        bar = progress.add_task("starting", total=total)

        def advance(name: str) -> None:
            nonlocal begun
            progress.update(bar, description=name, completed=begun)
            begun += 1

        yield advance


def _lines(screen: Console, count: int) -> Watch:
    number = 0

    def watch(job: Job) -> Callable[[float], None]:
        nonlocal number
        number += 1
        begun = said = time.monotonic()
        done = 0.0
        screen.print(f"[{number}/{count}] {job.name}: {job.networks} networks", markup=False)

        def report(networks: float) -> None:
            nonlocal done, said
            done += networks
            passed = time.monotonic() - begun
            if time.monotonic() - said > SECONDS_BETWEEN_LINES and done:
                said = time.monotonic()
                left = passed * (job.networks - done) / done
                screen.print(f"    {done:.0f} of {job.networks} networks, about {left:.0f} s left", markup=False)

        return report

    return watch
