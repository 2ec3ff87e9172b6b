"""A watch against closed forms, against JAX's own gradient of the whole rollout, and against runs broken on purpose."""

import logging
import math
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradient_horizon as gh
from gradient_horizon.diagnosis import history as histories
from gradient_horizon.diagnosis import probe as probes
from gradient_horizon.diagnosis import watch as watches

S, T, N = 2, 12, 3
XS = np.random.default_rng(0).standard_normal((S, T, N)).astype(np.float32)
EPS = float(np.finfo(np.float32).eps)


def linear(params, h, x):
    return params["W"] @ h + x


def orthogonal(scale):
    q, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((N, N)))
    return {"W": jnp.asarray(scale * q, jnp.float32), "v": jnp.asarray([1.0, -2.0, 0.5], jnp.float32)}


def states_of(params, xs, step=linear):
    def one(xs):
        return jax.lax.scan(lambda h, x: (step(params, h, x),) * 2, jnp.zeros(N, jnp.float32), xs)[1]

    return jax.vmap(one)(xs)


def last_state(params, xs):
    """L = mean over sequences of v · h_T."""
    return jnp.mean(states_of(params, xs)[:, -1] @ params["v"])


def watched(step: Any = linear, probe: Any = XS, every: Any = 1, **settings: Any) -> gh.Watch:
    return gh.Watch(step, probe, every, **{"h0": jnp.zeros(N, jnp.float32), **settings})


def table_after(watch, params, update=None):
    """The table of a call that has to measure."""
    table = watch(params, update)
    assert table is not None
    return table


@pytest.mark.parametrize("scale", [0.5, 1.3])
def test_a_linear_network_has_the_growth_exponent_horizon_and_profile_of_its_closed_form(scale):
    """∂h_T/∂h_t = (g Q)^(T-t): every singular value is g^(T-t)."""
    given = {"loss_of_states": lambda params, states, probe: jnp.mean(states[:, -1] @ params["v"])}
    for settings in ({"loss": last_state}, given):
        table = table_after(watched(horizon_threshold=0.9, **settings), orthogonal(scale), 0)
        rounding = (N + 8) * EPS * T  # each step rounds by (n + 8) eps
        assert abs(float(table.log_growth[0]) - math.log(scale)) < rounding
        assert abs(float(table.lyapunov_exponent[0]) - math.log(scale)) < rounding
        first = next((lag for lag in range(1, T + 1) if lag * abs(math.log10(scale)) > 0.9), T + 1)
        assert table.horizon[0] == first
        assert table.horizon_kind[0] == ("vanished" if scale < 1 else "exploded" if first <= T else "beyond")
        left = np.arange(T - 1, -1, -1)
        profile = left * math.log(scale) + math.log(math.sqrt(1 + 4 + 0.25) / math.sqrt(S))
        np.testing.assert_allclose(table.log_state_gradient_norm[0], profile, atol=rounding)
    assert math.isnan(table.loss[0])


def test_a_gradient_that_underflows_in_float32_is_measured():
    xs = np.zeros((1, 300, N), np.float32)
    table = table_after(watched(probe=xs, loss=last_state), orthogonal(0.5), 0)
    expected = 299 * math.log(0.5) + 0.5 * math.log(5.25)  # e^-206
    assert abs(float(table.log_state_gradient_norm[0, 0]) - expected) < 300 * (N + 8) * EPS + 207 * EPS


def everywhere(params, xs, step):
    """A loss that reads each state inside the scan, in a jitted body, and sums in the carry."""

    @jax.jit
    def body(carry, x):
        h, total = carry
        h = step(params, h, x)
        read = jax.nn.softplus(h @ params["v"])
        return (h, total + read), read

    def one(xs):
        (h, total), reads = jax.lax.scan(body, (jnp.zeros(N, jnp.float32), jnp.float32(0)), xs)
        return total + jnp.sum(reads[::2]) + jnp.sum(jnp.square(h))

    return jnp.sum(jax.vmap(one)(xs))


