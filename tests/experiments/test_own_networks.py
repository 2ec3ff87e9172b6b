"""`gh.ensemble`: each network has the numbers of a single call, bit for bit the same in any company."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import programs

import gradient_horizon as gh
from gradient_horizon.ensembles import own_networks
from gradient_horizon.experiments import own_networks as experiment
from gradient_horizon.numerics import fallback

N, T, MANY = 3, 12, 300  # more than one chunk, of 2 × 64 networks
RNG = np.random.default_rng(5)
PARAMS = {
    "W": RNG.standard_normal((MANY, N, N)).astype(np.float32) / N**0.5,
    "b": 0.1 * RNG.standard_normal((MANY, N)).astype(np.float32),
}
H0 = RNG.standard_normal((MANY, N)).astype(np.float32)
XS = RNG.standard_normal((T, N)).astype(np.float32)
SHARED_XS = (0, 0, None)


def step(params, h, x):
    return jnp.tanh(params["W"] @ h + params["b"] + x)


norms_of = partial(gh.ensemble, gh.log_jacobian_norms, step, block=64)


def of(places, tree=PARAMS):
    return jax.tree.map(lambda leaf: leaf[places], tree)


def by_hand(params, h, xs):
    """Log Frobenius norms in float64, from φ′ = 1 - tanh²."""
    matrices, (w, b) = [], (np.asarray(params[name], np.float64) for name in ("W", "b"))
    for x in xs:
        h = np.tanh(w @ h + b + x)
        matrices.append((1 - h**2)[:, None] * w)
    product, logs = np.eye(len(h)), []
    for matrix in matrices[::-1]:
        product = product @ matrix
        logs.append(np.log(np.linalg.norm(product)))
    return np.array(logs)


def test_norms_are_those_of_networks_one_by_one_and_the_same_bits_in_any_company():
    whole = norms_of(PARAMS, H0, XS, in_axes=SHARED_XS)
    assert isinstance(whole, gh.JacobianNorms)
    assert whole["frobenius"].shape == (MANY, T)
    assert whole["frobenius"].dtype == np.float32
    for place in (0, 127, 128, MANY - 1):
        # T factors and states of eps = 1.2e-7 each, amplified by the condition of a step, here at most some hundred
        expected = by_hand(of(place), H0[place], XS)
        np.testing.assert_allclose(whole["frobenius"][place], expected, atol=T * 100 * 1.2e-7)
    assert whole.horizon().lag.shape == (MANY,)
    for places in (np.array([299, 7, 150]), slice(100, 260), slice(5, 6)):
        part = norms_of(of(places), H0[places], XS, in_axes=SHARED_XS)
        assert part["frobenius"].tobytes() == whole["frobenius"][places].tobytes()


def mask_step(params, h, x):
    return params["rates"] * x * h


def test_diagonal_networks_have_their_closed_form_and_only_suspects_are_measured_again(monkeypatch):
    """log‖M‖ = ½ log Σ_i Π_t (d_i x_t,i)²: the last input of some networks leaves only what has long underflowed."""
    steps, many = 10, 130
    rates = np.tile(np.array([2.0, 1e-8], np.float32), (many, 1))
    xs = np.ones((many, steps, 2), np.float32)
    killed = np.arange(many) % 7 == 3
    xs[killed, -1, 0] = 0
    cared = []
    postponed = fallback.postponed
    monkeypatch.setattr(fallback, "postponed", lambda care=0: cared.append(care) or postponed(care))
    run = partial(gh.ensemble, gh.log_jacobian_norms, mask_step, anchor="start", block=64)
    got = run({"rates": rates}, np.ones((many, 2), np.float32), xs)["frobenius"]
    factors = np.log(rates.astype(np.float64))[:, None] + np.where(xs > 0, 0, -np.inf)
    expected = 0.5 * np.logaddexp.reduce(2 * np.cumsum(factors, axis=1), axis=2)
    assert expected[killed, -1].max() < -180  # far below the smallest float32, e^-103
    # the logs are float32 sums of an exact exponent and mantissa: half a unit in the last place of 184, and rounding
    np.testing.assert_allclose(got, expected, rtol=3 * 1.2e-7, atol=steps * 1.2e-7)
    assert set(cared) >= {0, 1}
    assert None not in cared
    cared.clear()
    again = run({"rates": rates[~killed]}, np.ones((int((~killed).sum()), 2), np.float32), xs[~killed])["frobenius"]
    assert again.tobytes() == got[~killed].tobytes()
    assert set(cared) <= {0}, "a block without suspects must not pay for care"


def test_dead_units_are_minus_infinity_as_in_single_calls():
    def relu_step(params, h, x):
        return jnp.where(params["W"] @ h > 0, params["W"] @ h, jnp.zeros((), h.dtype))

    got = gh.ensemble(
        gh.log_jacobian_norms, relu_step, of(slice(0, 40)), H0[:40], steps=T, norms=("frobenius", "spectral")
    )
    dead = np.isneginf(got["frobenius"])
    assert 0 < dead[:, -1].sum() < 40
    assert not np.isnan(got["spectral"]).any()
    np.testing.assert_array_equal(dead, np.isneginf(got["spectral"]))
    for place in range(0, 40, 8):
        one = gh.log_jacobian_norms(relu_step, of(place), H0[place], steps=T)["frobenius"]
        np.testing.assert_array_equal(np.isneginf(one), dead[place])


def close(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), left, right)


@pytest.mark.parametrize(
    ("measure", "keywords"),
    [
        (gh.lyapunov_exponents, {"transient": 2}),
        pytest.param(gh.log_singular_values, {}, marks=pytest.mark.slow),
        pytest.param(gh.log_jacobian_norms_all_pairs, {}, marks=pytest.mark.slow),
    ],
)
def test_every_measure_gives_what_a_single_call_gives(measure, keywords):
    got = gh.ensemble(measure, step, of(slice(0, 20)), H0[:20], XS, in_axes=SHARED_XS, **keywords)
    for place in (0, 19):
        # (of float32 sums in another order; the smallest of the values is the most sensitive)
        close(
            jax.tree.map(lambda leaf, place=place: leaf[place], got),
            measure(step, of(place), H0[place], XS, **keywords),
        )


def test_a_cell_is_a_step_too_and_its_nodes_add_up_to_its_norms():
    cell = gh.make_cell("tanh", N)
    coords = {"weight_scale": [0.5, 1.5], "seed": [3, 8]}
    draw = partial(gh.ensemble, step=cell, params=cell.init, h0=cell.initial_state, steps=T, coords=coords)
    nodes = draw(gh.node_split)
    assert nodes.log_growth.dims == ("weight_scale", "seed", "node", "lag")
    assert nodes.node.values.tolist() == ["activation", "matrix"]

    def last_gradient(step, params, h0, steps):
        def read(h):
            for _ in range(T):
                h = step(params, h, None)
            return jnp.sum(h)

        return jnp.log(jnp.linalg.norm(jax.grad(read)(h0)) / N**0.5)

    total = draw(last_gradient)["value"]
    np.testing.assert_allclose(nodes.log_growth.sum(("node", "lag")), total, atol=T * 100 * 1.2e-7)


def test_in_axes_are_those_of_vmap():
    def measure(params, h0, xs):
        return params["W"] @ h0 + params["b"] + xs[0]

    cases = [
        (PARAMS, H0, XS, SHARED_XS),
        ({"W": np.moveaxis(PARAMS["W"], 0, -1), "b": PARAMS["b"][4]}, H0.T, XS, ({"W": -1, "b": None}, 1, None)),
        ({"W": W[2], "b": PARAMS["b"]}, H0[0], np.tile(XS[:, None], (1, MANY, 1)), ({"W": None, "b": 0}, None, 1)),
    ]  # fmt: skip
    for params, h0, xs, in_axes in cases:
        got = gh.ensemble(measure, step, params, h0, xs, in_axes=in_axes)
        expected = jax.vmap(measure, in_axes=in_axes)(params, h0, xs)
        np.testing.assert_allclose(got, expected, atol=5 * 1.2e-7 * 8)


def draw_params(key, weight_scale=1.0):
    scale = jnp.asarray(weight_scale, jnp.float32)
    return {"W": scale * jax.random.normal(key, (N, N), jnp.float32), "b": jnp.zeros(N, jnp.float32)}


def final(params, trajectory):
    return {"W": params["W"], "last": trajectory.states[-1]}


def test_networks_are_drawn_by_their_keys_whatever_their_number():
    draw = partial(gh.ensemble, final, step, draw_params, H0[0], XS, in_axes=(0, None, None))
    whole = draw(networks=MANY, seed=4)
    few = draw(networks=5, seed=4)
    assert jax.tree.map(np.ndarray.tobytes, few) == jax.tree.map(lambda leaf: leaf[:5].tobytes(), whole)
    assert len(np.unique(whole["W"][:, 0, 0])) == MANY
    assert not np.isin(draw(networks=5, seed=5)["W"], whole["W"]).any()
    for keys in (jax.random.split(jax.random.key(1), 5), jax.random.split(jax.random.PRNGKey(1), 5)):
        given = draw(keys=keys)
        np.testing.assert_array_equal(given["W"], jax.vmap(draw_params)(keys)["W"])

    def normal(key):
        return jax.random.normal(key, (N,))

    own = gh.ensemble(
        lambda params, h0: (params, h0), lambda params, h, x: params * h, normal, normal, steps=1, networks=2
    )
    assert not np.isin(own[0], own[1]).any(), "the state has a key of its own"


def test_a_grid_labels_its_axes_and_shares_random_numbers_between_scales():
    scales, seeds = [0.5, 1.0, 2.0], [7, 3, 11, 2]
    draw = partial(gh.ensemble, final, step, draw_params, H0[0], XS, in_axes=(0, None, None))
    data = draw(coords={"weight_scale": scales, "seed": seeds})
    assert data["W"].dims[:2] == ("weight_scale", "seed")
    assert data.sizes["weight_scale"] == 3
    np.testing.assert_array_equal(data["W"].sel(weight_scale=2.0), 4 * data["W"].sel(weight_scale=0.5))
    part = draw(coords={"seed": [2, 7], "weight_scale": [2.0]})
    for name in ("W", "last"):
        expected = data[name].sel(weight_scale=[2.0], seed=[2, 7]).transpose("seed", "weight_scale", ...)
        assert part[name].values.tobytes() == np.ascontiguousarray(expected.values).tobytes()


def test_a_key_is_made_from_the_value_that_labels_it_however_it_is_written():
    draw = partial(gh.ensemble, final, step, draw_params, H0[0], XS, in_axes=(0, None, None))
    scales, seeds = [0.5, 1.0, 2.0], [7, 3, 11, 2]
    whole = draw(coords={"weight_scale": scales, "seed": seeds})["W"]
    floats = draw(coords={"weight_scale": scales, "seed": [3.0, 2.0]})["W"]
    labelled = draw(coords={"weight_scale": scales, "seed": ("seed", [3, 2], {"units": "1"})})["W"]
    np.testing.assert_array_equal(floats, whole.sel(seed=[3, 2]))
    np.testing.assert_array_equal(labelled, whole.sel(seed=[3, 2]))
    words = draw(coords={"weight_scale": scales, "seed": ["a", "b"]})["W"]
    np.testing.assert_array_equal(words, draw(coords={"weight_scale": scales, "seed": [0, 1]})["W"])


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ({"seed": [-1, 0]}, r"coords: -1 of seed; allowed: whole numbers from 0 to 2\^32 - 1"),
        ({"seed": [0, 2**32]}, "coords: 4294967296 of seed; allowed"),
        ({"seed": [0, 2**70]}, "coords: 1180591620717411303424 of seed; allowed"),
        ({"seed": [0.0, np.nan]}, "coords: seed is taken by no function|coords: nan of seed"),
        (
            {"weight_scales": [0.5, 1], "seed": [0]},
            r"coords: weight_scales is taken by no function \(params",
        ),
        ({"weight_scales": [1, 2]}, "coords: weight_scales is taken by no function"),
        ({"gain": [0.5, 1]}, r"coords: gain is taken by no function \(params takes: weight_scale\); allowed: their"),
        ({"gain": [1, 2], "seed": [0]}, "coords: gain, seed are taken by no function"),
    ],
)
def test_coordinates_that_would_label_other_networks_are_refused(coords, message):
    with pytest.raises(ValueError, match=message) as error:
        gh.ensemble(final, step, draw_params, H0[0], XS, in_axes=(0, None, None), coords=coords)
    assert "\n" not in str(error.value)


def test_arrays_with_several_network_axes_become_a_dataset():
    shape = (4, 25)
    params = jax.tree.map(lambda leaf: leaf[:100].reshape(*shape, *leaf.shape[1:]), PARAMS)
    labels = {"depth": [1, 2, 4, 8], "name": ("depth", ["a", "b", "c", "d"])}
    data = norms_of(params, H0[:100].reshape(*shape, N), XS, in_axes=SHARED_XS, dims=("depth", "seed"), coords=labels)
    flat = norms_of(of(slice(0, 100)), H0[:100], XS, in_axes=SHARED_XS)
    assert data.log_norm.dims == ("norm", "depth", "seed", "lag")
    assert data.log_norm.values.tobytes() == flat["frobenius"].tobytes()
    assert data.name.sel(depth=4) == "c"
    horizon, _ = flat.horizon()
    np.testing.assert_array_equal(data.horizon.values.ravel(), horizon)
    assert all(variable.attrs["long_name"] for variable in data.data_vars.values())
    assert data.attrs["block_size"] == 64


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"dims": "lag"},
            "dims: lag is a name in the result; allowed: names other than log_norm, horizon, ",
        ),
        ({"dims": "norm"}, "dims: norm is a name in the result; allowed: names other than"),
        ({"coords": {"horizon": range(5)}}, "dims: horizon is a name in the result"),
        ({"dims": "i", "coords": {"horizon": ("i", range(5))}}, "coords: horizon is a name in the result"),
        ({"dims": "i", "coords": {"depth": ("i", range(4))}}, "coords: conflicting sizes for dimension 'i'.*; allowed"),
        ({"dims": "i", "coords": {"depth": ("j", range(4), 3)}}, "coords: "),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_anything_is_measured(monkeypatch, labels, message):
    monkeypatch.setattr(own_networks.Ensemble, "run", lambda *_: pytest.fail("measured"))
    with pytest.raises(ValueError, match=message) as error:
        norms_of(of(slice(0, 5)), H0[:5], XS, in_axes=SHARED_XS, **labels)
    assert "\n" not in str(error.value)


def test_results_outlive_a_failure_to_label_them(monkeypatch):
    monkeypatch.setattr(experiment, "labelled", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as error:
        norms_of(of(slice(0, 5)), H0[:5], XS, in_axes=SHARED_XS, dims="i")
    assert vars(error.value)["measured"]["frobenius"].shape == (5, T)


def test_a_measure_is_called_with_what_it_names_or_by_position():
    def three(h0, params, *, power):
        return jnp.sum(h0) ** power + params["b"][0]

    got = gh.ensemble(three, step, PARAMS, H0, XS, in_axes=SHARED_XS, power=2)
    np.testing.assert_allclose(got, H0.sum(1) ** 2 + PARAMS["b"][:, 0], rtol=1e-5, atol=1e-5)
    four = gh.ensemble(lambda f, p, h, x: f(p, h, x[0]), step, PARAMS, H0, XS, in_axes=SHARED_XS)
    np.testing.assert_allclose(four, jax.vmap(step, (0, 0, None))(PARAMS, H0, XS[0]), atol=1e-6)


def test_a_measure_within_a_vmap_or_a_loop_decides_by_itself():
    def both(step, params, h0, xs):
        return jax.vmap(lambda h: gh.log_jacobian_norms(step, params, h, xs)["frobenius"])(jnp.stack([h0, -h0]))

    got = gh.ensemble(both, step, of(slice(0, 6)), H0[:6], XS, in_axes=SHARED_XS)
    alone = norms_of(of(slice(0, 6)), H0[:6], XS, in_axes=SHARED_XS)
    np.testing.assert_allclose(got[:, 0], alone["frobenius"], atol=T * 100 * 1.2e-7)


def test_equal_steps_share_their_programs():
    def made(rate):
        return lambda params, h, x: jnp.tanh(rate * (params["W"] @ h))

    def call(rate, many):
        return gh.ensemble(gh.log_jacobian_norms, made(jnp.float32(rate)), of(slice(0, many)), H0[:many], steps=T)

    first = call(0.5, 20)["frobenius"]
    again = []
    assert programs(lambda: again.append(call(0.5, 30)["frobenius"])) == 0
    second = again[0]
    assert second[:20].tobytes() == first.tobytes()
    assert not np.array_equal(call(0.7, 20)["frobenius"], first)


def test_what_was_measured_before_an_interrupt_is_not_lost():
    whole = norms_of(PARAMS, H0, XS, in_axes=SHARED_XS)["frobenius"]
    reported = []

    def stop(done):
        reported.append(done)
        if done >= 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        norms_of(PARAMS, H0, XS, in_axes=SHARED_XS, progress=stop)
    assert reported == [128, 256]
    assert "256 of 300 networks" in stopped.value.__notes__[0]
    np.testing.assert_array_equal(vars(stopped.value)["measured"]["frobenius"], whole[:256])


def test_suspects_of_an_interrupted_ensemble_are_not_numbers():
    work = object.__new__(own_networks.Ensemble)
    work.results, work.suspect, work.done = {"a": np.ones((4, 2))}, np.array([False, True, False, True]), 3
    np.testing.assert_array_equal(work.measured()["a"][:, 0], [1, np.nan, 1])


def test_progress_is_written_if_asked_for_and_nowhere_without_a_terminal(capsys):
    call = partial(norms_of, of(slice(0, 5)), H0[:5], XS, in_axes=SHARED_XS)
    call()
    assert capsys.readouterr() == ("", "")
    call(progress=True)
    assert capsys.readouterr().err == "5 of 5 networks\n"


B = np.zeros((5, N), np.float32)
W = np.zeros((5, N, N), np.float32)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (({"W": W, "b": B[:4]}, B), {}, r"network axes: 5 in params\['W'\], h0; 4 in params\['b'\]; allowed: the same"),
        (({"W": W, "b": B}, B), {"in_axes": (0, 1)}, r"network axes: 5 in .*; 3 in h0; allowed"),
        (({"W": W, "b": B}, B), {"in_axes": (0, 3)}, r"in_axes: 3 for h0, of shape \(5, 3\); allowed: a network axis"),
        (({"W": W, "b": B}, B), {"in_axes": (0,)}, r"in_axes: \(0,\); allowed: an integer, None, or three entries"),
        (({"W": W, "b": B}, B), {"in_axes": ({"W": 0}, 0)}, r"in_axes: \{'W': 0\} does not fit params"),
        (({"W": W, "b": B}, B), {"in_axes": None}, r"in_axes: None gives no argument a network axis; allowed"),
        (({"W": W, "b": 0.5}, B), {}, r"in_axes: 0 for params\['b'\], a float; allowed: None"),
        (({"W": W[:0], "b": B[:0]}, B[:0]), {}, r"networks: 0; allowed: at least 1"),
        (({"W": W, "b": B}, B), {"networks": 5}, r"networks: is for networks to draw"),
        (({"W": W, "b": B}, B), {"seed": -1}, r"seed: -1; allowed"),
        (({"W": W, "b": B}, B), {"block": 0}, r"block: 0; allowed"),
        (({"W": W, "b": B}, B), {"dims": ("a", "a")}, r"dims: \('a', 'a'\); allowed"),
        (({"W": W, "b": B}, B), {"coords": {"a": [1, 2]}}, r"coords: 2 values of a; allowed: 5"),
        (({"W": W, "b": B}, B), {"trajectory": 3}, r"trajectory: is computed for each network"),
        (({"W": W, "b": B}, B), {"norms": ("max",)}, r"norms: \['max'\]; allowed"),
        (({"W": W, "b": B}, B), {"steps": 0}, r"steps: 0; allowed"),
        ((draw_params, B), {"in_axes": (0, None)}, r"networks|in_axes"),
        ((draw_params, B[0]), {"in_axes": (None, 0), "networks": 3}, r"in_axes: None for params, which is a function"),
        ((draw_params, B[0]), {"in_axes": (0, None), "networks": 0}, r"networks: 0; allowed: a number of at least 1"),
        ((draw_params, B[0]), {"in_axes": (0, None), "networks": 3.0}, r"networks: 3.0; allowed: a number"),
        ((draw_params, B[0]), {"in_axes": (0, None), "networks": "a"}, r"networks: 'a'; allowed: a number"),
        ((draw_params, B), {"networks": 3}, r"network axes: 3 in the networks to draw; 5 in h0"),
        ((lambda key, g: draw_params(key), B), {"networks": 5}, r"function of a key: has parameters g; allowed"),
        ((draw_params, B), {"networks": 5, "keys": 3}, r"networks, keys: both are given"),
        ((draw_params, B), {"keys": np.zeros(5)}, r"keys: ndarray; allowed: an array of keys"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_line(arguments, keywords, message):
    def own_step(params, h, x):
        return (jnp.tanh(params["W"] @ h) + params["b"]).astype(jnp.float32)

    with pytest.raises(ValueError, match=message) as error:
        gh.ensemble(gh.log_jacobian_norms, own_step, *arguments, **{"steps": 4, **keywords})
    assert "\n" not in str(error.value)


def test_a_state_of_another_type_is_refused():
    with pytest.raises(ValueError, match=r"step: returns a state of \(3,\) float32, but h0 is \(3,\) float64; allowed"):
        gh.ensemble(gh.log_jacobian_norms, lambda params, h, x: params["b"], PARAMS, H0.astype(np.float64), steps=3)


def test_a_step_for_all_networks_at_once_is_recognised():
    def for_all(params, h, x):
        return jnp.tanh(jnp.einsum("bij,bj->bi", params["W"], h) + params["b"])

    def wrong(params, h, x):
        return params["W"] @ h[:2]

    with pytest.raises(ValueError, match=r"step: is written for all networks at once, h of shape \(300, 3\); allowed"):
        gh.ensemble(gh.log_jacobian_norms, for_all, PARAMS, H0, steps=3)
    with pytest.raises(ValueError, match=r"step: fails for one network, h of shape \(3,\): "):
        gh.ensemble(gh.log_jacobian_norms, wrong, PARAMS, H0, steps=3)
    with pytest.raises(ValueError, match=r"params\['W'\]: is being traced; allowed: to call ensemble outside"):
        jax.jit(lambda params: gh.ensemble(gh.log_jacobian_norms, step, params, H0, XS, in_axes=SHARED_XS))(PARAMS)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (None, "measure: None; allowed: a function, such as"),
        (lambda params: {"name": "tanh"}, r"measure: returns a str at \['name'\]; allowed: arrays"),
        (lambda params: None, r"measure: returns nothing; allowed"),
        (lambda weights, horizon: weights, r"measure: parameters weights, horizon; allowed: any of step, params"),
    ],
)
def test_a_measure_that_returns_no_arrays_is_refused(measure, message):
    with pytest.raises(ValueError, match=message):
        gh.ensemble(measure, step, PARAMS, H0, XS, in_axes=SHARED_XS)


UNPREPARED = """
import logging
import jax, jax.numpy as jnp, numpy as np
import gradient_horizon as gh
rng = np.random.default_rng(0)
W, h = (rng.standard_normal(shape).astype(np.float32) for shape in ((700, 3, 3), (700, 3)))
step = lambda W, h, x: jnp.tanh(W @ h)
whole = gh.ensemble(gh.log_jacobian_norms, step, W, h, steps=20, block=64)["frobenius"]
assert jax.device_count() == 1
part = gh.ensemble(gh.log_jacobian_norms, step, W[133:400], h[133:400], steps=20, block=64)["frobenius"]
assert part.tobytes() == whole[133:400].tobytes()
"""


def test_without_prepare_it_works_and_says_once_what_is_lost():
    kept = {key: value for key, value in os.environ.items() if key not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    ran = subprocess.run([sys.executable, "-c", UNPREPARED], env=kept, check=True, capture_output=True, text=True)
    said = [line for line in ran.stderr.splitlines() if "gh.prepare()" in line]
    assert len(said) == (experiment.cpu_count() > 1)
