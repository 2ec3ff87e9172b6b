"""The benchmark: this project beside its peers on the same numbers, and the targets that it is held to.

    make bench                                          (includes a million networks)
    make bench ARGS=--quick                             (fewer networks and repeats)
    make bench ARGS="--only norms"                      (also own_ensembles, spectra, calls, training, sweeps, scaling)
    make bench ARGS="--compare benchmarks/results/NAME.csv"

Everything compared in a row is timed alternately in one run, each contestant in its own process with the settings that
suit it, after checking that it gives the same numbers. Rows are medians over the repeats, with quartiles. They are
written to benchmarks/results/, with one figure of throughput and one of scaling. With `--compare`, rows that are worse
than in that file by more than the spread are listed, and the exit status is 1.
"""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import drawing
import machine
from bench import Bench
from comparison import compared
from contestants import RESULTS
from rows import read, table, write

PARTS = ("norms", "own_ensembles", "spectra", "calls", "training", "sweeps", "scaling")
PACKAGES = ("jax", "jaxlib", "numpy", "torch", "lyapax", "chaotax")


def _figures(bench: Bench, stem: Path) -> list[Path]:
    paths = []
    if bench.throughput:
        paths += drawing.save(
            drawing.throughput(bench.throughput, bench.roofline), stem.with_name(f"{stem.name}-norms")
        )
    if bench.scaling:
        paths += drawing.save(drawing.scaling(bench.scaling), stem.with_name(f"{stem.name}-scaling"))
    return paths


def main() -> int:
    """Parse the command line, measure, print and write; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer networks and repeats, smaller products")
    parser.add_argument("--repeats", type=int, help="of every measurement (default 11; 3 with --quick)")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--compare", type=Path, metavar="FILE", help="the rows of an earlier run")
    options = parser.parse_args()
    repeats = options.repeats or (3 if options.quick else 11)
    if repeats < 3:
        parser.error(f"--repeats: {repeats} is not allowed; allowed: at least 3")
    try:
        earlier = read(options.compare) if options.compare else []
    except (OSError, ValueError) as error:
        parser.error(f"--compare: {error}")

    screen = machine.console()
    remarks: list[str] = []

    def say(text: str) -> None:
        remarks.append(text)
        screen.print(text, markup=False)

    for line in machine.description(PACKAGES):
        say(line)
    say(f"{repeats} repeats{', quick' if options.quick else ''}")
    start, results = time.perf_counter(), []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(options.quick, repeats, folder, say, stack)
        for part in options.only:
            results += import_module(part).rows(bench)
            bench.forget()
            say(f"{part}: done after {time.perf_counter() - start:.0f} s")
    screen.print(table(results))
    stem = RESULTS / time.strftime(f"%Y-%m-%d-%H%M%S{'-quick' if options.quick else ''}")
    write(results, stem.with_name(f"{stem.name}.csv"), remarks)
    for path in (stem.with_name(f"{stem.name}.csv"), *_figures(bench, stem)):
        screen.print(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path), markup=False)
    return compared(screen, results, options.compare, earlier) if options.compare else 0


if __name__ == "__main__":
    sys.exit(main())