def test_the_profile_is_the_gradient_by_perturbations_of_every_state():
    def step(params, h, x):
        return jnp.tanh(params["W"] @ h + x)

    def perturbed(shift, params):
        def body(carry, inputs):
            x, add = inputs
            h = step(params, carry[0], x) + add
            read = jax.nn.softplus(h @ params["v"])
            return (h, carry[1] + read), read

        def one(xs, shift):
            (h, total), reads = jax.lax.scan(body, (jnp.zeros(N, jnp.float32), jnp.float32(0)), (xs, shift))
            return total + jnp.sum(reads[::2]) + jnp.sum(jnp.square(h))

        return jnp.sum(jax.vmap(one)(jnp.asarray(XS), shift))

    params = orthogonal(1.5)
    gradient = jax.grad(perturbed)(jnp.zeros((S, T, N), jnp.float32), params)
    expected = np.log(np.linalg.norm(np.asarray(gradient, np.float64), axis=(0, 2)))
    table = table_after(watched(step, loss=partial(everywhere, step=step)), params, 0)
    np.testing.assert_allclose(table.log_state_gradient_norm[0], expected, atol=T * (N + 8) * EPS)
    by_params = jax.grad(lambda params: everywhere(params, jnp.asarray(XS), step))(params)
    norm = np.log(np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(by_params)])))
    assert abs(float(table.log_gradient_norm[0]) - norm) < T * (N + 8) * EPS


def reads_before(params, xs):
    def one(xs):
        return jnp.sum(
            jax.lax.scan(lambda h, x: (linear(params, h, x), h @ params["v"]), jnp.zeros(N, jnp.float32), xs)[1]
        )

    return jnp.mean(jax.vmap(one)(xs))


def elsewhere_from(params, xs):
    def one(xs):
        return jax.lax.scan(lambda h, x: (linear(params, h, x), None), jnp.ones(N, jnp.float32), xs)[0]

    return jnp.mean(jax.vmap(one)(xs))


def without_scan(params, xs):
    h = jnp.zeros((S, N), jnp.float32)
    for t in range(T):
        h = h @ params["W"].T + xs[:, t]
    return jnp.mean(h)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (reads_before, "0 of its scans"),
        (without_scan, "0 of its scans"),
        (elsewhere_from, "are not those of step from h0"),
    ],
)
def test_a_loss_whose_states_are_not_certain_has_no_profile_and_a_warning(loss, words):
    watch = watched(loss=loss)
    table = table_after(watch, orthogonal(0.9), 0)
    assert np.isnan(table.log_state_gradient_norm).all()
    assert np.isfinite(table.loss).all()
    assert any(words in text for _, text in watch.warnings)


def quiet(**settings):
    """A watch that measures once, for what does not depend on measurements."""
    return watched(every=10**6, **settings)


@pytest.mark.parametrize("calls", [1, 2, 40, 77])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_bad_update_and_its_parameter_are_found_exactly(calls, value):
    watch = quiet()
    for update in range(100):
        params = orthogonal(0.9)
        if update >= calls:
            params["v"] = params["v"].at[1].set(value)
        watch(params, update)
    assert watch.first_bad_update == calls
    table = watch.table()
    assert table.attrs["first_bad_parameters"] == "params['v']"
    assert table.attrs["last_finite_update"] == calls - 1
    word = "NaN" if math.isnan(value) else "inf"
    assert (
        f"Finite until update {calls - 1}. First non-finite: params['v'] ({word}) at update {calls};" in watch.explain()
    )
    assert "1 other parameter is still finite" in watch.explain()
    assert calls - 1 in table["update"]  # measured when it was found
    assert bool(table.finite.sel(update=calls - 1))


def test_parameters_donated_to_the_next_update_are_still_explained():
    update = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf * 10.0, params), donate_argnums=0)
    watch, params = quiet(), orthogonal(1.0)
    for number in range(60):
        params = update(params)
        watch(params, number)
    assert watch.first_bad_update == 38  # 10^39 is larger than 3.4e38
    assert watch.table().attrs["last_finite_update"] == 37


def test_numpy_parameters_changed_in_place_are_still_explained():
    watch, params = quiet(), {name: np.array(leaf) for name, leaf in orthogonal(0.9).items()}
    for number in range(5):
        if number == 3:
            params["W"][0, 0] = np.nan
        watch(params)
    assert watch.first_bad_update == 3
    assert 2 in watch.table()["update"]


def softly(params, h, x):
    return jnp.tanh(params["W"] @ h + x)


def with_loss(of_end):
    def loss(params, xs):
        return jnp.mean(of_end(params, states_of(params, xs, softly)[:, -1]))

    return loss


