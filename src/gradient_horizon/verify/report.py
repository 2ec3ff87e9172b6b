"""Output of the verification: one HTML file with embedded figures, and a table for the terminal."""

import base64
import html
import io
import math
import platform
from collections.abc import Sequence

import jax
import numpy as np
from rich.table import Table

from gradient_horizon import __version__
from gradient_horizon.figures.kit import style
from gradient_horizon.verify.comparison import Comparison, Plot
from gradient_horizon.verify.suite import Section

_STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --quiet: #5d6670; --rule: #d9dee3; --good: #00704f; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 82rem; padding: 2.5rem 1.5rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem; }
p { max-width: 60rem; margin: .5rem 0; }
.verdict { font-size: 1.1rem; font-weight: 600; margin: 1rem 0; padding: .7rem 1rem; border-left: 5px solid; }
.verdict.pass { color: var(--good); background: #eef7f3; }
.verdict.fail { color: var(--bad); background: #fbeeec; }
.verdict ul { margin: .3rem 0 0; font-weight: 400; }
.made { color: var(--quiet); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th { text-align: left; font-weight: 600; color: var(--quiet); border-bottom: 2px solid var(--rule);
  padding: .3rem .6rem; }
td { vertical-align: top; border-bottom: 1px solid var(--rule); padding: .4rem .6rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.law { min-width: 19rem; font-weight: 500; }
td.small { color: var(--quiet); min-width: 12rem; }
td.pass { color: var(--good); font-weight: 600; }
td.fail { color: var(--bad); font-weight: 700; }
tr.fail td { background: #fbeeec; }
figure { margin: 1.6rem 0 0; }
figure img { width: 100%; max-width: 54rem; height: auto; display: block; }
figcaption { color: var(--quiet); font-size: .85rem; max-width: 54rem; margin-top: .3rem; }
"""

_COLUMNS = (
    ("law", ""), ("source", ""), ("predicted", "number"), ("measured", "number"), ("difference", "number"),
    ("tolerance", "number"), ("where the tolerance comes from", ""), ("", ""),
)  # fmt: skip


def number(value: float) -> str:
    """`value` to six digits, with typographic minus signs."""
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    return f"{value:.6g}".replace("-", "−")


def _small(value: float) -> str:
    return "0" if value == 0 else number(value) if not math.isfinite(value) else f"{value:.1e}".replace("-", "−")


def _numbers(line: Comparison) -> tuple[str, str, str, str]:
    predicted = f"≤ {number(line.predicted)}" if line.bound else number(line.predicted)
    return predicted, number(line.measured), _small(line.difference), _small(line.tolerance)


def provenance(*, full: bool, seconds: float) -> str:
    """One line on how the page was made: the command, the time it took, the versions and the machine."""
    versions = f"gradient_horizon {__version__}, JAX {jax.__version__}, NumPy {np.__version__}"
    machine = f"Python {platform.python_version()} on {platform.machine()}, {jax.devices()[0].device_kind}"
    return f"gradient-horizon verify{' --full' if full else ''}: {seconds:.0f} s. {versions}; {machine}."


def verdict(sections: Sequence[Section]) -> tuple[str, list[str]]:
    """A one-sentence summary, and the laws that failed."""
    lines = [line for section in sections for line in section.comparisons]
    failed = [line.law for line in lines if not line.passed]
    if not failed:
        return f"All {len(lines)} laws hold.", failed
    stopped = sum(bool(line.trace) for line in lines)
    unknown = f" (besides those not reached; checks stopped: {stopped})" if stopped else ""
    return f"{len(failed)} of {len(lines)} laws fail{unknown}:", failed


def as_table(sections: Sequence[Section]) -> Table:
    """A table of every line: law, numbers and verdict."""
    table = Table(padding=(0, 1), show_edge=False)
    table.add_column("law", ratio=1, overflow="fold")
    for column in ("predicted", "measured", "difference", "tolerance"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for section in sections:
        table.add_section()
        table.add_row(f"[bold]{section.title}[/bold]")
        for line in section.comparisons:
            word = "[green]pass[/green]" if line.passed else "[bold red]FAIL[/bold red]"
            table.add_row(line.law.replace("[", R"\["), *_numbers(line), word)
    return table


def as_html(sections: Sequence[Section], made_by: str) -> str:
    """The page as HTML; `made_by` is the line that `provenance` returns."""
    sentence, failed = verdict(sections)
    laws = "".join(f"<li>{html.escape(law)}</li>" for law in failed)
    body = [
        "<h1>Gradient Horizon, held to what is known</h1>",
        "<p>Each line states a law that the package must obey, and what the package measures: with the functions and"
        " experiments that its users call, on networks drawn for this page. Logarithms are natural and growth is per"
        " step. If a law concerns many numbers, the pair that comes closest to failing is shown. A tolerance is either"
        " rounding, eps times the operations and the cancellation on the way (eps = 1.2·10⁻⁷ in float32, 2.2·10⁻¹⁶ in"
        " float64, which applies unless stated otherwise), or statistical, standard errors of a mean.</p>",
        f'<div class="verdict {"fail" if failed else "pass"}">{sentence}{f"<ul>{laws}</ul>" if failed else ""}</div>',
        f'<p class="made">{html.escape(made_by)}</p>',
    ]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        heads = "".join(f'<th class="{kind}">{name}</th>' for name, kind in _COLUMNS)
        rows = "\n".join(_row(line) for line in section.comparisons)
        body.append(
            f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'
        )
        body += [_figure(plot) for plot in section.plots]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Gradient Horizon: verification</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _row(line: Comparison) -> str:
    word = "pass" if line.passed else "fail"
    cells = [
        f'<td class="law">{html.escape(line.law)}{_trace(line)}</td>',
        f'<td class="small">{html.escape(line.source)}</td>',
        *(f'<td class="number">{value}</td>' for value in _numbers(line)),
        f'<td class="small">{html.escape(line.origin)}</td>',
        f'<td class="{word}">{word}</td>',
    ]
    return f'<tr class="{word}">{"".join(cells)}</tr>'


def _trace(line: Comparison) -> str:
    """The traceback of an error, collapsed."""
    return f"<details><summary>traceback</summary><pre>{html.escape(line.trace)}</pre></details>" if line.trace else ""


def _figure(plot: Plot) -> str:
    target = io.BytesIO()
    figure = plot.draw()
    with style.applied():
        figure.savefig(target, format="png", metadata={"Software": None})
    data = base64.b64encode(target.getvalue()).decode()
    caption = html.escape(plot.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )
