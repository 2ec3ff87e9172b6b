"""A watch on a network while it trains, in any training loop: how far its gradient reaches, and when it breaks."""

import atexit
import logging
import math
import operator
import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from gradient_horizon.diagnosis import explain, parameters
from gradient_horizon.diagnosis.history import Bad, History, blank_row, check_path, row_of
from gradient_horizon.diagnosis.loss import NoStatesError, loss_of_states
from gradient_horizon.diagnosis.parameters import FINITE, Parameters, taken_apart
from gradient_horizon.diagnosis.probe import check_finite, check_memory, initial_state, sizes
from gradient_horizon.diagnosis.reading import Reading, check_loss, check_step, read
from gradient_horizon.measures.states import layout_of
from gradient_horizon.names.rules import is_index, whole_number
from gradient_horizon.numerics.arrays import PyTree, Step
from gradient_horizon.store.netcdf import first_line

BATCH = 16  # calls whose looks are read together, when the next as many have been made; fewer of large parameters
HELD = 2**26  # bytes of parameters that these calls may hold
_log = logging.getLogger(__name__)
_alive: "weakref.WeakSet[Watch]" = weakref.WeakSet()


@atexit.register
def _write_all() -> None:
    for watch in list(_alive):
        watch.__del__()


class _Call(NamedTuple):
    """A call whose parameters have been looked at, and these parameters."""

    update: int
    kept: Parameters


@dataclass(slots=True)
class _Batch:
    """Calls in a row, and what they have seen, which may still be computed."""

    calls: list[_Call]
    looks: Any