@pytest.mark.parametrize(
    ("step", "loss", "before", "cause"),
    [
        (linear, None, {"W": 1e30}, "states"),
        (softly, with_loss(lambda params, h: jnp.log(params["v"][0] * jnp.ones(S, jnp.float32))), {"v": 0.0}, "loss"),
        (softly, with_loss(lambda params, h: jnp.sqrt(jnp.abs(h @ (0 * params["v"])))), {}, "derivative"),
        (softly, with_loss(lambda params, h: h @ params["v"]), {}, "elsewhere"),
        (linear, last_state, {"W": 30.0}, "exploded"),
        (linear, lambda params, xs: jnp.square(last_state(params, xs)), {"W": 100.0}, "exploded"),
    ],
    ids=["states", "loss", "derivative", "elsewhere", "exploded", "overflowing loss"],
)
def test_where_the_first_nan_came_from(step, loss, before, cause):
    """`before`: factors of the parameters at the last finite update."""
    watch, params = quiet(step=step, loss=loss), orthogonal(0.9)
    watch(params, 0)
    params = {name: leaf * before.get(name, 1.0) for name, leaf in params.items()}
    watch(params, 1)
    watch({name: leaf * jnp.nan for name, leaf in params.items()}, 2)
    assert watch.first_bad_update == 2
    assert watch.cause == cause
    text = watch.explain()
    assert "through the recurrence" in text
    assert ("not through the recurrence" in text or "did not enter through" in text) == (
        cause in ("loss", "derivative", "elsewhere")
    )


def test_it_warns_once_in_words_until_the_network_recovers(caplog):
    watch = watched(horizon_threshold=2.0)
    with caplog.at_level(logging.WARNING):
        for update, scale in enumerate([0.9, 0.3, 0.3, 0.9, 0.3, 1.0, 1.3, 2.0]):
            watch(orthogonal(scale), update)
    texts = [record.message for record in caplog.records]
    assert [text.split(":")[0] for text in texts] == ["update 1", "update 4", "update 6"]
    assert "the gradient vanishes after 4 of the 12 steps that the task spans" in texts[0]
    assert "about to explode" in texts[2]  # 12 log 1.3 = 3.1, and at this rate 6.3 > log 100 at the next
    assert texts == [text for _, text in watch.warnings]


def test_a_measurement_that_fails_does_not_stop_training(caplog, monkeypatch):
    watch = watched()
    watch(orthogonal(0.9))
    monkeypatch.setattr(watches.Watch, "_reading", lambda self, own: 1 / 0)
    assert len(table_after(watch, orthogonal(0.9))["update"]) == 2
    assert "update 1 was not measured (division by zero); training goes on" in caplog.text


def test_it_measures_when_a_multiple_of_every_is_reached_and_compiles_once():
    watch = watched(every=10)
    measured = [update for update in range(0, 50, 3) if watch(orthogonal(0.9), update) is not None]
    assert measured == [0, 12, 21, 30, 42]
    assert watch._programs is not None
    assert watch._programs[1]._cache_size() == 1


def test_the_file_holds_the_table_and_a_failure_to_write_it_is_survived(tmp_path, caplog, monkeypatch):
    path = tmp_path / "run.nc"
    watch = watched(path=path)
    for update in range(3):
        watch(orthogonal(0.9), update)
        assert path.exists()
    watch.write()
    loaded = gh.load(path)
    assert loaded["update"].values.tolist() == [0, 1, 2]
    assert loaded.attrs["explanation"] == watch.explain()
    np.testing.assert_array_equal(loaded.log_norm, watch.table().log_norm)
    assert (loaded.horizon_kind == "beyond").all()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(histories.datasets, "save", full)
    watch(orthogonal(0.9), 3)
    watch.write()
    assert "No space left on device" in caplog.text
    monkeypatch.undo()
    watch.write()
    assert gh.load(path)["update"].values.tolist() == [0, 1, 2, 3]


KILLED = """
import os, signal
import jax.numpy as jnp, numpy as np
import gradient_horizon as gh
watch = gh.Watch(lambda w, h, x: w * h + x, np.ones((1, 5, 2), np.float32), 1, jnp.zeros(2, jnp.float32), path="run.nc")
for update in range(3):
    watch(jnp.float32(0.5), update)
{end}
"""


