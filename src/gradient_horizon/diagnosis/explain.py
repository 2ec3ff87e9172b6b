"""A watched run in words: how far the gradient reached, and where its first non-finite number came from."""

import math
from collections.abc import Sequence

import numpy as np

from gradient_horizon.diagnosis.history import Bad, History, Row
from gradient_horizon.diagnosis.parameters import NAN

OVERFLOW = {"float32": 88.7, "float64": 709.7}  # log of the largest number
JUMP = math.log(1000.0)  # of the gradient norm, against its median before
_NAMED = 4  # parameters named in a sentence


def explanation(history: History, dtype: str, *, has_loss: bool) -> str:
    """A paragraph about the run so far."""
    rows = [row for row in history.rows if row.horizon.kind]
    if history.bad is None and not rows:
        return "Nothing has been measured yet."
    if history.bad is None:
        return " ".join([_finite(history), *_then_and_last(rows, history)])
    last = _last_before(rows, history.bad)
    sentences = [_when(history.bad)]
    if last is not None:
        sentences += _then_and_last([row for row in rows if row.update <= last.update], history)
    sentences.append(cause(history, dtype, has_loss=has_loss)[1])
    return " ".join(sentences)


def _finite(history: History) -> str:
    first, last = history.rows[0].update, history.rows[-1].update
    return f"Every parameter is finite at update {last}, watched since update {first}."


def _last_before(rows: Sequence[Row], bad: Bad) -> Row | None:
    return next((row for row in reversed(rows) if row.is_finite and row.update < bad.update), None)


def _when(bad: Bad) -> str:
    names = [f"{name} ({'NaN' if state == NAN else 'inf'})" for name, state in bad.parameters.items()]
    named = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    others = "1 other parameter is" if bad.others == 1 else f"{bad.others} other parameters are"
    rest = f"; {others} still finite" if bad.others else "; no parameter is left finite"
    first = f"First non-finite: {named} at update {bad.update}{rest}."
    return f"Finite until update {bad.last_finite}. {first}" if bad.last_finite is not None else first


def _then_and_last(rows: Sequence[Row], history: History) -> list[str]:
    first, last = rows[0], rows[-1]
    sentences = [f"At update {last.update} {_reach(last, history)}"]
    if last.update > first.update:
        sentences.append(f"At update {first.update} {_reach(first, history)}")
    return sentences


def _reach(row: Row, history: History) -> str:
    if row.horizon.kind == "nonfinite":
        return f"the state is not finite from step {row.first_bad_time} of the probe on."
    factor = math.exp(min(row.log_growth, 700.0))
    size = f"10^{row.log_size / math.log(10.0):.1f}" if math.isfinite(row.log_size) else "0"
    horizon = f"horizon {row.horizon.lag:g} of {history.length} steps, {row.horizon.kind}"
    if row.horizon.kind == "beyond":
        horizon = f"horizon beyond the {history.length} steps"
    text = (
        f"the gradient changed by a factor of {factor:.3g} per step, over {history.length} steps by {size} ({horizon})"
    )
    if math.isfinite(row.log_gradient_norm):
        text += f", and the gradient of the loss {row.loss:.3g} had norm {_number(row.log_gradient_norm)}"
    return f"{text}."


def _number(log: float) -> str:
    return f"{math.exp(log):.3g}" if abs(log) < 230 else f"10^{log / math.log(10.0):.1f}"


def cause(history: History, dtype: str, *, has_loss: bool) -> tuple[str, str]:
    """Where the first non-finite number came from: a word, and a sentence.

    `states`, `loss`, `overflow`, `derivative`, `exploded`, `unclear`, `elsewhere` or `unknown`; judged by the network
    at its last finite parameters, along the probe.
    """
    bad = history.bad
    assert bad is not None
    row = _last_before(history.rows, bad)
    if row is None:
        return "unknown", "No parameters before that update were finite: look at how they were initialised."
    measured_at = f"At update {row.update}, along the probe,"
    if row.first_bad_time >= 0:
        return "states", (
            f"{measured_at} the state itself is not finite from step {row.first_bad_time} on, with finite parameters:"
            " it entered through the recurrence."
        )
    if not bad.is_measured:
        return "unknown", (
            f"The last finite parameters, of update {bad.last_finite}, could not be measured (donated, or overwritten"
            f" in place). Judged by update {row.update}: {_judged(row, history, dtype, has_loss)[1]}"
        )
    return _judged(row, history, dtype, has_loss)


def _judged(row: Row, history: History, dtype: str, has_loss: bool) -> tuple[str, str]:
    if has_loss and row.loss == math.inf and row.horizon.kind == "exploded":
        return "exploded", (
            "Every state of the probe is finite, but what grows from step to step has exploded, as has the gradient;"
            " the loss overflows. It entered through the recurrence; clip the gradient, or start from smaller weights."
        )
    if has_loss and not math.isfinite(row.loss):
        return "loss", (
            f"Every state of the probe is finite, but the loss is {row.loss:g}: it entered in the loss (a logarithm or"
            " a division of 0, an overflow), not through the recurrence."
        )
    overflow = OVERFLOW[dtype]
    sizes = np.concatenate([row.log_norm, row.log_state_gradient_norm])
    largest = float(np.max(sizes[~np.isnan(sizes)], initial=-np.inf))
    if has_loss and not math.isfinite(row.log_gradient_norm) and row.log_gradient_norm != -math.inf:
        if largest > overflow:
            return "overflow", (
                f"The loss is finite, but its gradient through time, of size {_number(largest)}, overflows {dtype}: it"
                " entered through the recurrence, on the way back."
            )
        return "derivative", (
            "States and loss are finite and the gradient through time is moderate, but the gradient with respect to the"
            " parameters is not finite: it entered in a derivative (a root or a norm at 0, the unused branch of a"
            " where), not through the recurrence."
        )
    before = [other.log_gradient_norm for other in history.rows if other.update < row.update and other.is_finite]
    before = [value for value in before if math.isfinite(value)]
    jump = row.log_gradient_norm - float(np.median(before)) if before else 0.0
    if jump > JUMP or (row.horizon.kind == "exploded" and not has_loss):
        grown = f" (the gradient of the loss to {_number(jump)} times its earlier median)" if jump > JUMP else ""
        return "exploded", (
            f"States, loss and gradient were still finite on the probe, but the gradient had exploded{grown}: the"
            " update that it made took the parameters out of range. It entered through the recurrence; clip the"
            " gradient, or start from smaller weights."
        )
    if row.horizon.kind == "exploded":
        return "unclear", (
            "The gradient through time had exploded, but on the probe the gradient of the loss was not larger than"
            " before: either the batch of that update met the explosion, or it entered elsewhere (NaN in that batch,"
            " the optimiser)."
        )
    unseen = "" if has_loss else " (no loss was given, so it was not looked at)"
    return "elsewhere", (
        f"At update {row.update} nothing is wrong on the probe: states and gradient are finite and the gradient through"
        f" time has not exploded{unseen}. It did not enter through the recurrence: look at that update's own batch (NaN"
        " in the data), at the loss on it, and at the optimiser."
    )
