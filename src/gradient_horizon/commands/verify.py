"""The command `verify`."""

import argparse
import time

from gradient_horizon.commands import interrupts
from gradient_horizon.commands.common import DONE, FAILED, UsageError, check_output, check_platforms, without_warnings
from gradient_horizon.ensembles import devices, process


def verify(options: argparse.Namespace) -> int:
    """Check the package against every law of `verify.suite` and of `diagnosis.laws`; write one page of results."""
    from gradient_horizon.commands import terminal
    from gradient_horizon.store import files

    if options.output.suffix != ".html":
        raise UsageError(f"-o: {str(options.output)!r} is not an HTML page; allowed: a file whose name ends in .html")
    output = check_output(options.output)
    if devices.is_without_float64():
        raise UsageError("JAX_ENABLE_X64: off is not allowed; allowed: unset, as the laws are checked in float64")
    process.prepare_own()
    check_platforms()
    from gradient_horizon.diagnosis import laws
    from gradient_horizon.verify import report
    from gradient_horizon.verify.suite import SECTIONS, verify

    screen = terminal.console()
    start = time.monotonic()
    every = {**SECTIONS, **laws.SECTIONS}
    checks = sum(len(checks) for checks in every.values())
    with terminal.counting(screen, checks) as show, without_warnings():  # some checks provoke warnings

        def announce(name: str) -> None:
            interrupts.check()
            show(name)

        sections = verify(full=options.full, sections=every, report=announce)
    sentence, failed = report.verdict(sections)
    made = report.provenance(full=options.full, seconds=time.monotonic() - start)
    files.write_atomically(output, report.as_html(sections, made).encode())
    screen.print(report.as_table(sections))
    for line in (sentence, *(f"    {law}" for law in failed), f"wrote {output}"):
        screen.print(line, markup=False)
    return FAILED if failed else DONE