@pytest.mark.parametrize(
    ("end", "rows"), [("os.kill(os.getpid(), signal.SIGKILL)", 1), ("", 3)], ids=["killed", "ends"]
)
def test_a_process_leaves_a_readable_file_even_if_it_is_killed(end, rows, tmp_path):
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED).format(end=end)], cwd=tmp_path, check=False)
    assert len(gh.load(tmp_path / "run.nc")["update"]) >= rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every: 0; allowed: a whole number of at least 1"),
        ({"every": -3}, "every: -3; allowed"),
        ({"every": 1.5}, "every: 1.5; allowed"),
        ({"step": 3}, "step: 3; allowed: a function"),
        ({"loss": "mse"}, "loss: 'mse'; allowed: a function"),
        ({"probe": np.zeros(5, np.float32)}, r"probe: leading axes \[\(5,\)\]; allowed: \(S, T\)"),
        (
            {"probe": np.where(XS[1, 4, 2] == XS, np.nan, XS)},
            "has 1 entries that are not finite, the first in sequence 1 at",
        ),
        ({"probe": None}, "steps: None, and probe is None"),
        ({"steps": 5}, "steps: 5, but the probe has 12"),
        ({"h0": None}, "h0: None, and step is not a method of a cell"),
        ({"h0": jnp.zeros(N, int)}, "h0: dtypes"),
        ({"task_length": 0}, "task_length: 0; allowed"),
        ({"horizon_threshold": -1.0}, "horizon_threshold: -1.0; allowed"),
        ({"path": "."}, "path: '.' is a folder; allowed: the name of a new file"),
        ({"path": "no/such/run.nc"}, "path: 'no/such/run.nc' has no folder"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        watched(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"h0": jnp.zeros(N, jnp.bfloat16)}, "h0: .3,. bfloat16, but step returns .3,. float32; allowed"),
        ({"h0": {"a": jnp.zeros(N, jnp.float32)}}, "probe: step fails on one entry of it with h0"),
        ({"h0": jnp.zeros(N + 1, jnp.float32)}, "probe: step fails on one entry of it with h0"),
        ({"loss": lambda params, xs: jnp.mean(xs, axis=0)}, "loss: returns float32.12, 3.; allowed: one real number"),
        ({"loss": lambda params, xs: params["U"]}, "loss: fails on params and the probe .'U'.; allowed"),
    ],
)
def test_what_does_not_fit_the_parameters_is_refused_at_the_first_call(settings, message):
    watch = watched(step=lambda params, h, x: params["W"] @ h.astype(jnp.float32) + x, **settings)
    with pytest.raises(ValueError, match=message) as error:
        watch(orthogonal(0.9), 0)
    assert "\n" not in str(error.value)


def test_wrong_calls_are_refused_and_lose_nothing():
    watch = quiet()
    watch(orthogonal(0.9), 0)
    other = orthogonal(0.9)
    wrong: list[tuple[Any, Any, str]] = [
        (
            {**other, "b": jnp.zeros(2, jnp.float32)},
            1,
            "params: a structure of 3 leaves that is not that of the first call .update 1.",
        ),
        (
            {**other, "W": jnp.zeros((2, 2), jnp.float32)},
            1,
            r"params: params\['W'\] has shape \(2, 2\) and dtype float32, in the first",
        ),
        (other, 1.5, "update: 1.5; allowed: a whole number, or None"),
        ({"name": "x"}, 1, "params: 1 leaves without a floating array"),
    ]
    for params, update, message in wrong:
        with pytest.raises(ValueError, match=message):
            watch(params, update)
    with pytest.raises(ValueError, match="params: traced; allowed"):
        jax.jit(lambda params: watch(params, 1))(other)
    assert len(watch.table()["update"]) == 1


def test_a_probe_longer_than_memory_is_refused_and_what_would_fit_is_named(monkeypatch):
    monkeypatch.setattr(probes, "free_memory", lambda: 2**24)
    long = np.broadcast_to(np.zeros(N, np.float32), (4, 10**6, N))
    with pytest.raises(
        ValueError, match=r"probe: 4 sequences of 1000000 steps need .* GiB, and 0.0156 GiB are free; allowed"
    ) as error:
        watched(probe=long)
    fits = re.search(r"such as one sequence of (\d+) steps$", str(error.value))
    assert fits is not None
    steps = int(fits[1])
    watched(probe=long[:1, :steps])
    with pytest.raises(ValueError, match="such as one sequence of"):
        watched(probe=long[:1, : 4 * steps])


