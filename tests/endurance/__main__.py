"""What a sweep survives, tried at random and many times: killed processes, damaged folders, malformed input, many jobs.

    python tests/endurance kills 300 --launchers 60
    python tests/endurance inputs 10000 --real 200
    python tests/endurance folders 1000
    python tests/endurance jobs 2000
    python tests/endurance share --seconds 120     a little of each of the first three

Each prints what it found, and ends with status 1 where something was lost, altered, left behind or not said in one
line. `--seed` makes it the same again. The commands run in forks of this process, which has loaded everything but
started no device; those of a launcher run by themselves.
"""

import argparse
import contextlib
import faulthandler
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import folders
import forks
import inputs
import kills
import many


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="endurance-"))
    try:
        yield folder
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "inputs", "folders", "jobs", "share"))
    parser.add_argument("count", nargs="?", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--launchers", type=int, default=0, help="kills: how many of them under joblib and SLURM")
    parser.add_argument("--real", type=int, default=0, help="inputs: how many more by the command itself")
    parser.add_argument("--seconds", type=float, default=120.0, help="share: how long it may take")
    options = parser.parse_args()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a script, and inherited
    with scratch_folder() as scratch:
        forks.load_everything(scratch / "cache")
        if options.what == "kills":
            wrong = kills.run(scratch, options.count, options.seed, launchers=options.launchers)
        elif options.what == "inputs":
            wrong = inputs.run(scratch, options.count, options.seed, real=options.real)
        elif options.what == "folders":
            wrong = folders.run(scratch, options.count, options.seed)
        elif options.what == "jobs":
            wrong = many.run(scratch, options.count)
        else:
            begun = time.monotonic()
            wrong = inputs.run(scratch, 100_000, options.seed, until=begun + options.seconds / 6)
            wrong += folders.run(scratch, 100_000, options.seed, until=begun + options.seconds / 2)
            cheap = ("jacobian", "notes")
            wrong += kills.run(scratch, 100_000, options.seed, names=cheap, until=begun + options.seconds)
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