class Watch:
    """Follow a network while it trains: `watch(params, update)` after each update, in any training loop.

    At every call the parameters are checked for NaN and inf, without waiting for the result. At the first call, and
    whenever `update` has reached the next multiple of `every`, the network is measured along the probe; that call
    waits, and returns the table so far (others return None).

    ```python
    watch = gh.Watch(step, probe, every=100, h0=jnp.zeros(64), loss=loss)
    for update in range(updates):
        params, opt_state = train_step(params, opt_state, batch)
        watch(params, update)
    print(watch.explain())
    ```

    **Arguments:**

    - `step`: `step(params, h, x) -> h` of one sequence. `params` is whatever is passed to the watch: any pytree,
      including modules that hold functions and numbers beside their arrays (those are compiled into the program).
    - `probe`: the inputs measured on: a pytree of arrays with leading axes (S, T), S sequences of T steps; one sequence
      is `xs[None]`. None: no inputs, one sequence of `steps` steps. The cost grows with S T n³; four sequences do.
    - `every`: the number of updates between measurements.
    - `h0`: the initial state of every sequence. None: zeros of the cell, if `step` is the method of one that has
      `initial_state`; else it must be given.
    - `loss`: `loss(params, probe)`, a scalar L: its value and the norm of its gradient are recorded, and ‖∂L/∂h_t‖. For
      that its program must contain a single `lax.scan` over T steps that carries a state like `h0`, with an axis for
      the S sequences (also through `jax.vmap` and `jax.jit`). The scan is found in the program, and L becomes a
      function of the states (see `diagnosis.loss`); whether they are those of `step` on the probe is checked each time.
      If not, the profile is NaN and a warning says so. Targets belong in the loss (a closure), not in the probe.
    - `loss_of_states`: `loss_of_states(params, states, probe)`, the same L as a function of the states h_1 .. h_T, with
      leading axes (S, T), for a loss without such a scan.
    - `task_length`: the lag that the gradient should reach; None: T.
    - `horizon_threshold`: in decades, as in `horizon_of`.
    - `path`: a new netCDF file, replaced as a whole (so that a killed process leaves a readable one) after the first
      measurement, at the first bad update and at the end, and in between as often as takes 2 % of the time.

    **Warnings**, logged once until the network recovers: the horizon ends before `task_length`; the gradient has
    exploded, or will at the next measurement at its present growth; a state, the loss or a parameter is not finite.

    **Raises:** `ValueError` for a wrong argument, at once or, as far as it depends on the parameters, at the first
    call; and for parameters whose structure, shapes or dtypes change later. Nothing else interrupts training: if a
    measurement or the writing of the file fails, that is logged, and the watch goes on.
    """

    def __init__(
        self,
        step: Step,
        probe: PyTree,
        every: int = 100,
        h0: PyTree = None,
        loss: Callable[[PyTree, PyTree], Any] | None = None,
        *,
        loss_of_states: Callable[[PyTree, PyTree, PyTree], Any] | None = None,
        steps: int | None = None,
        task_length: int | None = None,
        horizon_threshold: float = 3.0,
        path: str | os.PathLike[str] | None = None,
    ):
        for name, function in (("step", step), ("loss", loss), ("loss_of_states", loss_of_states)):
            if not callable(function) and (function is not None or name == "step"):
                raise ValueError(f"{name}: {function!r}; allowed: a function")
        self.every = whole_number("every", every)
        sequences, length = sizes(probe, steps)
        if not horizon_threshold > 0:
            raise ValueError(f"horizon_threshold: {horizon_threshold}; allowed: a positive number of decades")
        self._h0 = initial_state(step, h0, probe)
        self._dtype = layout_of(self._h0).dtype.name
        check_memory(self._h0, probe, sequences, length, with_loss=loss is not None or loss_of_states is not None)
        self._probe = jax.tree.map(jnp.asarray, probe)
        check_finite(self._probe)
        self._step, self._loss, self._loss_of_states = step, loss, loss_of_states
        task = length if task_length is None else whole_number("task_length", task_length)
        self._history = History(
            sequences, length, float(horizon_threshold), task, None if path is None else check_path(path)
        )
        self._batches: deque[_Batch] = deque()
        self._said: set[str] = set()
        self._first: Parameters | None = None
        self._programs: tuple[Parameters, Any] | None = None
        self._last: _Call | None = None  # the last call known to be finite
        self._nbytes = 0  # of the arrays
        self._is_donated = False  # the parameters of a call are gone when the next one comes
        self._update = -1
        _alive.add(self)

    def __call__(self, params: PyTree, update: int | None = None) -> xr.Dataset | None:
        """Look at `params` after `update` (None: the last one plus 1, from 0); measure if it is time.

        An `update` that is not later than the last one counts as the last one plus 1, with a warning.

        **Returns:** the table so far if this call has measured, otherwise None.
        """
        own = taken_apart(params, self._first)
        update = self._number(update)
        if self._first is None:
            self._begin(params)
            self._nbytes = own.nbytes
            self._first = own._replace(arrays=[jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in own.arrays])
        elif difference := self._first.difference(own):
            raise ValueError(f"params: {difference} (update {update}); allowed: the structure of the first call")
        is_due = self._is_due(update)
        self._update = update
        try:
            self._look(update, own)
            if is_due:
                self._settle()
        except Exception as error:  # of the caller's own update, for example, whose parameters are still computed
            self._warn(update, "looking", f"update {update}: the parameters could not be read ({first_line(error)})")
        if not is_due:
            return None
        self._measure(update, own)
        self._in_words()
        self._history.write(at_once=False)
        return self._history.dataset()

    def table(self) -> xr.Dataset:
        """Everything measured so far, as a Dataset: variables along `update`, `log_norm` also along `lag` and
        `log_state_gradient_norm` along `time`; the first bad update among its attributes."""
        self._settle()
        return self._history.dataset()

    def explain(self) -> str:
        """What has happened so far, in a paragraph; after a NaN: when, in which parameter, from where and why."""
        self._settle()
        return self._in_words()

    def write(self) -> None:
        """Write the file at once, if there is one; otherwise this happens at the latest when the watch ends."""
        self._settle()
        self._history.write()

    def __del__(self) -> None:
        with suppress(Exception):  # one that was refused has nothing to write
            self.write()

    @property
    def first_bad_update(self) -> int | None:
        """The first update after which a parameter was not finite, or None."""
        self._settle()
        return None if self._history.bad is None else self._history.bad.update

    @property
    def cause(self) -> str | None:
        """Where the first non-finite number came from, in a word (see `explain.cause`); None if there is none."""
        self._settle()
        return None if self._history.bad is None else self._cause()[0]

    @property
    def warnings(self) -> list[tuple[int, str]]:
        """The warnings so far, each with its update."""
        self._settle()
        return list(self._history.warnings)

    def __repr__(self) -> str:
        history = self._history
        sizes = f"{history.sequences} sequences of {history.length} steps"
        return f"Watch({sizes}, every {self.every} updates, {len(history.rows)} measurements)"

    def _number(self, update: int | None) -> int:
        if update is None:
            return self._update + 1
        if not is_index(update):
            raise ValueError(f"update: {update!r}; allowed: a whole number, or None")
        if (number := operator.index(update)) > self._update:
            return number
        following = self._update + 1
        self._warn(following, "order", f"update: {number}; allowed: {following} or later; taken as {following}")
        return following

    def _is_due(self, update: int) -> bool:
        rows = self._history.rows
        return not rows or self._update // self.every != update // self.every

    def _begin(self, params: PyTree) -> None:
        """Check what depends on the parameters."""
        x = None if self._probe is None else jax.tree.map(lambda leaf: leaf[0, 0], self._probe)
        check_step(self._step, params, self._h0, x)
        if self._loss is not None:
            check_loss(self._loss, params, self._probe)

    def _look(self, update: int, own: Parameters) -> None:
        """Look at the parameters, and read what was seen some calls ago: nothing is waited for."""
        bad_numbers = own.bad_numbers() if own.rest else {}
        latest = self._batches[-1] if self._batches else None
        before = latest.calls[-1] if latest is not None and latest.calls else self._last
        self._is_donated = self._is_donated or (before is not None and parameters.are_gone(before.kept.arrays))
        size = max(1, min(BATCH, HELD // (2 * max(self._nbytes, 1))))
        if latest is None or len(latest.calls) >= size:
            while len(self._batches) > 1:
                self._read(self._batches.popleft())
            latest = _Batch([], parameters.no_looks(len(own.arrays)))
            self._batches.append(latest)
        latest.looks = parameters.look(latest.looks, own.arrays)
        if self._is_donated and self._nbytes <= HELD:
            own = own._replace(arrays=parameters.copied(own.arrays))
        elif any(isinstance(leaf, np.ndarray) for leaf in own.arrays):
            own = own._replace(arrays=[leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in own.arrays])
        latest.calls.append(_Call(update, own))
        if bad_numbers:
            self._settle()
            self._found(_Call(update, own), bad_numbers)

    def _settle(self) -> None:
        """Read everything that has been seen, waiting for it."""
        while self._batches:
            self._read(self._batches.popleft())

    def _read(self, batch: _Batch) -> None:
        finite, states = parameters.seen(batch.looks)
        if finite:
            self._recovered("parameters")
            self._last = batch.calls[finite - 1]
        if finite < len(batch.calls):
            call = batch.calls[finite]
            named = zip(call.kept.names(), states, strict=True)
            self._found(call, {name: state for name, state in named if state != FINITE})

    def _found(self, call: _Call, bad: dict[str, int]) -> None:
        """Report parameters that are not finite; the first time, also measure at the last finite ones."""
        history, last = self._history, self._last
        if history.bad is None:
            others = len(call.kept.arrays) - len(bad)
            is_measured = last is not None and self._is_measured(last)
            history.bad = Bad(call.update, None if last is None else last.update, bad, others, is_measured)
            self._last = None  # no longer needed
            self._warn(call.update, "parameters", self._in_words())
            history.write()
        else:
            self._warn(
                call.update, "parameters", f"update {call.update}: parameters are not finite again: {', '.join(bad)}"
            )

    def _is_measured(self, last: _Call) -> bool:
        if any(row.update == last.update for row in self._history.rows):
            return True
        if parameters.are_gone(last.kept.arrays):
            return False
        return self._measure(last.update, last.kept)

    def _measure(self, update: int, own: Parameters) -> bool:
        """Add a row; True if it has been measured."""
        history = self._history
        if history.bad is not None and not self._is_finite(own):
            history.rows.append(blank_row(update, history.length, is_finite=False))
            return False
        try:
            start = time.monotonic()
            reading = self._reading(own)
            row = row_of(update, reading, history.threshold, time.monotonic() - start)
        except Exception as error:
            self._warn(update, "measuring", f"update {update} was not measured ({first_line(error)}); training goes on")
            history.rows.append(blank_row(update, history.length, is_finite=True))
            return False
        self._recovered("measuring")
        history.rows.append(row)
        self._judge(bool(reading.is_own))
        return True

    def _is_finite(self, own: Parameters) -> bool:
        looks = parameters.look(parameters.no_looks(len(own.arrays)), own.arrays)
        return parameters.seen(looks).finite == 1 and not own.bad_numbers()

    def _reading(self, own: Parameters) -> Reading:
        if self._programs is None or not self._programs[0].has_same_rest(own):
            of_states = self._of_states(own.whole(own.arrays))
            step, loss, length, shapes = self._step, self._loss, self._history.length, own._replace(arrays=[])

            def program(arrays: list[Any], h0: PyTree, probe: PyTree, *, careful: bool) -> Reading:
                return read(step, shapes.whole(arrays), h0, probe, length, loss, of_states, careful=careful)

            self._programs = shapes, jax.jit(program, static_argnames="careful")
        program = self._programs[1]
        reading = jax.device_get(program(own.arrays, self._h0, self._probe, careful=False))
        if reading.is_suspect:
            reading = jax.device_get(program(own.arrays, self._h0, self._probe, careful=True))
        return reading

    def _of_states(self, params: PyTree) -> Any:
        history, given = self._history, self._loss_of_states
        if given is not None:
            return lambda params, states, probe: (given(params, states, probe), jnp.ones((), bool))
        if self._loss is None:
            return None
        try:
            return loss_of_states(self._loss, params, self._h0, self._probe, history.sequences, history.length)
        except NoStatesError as error:
            text = f"‖∂L/∂h_t‖ is not measured: {error}; give loss_of_states(params, states, probe)"
            self._warn(self._update, "profile", text)
            return None

    def _judge(self, is_own: bool) -> None:
        """Warn of what the last row shows."""
        history, row = self._history, self._history.rows[-1]
        lag, kind, at = row.horizon.lag, row.horizon.kind, f"update {row.update}: "
        self._say_if(
            kind == "vanished" and lag < history.task_length,
            "horizon",
            f"{at}the gradient vanishes after {lag:g} of the {history.task_length} steps that the task spans",
        )
        limit, ahead = history.threshold * math.log(10.0), history.extrapolated(self.every)
        soon = (
            f"{at}the gradient has exploded: it grows more than 10^{history.threshold:g}-fold in {lag:g} steps"
            if kind == "exploded"
            else f"{at}the gradient is about to explode: at its present rate of growth it will exceed"
            f" 10^{history.threshold:g} over {history.length} steps within {self.every} updates"
        )
        is_growing = row.log_size > math.log(10.0)  # an increase from far below is no explosion
        self._say_if(kind == "exploded" or (is_growing and ahead > limit), "explosion", soon)
        self._say_if(
            row.first_bad_time >= 0,
            "states",
            f"{at}the state is not finite from step {row.first_bad_time} of the probe on",
        )
        is_lost = self._loss is not None and not math.isfinite(row.loss)
        self._say_if(is_lost, "loss", f"{at}the loss on the probe is {row.loss:g}")
        self._say_if(
            not is_own and row.first_bad_time < 0,
            "own states",
            f"{at}‖∂L/∂h_t‖ is not measured: the states in the loss are not those of step from h0 on the probe",
        )

    def _say_if(self, is_so: bool, kind: str, text: str) -> None:
        if is_so:
            self._warn(self._history.rows[-1].update, kind, text)
        else:
            self._recovered(kind)

    def _warn(self, update: int, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._history.warnings.append((update, text))
            _log.warning("%s", text)

    def _recovered(self, kind: str) -> None:
        self._said.discard(kind)

    def _in_words(self) -> str:
        self._history.explanation = explain.explanation(self._history, self._dtype, has_loss=self._loss is not None)
        return self._history.explanation

    def _cause(self) -> tuple[str, str]:
        return explain.cause(self._history, self._dtype, has_loss=self._loss is not None)