def test_updates_that_do_not_grow_are_counted_on_with_a_warning():
    watch, params = watched(every=1), orthogonal(0.9)
    for update in (5, 3, 3, 9):
        watch(params, update)
    assert watch.table()["update"].values.tolist() == [5, 6, 7, 9]
    assert [text for _, text in watch.warnings if text == "update: 3; allowed: 6 or later; taken as 6"]
    assert "watched since update 5" in watch.explain()


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    (tmp_path / "run.nc").write_text("mine")
    with pytest.raises(ValueError, match="is there already, and would be lost"):
        watched(path=tmp_path / "run.nc")


@jax.tree_util.register_pytree_with_keys_class
@dataclass
class Module:
    """A module as frameworks have them: arrays beside a function, a number and a name."""

    weights: Any
    activation: Any
    leak: float
    name: str

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey(key), value) for key, value in vars(self).items()], None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)

    def __call__(self, h, x):
        if self.name != "net":  # a static leaf
            raise ValueError
        return self.leak * self.activation(self.weights @ h + x)


def test_modules_with_functions_and_numbers_among_their_leaves_are_watched():
    watch = watched(
        lambda module, h, x: module(h, x), loss=lambda module, xs: jnp.sum(states_of(module, xs, Module.__call__))
    )
    q = orthogonal(0.9)["W"]
    table = table_after(watch, Module(q, lambda a: a, 1.0, "net"), 0)
    assert abs(float(table.log_growth[0]) - math.log(0.9)) < T * (N + 8) * EPS
    assert np.isfinite(table.log_state_gradient_norm).all()
    assert watch._programs is not None
    table = table_after(
        watch, Module(q, watch._programs[0].rest[0], 0.5, "net"), 1
    )  # a number that changed is not forgotten
    assert abs(float(table.log_growth[1]) - math.log(0.45)) < T * (N + 8) * EPS
    watch(Module(q.at[0].set(jnp.nan), watch._programs[0].rest[0], 0.5, "net"), 2)
    assert watch.table().attrs["first_bad_parameters"] == "params.weights"


def test_a_cell_needs_no_h0_and_a_network_without_inputs_no_probe():
    cell = gh.make_cell("lstm", 4)
    params = cell.init(jax.random.key(0), weight_scale=0.5)
    table = table_after(gh.Watch(cell.step, None, steps=9), params, 0)
    logs = gh.log_jacobian_norms(cell.step, params, cell.initial_state(), steps=9)["frobenius"]
    np.testing.assert_allclose(table.log_norm[0], logs, atol=9 * 16 * EPS)


def test_saturation_is_the_share_of_short_rows():
    """tanh at 5 passes on 2e-4 of a row of length 0.2, and near 0 nearly all of it."""
    probe = np.zeros((1, 4, N), np.float32)
    probe[:, :, 0] = 5.0
    table = table_after(watched(softly, probe=probe), orthogonal(0.2), 0)
    assert float(table.saturation[0]) == pytest.approx(1 / 3, abs=1e-6)


def test_an_equinox_module_is_watched():
    eqx = pytest.importorskip("equinox")
    cell = eqx.nn.GRUCell(N, N, key=jax.random.key(0))

    def loss(cell, xs):
        return jnp.mean(
            jax.vmap(lambda xs: jax.lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(N, jnp.float32), xs)[0])(xs)
        )

    watch = watched(lambda cell, h, x: cell(x, h), loss=loss)
    table = table_after(watch, cell, 0)
    assert np.isfinite(table.log_state_gradient_norm).all()
    assert np.isfinite(table.log_norm).all()
    watch(eqx.tree_at(lambda cell: cell.weight_hh, cell, cell.weight_hh * jnp.nan), 1)
    assert watch.table().attrs["first_bad_parameters"] == "params.weight_hh"


def test_a_flax_nnx_state_is_watched():
    nnx = pytest.importorskip("flax.nnx")
    graph, state, rest = nnx.split(nnx.GRUCell(N, N, rngs=nnx.Rngs(0)), nnx.Param, ...)

    def step(state, h, x):
        return nnx.merge(graph, state, rest)(h, x)[0]

    watch = watched(step, loss=lambda state, xs: jnp.mean(states_of(state, xs, step)[:, -1]))
    table = table_after(watch, state, 0)
    assert np.isfinite(table.log_state_gradient_norm).all()
    watch(jax.tree.map(lambda leaf: leaf * jnp.nan, state), 1)
    assert watch.first_bad_update == 1
