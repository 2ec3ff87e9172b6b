"""Tables of the outcomes of training, and of how well the initial gradient horizon predicts them."""

import xarray as xr
from rich.table import Table

from gradient_horizon.analysis.intervals import least_difference, widest_half
from gradient_horizon.analysis.outcomes import (
    best_over,
    exists,
    final_error,
    has_diverged,
    has_solved,
    horizon_auc,
    share_solved,
)
from gradient_horizon.analysis.tables.layout import few_scales, median_of, points_of, swept_keys, table_of

_CHOICES = {"learning_rate": "η", "clip_threshold": "c"}
FEW = 20  # seeds: with this many, a share of one half is known to ±0.2


def _interval(lower: float, upper: float) -> str:
    return f"{lower:.2f}–{upper:.2f}"


def _of_few(seeds: int, rows: int) -> str:
    """Return a caveat for `rows` shares of so few `seeds`; empty if there are enough."""
    if not 0 < seeds <= FEW:
        return ""
    text = f"{seeds} seed{'s' if seeds > 1 else ''}: ±{widest_half(seeds):.2f} at worst"
    if rows == 1:
        return text
    least = least_difference(seeds)
    rows_apart = f"rows that differ by fewer than {least} networks may do so" if least else "any two rows may differ"
    return f"{text}; {rows_apart} by chance"


def solved_table(dataset: xr.Dataset) -> Table | None:
    """Tabulate the networks that solved their task, one row per swept setting and weight scale.

    Only a few weight scales are shown. If there are several learning rates or clip thresholds, those with which most
    networks solved their task are used. If a row has few seeds, the caption states the resulting uncertainty. None if
    none were trained.
    """
    if "solved_at" not in dataset:
        return None
    keys = swept_keys(dataset)
    several = [axis for axis in _CHOICES if dataset.sizes[axis] > 1]
    columns = ("g", *(_CHOICES[axis] for axis in several), "solved", "95 %", "after", "diverged", "error")
    table = table_of("Networks that solved their task", keys, columns)
    dataset = dataset.sortby("weight_scale")
    shown, seeds = few_scales(dataset), []
    for at, chosen in points_of(dataset, keys):
        for index in shown:
            row, best = best_over(chosen.isel(weight_scale=index), [*_CHOICES])
            share, solved = share_solved(row), has_solved(row)
            seeds.append(int(exists(row).sum()))
            table.add_row(
                *(str(at[key]) for key in keys),
                f"{float(row.weight_scale):g}",
                *(f"{best[axis]:g}" if axis in best else "" for axis in several),
                f"{int(solved.sum())}/{seeds[-1]}",
                _interval(share.lower, share.upper),
                median_of(row.solved_at.where(solved), 0),
                str(int(has_diverged(row).sum())),
                median_of(final_error(row), 3),
                end_section=bool(keys) and len(shown) > 1 and index == shown[-1],
            )
    columns = "95 %: Wilson interval; after: median number of updates; error: median final error"
    remarks = (*_selected(dataset), columns, _of_few(min(seeds, default=0), len(seeds)))
    table.caption = "; ".join(part for part in remarks if part)
    return table


def _selected(dataset: xr.Dataset) -> list[str]:
    """Note that only the best of several learning rates or clip thresholds is counted, chosen by `best_over`."""
    several = [_CHOICES[axis] for axis in _CHOICES if dataset.sizes[axis] > 1]
    chosen = "the value with which most of these networks solved the task (if none, the lowest error): a best case"
    return [f"{' and '.join(several)}: {chosen}"] if several else []


def prediction_table(dataset: xr.Dataset) -> Table | None:
    """Tabulate `outcomes.horizon_auc`, one row per swept setting, over all weight scales.

    Evaluated at the learning rate and clip threshold with which most networks solved their task. None if nothing was
    trained, or if no job has both networks that solved it and networks that did not.
    """
    if "solved_at" not in dataset:
        return None
    keys = swept_keys(dataset)
    table = table_of(
        "Does the initial gradient horizon predict which networks solve the task?", keys, ("solved", "AUC", "95 %")
    )
    for at, chosen in points_of(dataset, keys):
        data, _ = best_over(chosen, [*_CHOICES])
        area = horizon_auc(data)
        if area is not None:
            solved, total = int(has_solved(data).sum()), int(exists(data).sum())
            table.add_row(
                *(str(at[key]) for key in keys),
                f"{solved}/{total}",
                f"{area.estimate:.2f}",
                _interval(area.lower, area.upper),
            )
    columns = (
        "AUC: probability that a network that solves the task has a longer horizon than one that does not; 95 %:"
        " bootstrap over seeds"
    )
    table.caption = "; ".join([*_selected(dataset), columns])
    return table if table.rows else None
