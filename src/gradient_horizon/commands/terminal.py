"""Display of a running sweep: a bar with the time left on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from gradient_horizon.commands.jobs import Job
from gradient_horizon.commands.progress import ProgressMeter
from gradient_horizon.store.files import harmless
from gradient_horizon.store.records import FAILED, FINISHED, MISSING, RUNNING
from gradient_horizon.store.sweep_status import JobStatus

Watch = Callable[[Job], Callable[[float], None]]
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("networks"),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


class _Screen(Console):
    """A console that can itself control the terminal, but escapes control characters in the text that it shows."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else harmless(text, keep="\n"), style, control)


def console() -> Console:
    """Return a console on standard output; 160 columns wide if that is not a terminal, so that lines are not broken."""
    stream = getattr(sys.stdout, "screen", sys.stdout)
    screen = _Screen(file=stream, highlight=False)
    return screen if screen.is_terminal else _Screen(file=stream, highlight=False, width=160)


def duration(seconds: float) -> str:
    """Format a duration roughly: "50 s", "12 min", "3.5 h", "2.1 d"."""
    for unit, length, digits in (("s", 1, 0), ("min", 60, 0), ("h", 3600, 1)):
        if seconds < {"s": 100, "min": 6000, "h": 172_800}[unit]:
            return f"{seconds / length:.{digits}f} {unit}"
    return f"{seconds / 86_400:.1f} d"


NARROW = 60  # columns


def status_table(title: str, jobs: list[JobStatus], width: int = 160) -> Table:
    """Return a table with one row per job; text from records is shown verbatim.

    In a narrow terminal the reason is shown under the job.
    """
    if width < NARROW:
        table = Table("job", "state", title=title, width=width)
        for job in jobs:
            words = [job.job, *([job.why] if job.why else [])]
            table.add_row(Text("\n".join(words), overflow="fold"), Text(f"{job.state}\n{job.done} of {job.networks}"))
        return table
    table = Table("job", "state", "networks", "taken", "left", "why", title=title)
    for job in jobs:
        table.add_row(
            Text(job.job),
            job.state,
            f"{job.done} of {job.networks}",
            duration(job.seconds) if job.seconds else "",
            duration(job.left) if job.left else "",
            Text(job.why),
        )
    return table


@contextmanager
def watching(screen: Console, jobs: list[Job]) -> Iterator[Watch]:
    """Yield a `watch(job)` that returns the function to which each job reports its finished networks."""
    total = sum(job.networks for job in jobs)
    if not screen.is_terminal:
        yield _lines(screen, len(jobs))
        return
    with Progress(*_COLUMNS, console=screen) as progress:
        bar = progress.add_task("starting", total=total)

        def watch(job: Job) -> Callable[[float], None]:
            progress.update(bar, description=job.name)
            return lambda networks: progress.advance(bar, networks)

        yield watch


@contextmanager
def following(screen: Console, jobs: Sequence[Job]) -> Iterator[Callable[[list[JobStatus]], None]]:
    """Yield a function that takes the status of `jobs`, which other processes compute, and displays them."""
    if not screen.is_terminal:
        yield _news(screen, len(jobs))
        return
    with Progress(*_COLUMNS, console=screen) as progress:
        bar = progress.add_task("waiting", total=sum(job.networks for job in jobs))

        def show(statuses: list[JobStatus]) -> None:
            running = sum(job.state == RUNNING for job in statuses)
            description = f"{running} jobs running" if running else "waiting"
            progress.update(bar, description=description, completed=sum(job.done for job in statuses))

        yield show


def _news(screen: Console, count: int) -> Callable[[list[JobStatus]], None]:
    known: dict[str, str] = {}

    def show(statuses: list[JobStatus]) -> None:
        ended = sum(job.state in (FINISHED, FAILED) for job in statuses)
        for job in statuses:
            if job.state not in (MISSING, known.get(job.job)):
                why = f": {job.why}" if job.why else ""
                screen.print(f"[{ended}/{count}] {job.job}: {job.state}{why}", markup=False)
                known[job.job] = job.state

    return show


@contextmanager
def counting(screen: Console, total: int) -> Iterator[Callable[[str], None]]:
    """Yield a function to be called with the name of each of `total` pieces of work, before it starts."""
    count = 0

    if not screen.is_terminal:

        def say(name: str) -> None:
            nonlocal count
            count += 1
            screen.print(f"[{count}/{total}] {name}", markup=False)

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        bar = progress.add_task("starting", total=total)

        def advance(name: str) -> None:
            nonlocal count
            progress.update(bar, description=name, completed=count)
            count += 1

        yield advance


def _lines(screen: Console, count: int) -> Watch:
    number = 0

    def watch(job: Job) -> Callable[[float], None]:
        nonlocal number
        number += 1
        meter = ProgressMeter(job.networks)
        screen.print(f"[{number}/{count}] {job.name}: {job.networks} networks", markup=False)

        def report(networks: float) -> None:
            if meter.add(networks) and meter.left is not None:
                left = duration(meter.left)
                screen.print(f"    {meter.done:.0f} of {job.networks} networks, about {left} left", markup=False)

        return report

    return watch
