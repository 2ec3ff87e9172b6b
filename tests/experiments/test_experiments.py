"""Each experiment's Dataset holds what the library measures on the same networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradient_horizon import experiments, names
from gradient_horizon.cells import make_cell
from gradient_horizon.experiments.fixed_points import starts_of
from gradient_horizon.experiments.networks import draw_of, init_network
from gradient_horizon.experiments.singular_values import round_lags
from gradient_horizon.measures.fixed_points import fixed_points
from gradient_horizon.measures.nodes import node_split
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.names.rules import SettingError
from gradient_horizon.settings.validation import checked


def measured(experiment, **settings):
    return experiments.measure(checked({"experiment": experiment, **settings}), lambda _: None)


def network(cell, size, seed, scale, dtype="float32"):
    """The network that an experiment without inputs draws."""
    made, key = make_cell(cell, size), jax.random.key(seed)
    params = made.init(key, scale, dtype=jnp.dtype(dtype))
    return made, params, made.initial_state(key, dtype=jnp.dtype(dtype))


class TestBlocks:
    @pytest.mark.parametrize("block", ["hidden", "cell"])
    def test_an_lstm_without_weights_keeps_its_cell_state_alone(self, block):
        """c_t = σ(b) c_{t-1}, and h_t depends on no h before it."""
        n, steps, bias = 3, 12, 1.0
        settings = {"cell": "lstm", "hidden_size": n, "steps": steps, "seeds": 1, "weight_scales": 0.0}
        found = measured("jacobian", block=block, forget_bias=bias, horizon_threshold=0.5, **settings)
        lag = np.arange(1, steps + 1)
        forgotten = 0.5 * np.log(n) - lag * np.log1p(np.exp(-bias))
        expected = forgotten if block == "cell" else np.full(steps, -np.inf)
        np.testing.assert_allclose(found.log_norm.squeeze(), expected, rtol=1e-5)
        # σ(1)^τ is below 10^-0.5 from τ = 4 on
        assert int(found.horizon.squeeze()) == (4 if block == "cell" else 1)

    def test_other_cells_have_no_blocks(self):
        with pytest.raises(SettingError, match="block: 'cell' is not allowed; allowed: state where cell=gru"):
            checked({"cell": "gru", "block": "cell"})


# One size and length, so that the tests share their compiled programs.
LYAPUNOV = {"hidden_size": 32, "steps": 1300, "transient": 300}


class TestLyapunov:
    @pytest.mark.parametrize(("precision", "most"), [("float32", 1e-4), ("float64", 1e-10)])
    def test_the_sum_rule_holds_at_every_scale(self, precision, most):
        scales = [0.5, 1.0, 2.0, 4.0, 10.0]
        found = measured("lyapunov", **LYAPUNOV, seeds=2, weight_scales=scales, precision=precision)
        assert float(found.sum_rule_error.max()) < most
        assert bool(found.finite.all())

    def test_below_the_edge_the_exponents_are_those_of_w(self):
        """|λ_i - log|eig_i(W)|| ≤ log κ(V) / T, V the eigenvectors of W, after the state has died away."""
        n, counted = LYAPUNOV["hidden_size"], LYAPUNOV["steps"] - LYAPUNOV["transient"]
        found = measured("lyapunov", **LYAPUNOV, seeds=4, weight_scales=0.8, precision="float64")
        for seed in range(4):
            _, params, _ = network("tanh", n, seed, 0.8, "float64")
            values, vectors = np.linalg.eig(np.asarray(params.recurrent))
            exact = np.sort(np.log(np.abs(values)))[::-1]
            at = found.sel(seed=seed, weight_scale=0.8)
            np.testing.assert_allclose(at.log_eigenvalue_modulus, exact, atol=1e-10)
            allowed = np.log(np.linalg.cond(vectors)) / counted
            assert np.abs(at.lyapunov_exponent.values - exact).max() < allowed

    def test_a_few_exponents_are_among_all(self):
        # (in finite time a later one may overtake the last of them)
        settings = {**LYAPUNOV, "seeds": 1, "precision": "float64"}
        few, every = measured("lyapunov", exponents=4, **settings), measured("lyapunov", **settings)
        apart = np.abs(few.lyapunov_exponent.values[..., :, None] - every.lyapunov_exponent.values[..., None, :])
        assert apart.min(axis=-1).max() < 1e-10
        np.testing.assert_allclose(few.lyapunov_exponent[..., 0], every.lyapunov_exponent[..., 0], atol=1e-10)
        assert bool(few.sum_rule_error.isnull().all())

    @pytest.mark.parametrize("cell", ["gru", "lstm", "leaky_tanh"])
    def test_gates_and_leaks(self, cell):
        # (driven, since J of an LSTM whose state has died away is singular)
        found = measured("lyapunov", cell=cell, hidden_size=6, steps=40, seeds=1, inputs="noise", precision="float64")
        assert found.sizes["index"] == 6 * names.STATES_OF_CELL.get(cell, 1)
        assert float(found.sum_rule_error.max()) < 1e-12

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"steps": 50, "transient": 50}, "transient: 50 is not allowed; allowed: less than steps=50"),
            ({"hidden_size": 4, "exponents": 5}, "exponents: 5 is not allowed; allowed: at most 4"),
            ({"hidden_size": 4, "cell": "lstm", "exponents": 9}, "allowed: at most 8"),
        ],
    )
    def test_settings_that_do_not_fit(self, settings, said):
        with pytest.raises(SettingError, match=said):
            checked({"experiment": "lyapunov", **settings})


# One size, length and set of lags, for the same reason.
SINGULAR = {"hidden_size": 16, "steps": 30, "seeds": 2, "precision": "float64"}


def log_singular_values(**settings):
    found = measured("singular_values", **SINGULAR, **settings)
    return found, found.log_singular_value.transpose("weight_scale", "seed", "lag", "index").values


class TestSingularValues:
    def test_squares_sum_to_the_frobenius_norm(self):
        scales = [0.8, 1.5]
        found, logs = log_singular_values(weight_scales=scales)
        norms = measured("jacobian", **SINGULAR, weight_scales=scales).log_norm.sel(norm="frobenius")
        assert found.lag.values.tolist() == [1, 2, 5, 10, 20, 30]
        # each step is off by some n eps κ(J_t), κ(J_t) some hundreds
        np.testing.assert_allclose(
            0.5 * np.log(np.exp(2 * logs).sum(axis=-1)), norms.sel(lag=found.lag), atol=30 * 16 * 1e3 * 2e-16
        )
        assert (np.diff(logs, axis=-1) <= 0).all()

    def test_logs_sum_to_the_determinants(self):
        """Σ_i log σ_i(M) = τ log|det W| + Σ_t Σ_i log φ'(a_t,i), over the last τ steps."""
        found, logs = log_singular_values(weight_scales=1.5)
        for seed in range(2):
            made, params, h0 = network("tanh", 16, seed, 1.5, "float64")
            states = np.asarray(rollout(made.step, params, h0, steps=30).states)
            _, log_det = np.linalg.slogdet(np.asarray(params.recurrent))
            by_step = log_det + np.log1p(-(states[1:] ** 2)).sum(axis=1)
            expected = [by_step[-lag:].sum() for lag in found.lag.values]
            # n logs a step, each right to n eps κ(W): below 16² · 2e-16 · 1e3 · 30
            np.testing.assert_allclose(logs[0, seed].sum(axis=-1), expected, atol=2e-9)

    def test_an_orthogonal_linear_network_scales_every_direction_by_g(self):
        scales = [0.5, 1.5]
        found, logs = log_singular_values(cell="linear", weights="orthogonal", weight_scales=scales)
        expected = np.log(scales)[:, None, None, None] * found.lag.values[:, None]
        np.testing.assert_allclose(logs, np.broadcast_to(expected, logs.shape), atol=1e-12)

    def test_lags_are_those_asked_for_and_agree_with_all(self):
        """(A lag's start is aligned by the lags before it, which changes the rounding alone.)"""
        few, of_few = log_singular_values(lags=[30, 2], weight_scales=1.5)
        every, of_all = log_singular_values(weight_scales=1.5)
        assert few.lag.values.tolist() == [2, 30]
        np.testing.assert_allclose(of_few, of_all[:, :, np.isin(every.lag, [2, 30])], atol=1e-10)

    @pytest.mark.parametrize(("steps", "lags"), [(1, [1]), (10, [1, 2, 5, 10]), (30, [1, 2, 5, 10, 20, 30])])
    def test_round_lags(self, steps, lags):
        assert round_lags(steps) == lags


class TestPairs:
    def test_the_triangles_last_row_is_the_series_from_the_end(self):
        settings = {"hidden_size": 12, "steps": 20, "seeds": 2, "weight_scales": [0.7, 1.5]}
        triangle = measured("pairs", **settings).log_norm_of_pair
        series = measured("jacobian", **settings).log_norm.sel(norm="frobenius")
        last = triangle.sel(late=20).transpose("weight_scale", "seed", "early").values[..., ::-1]
        np.testing.assert_allclose(last, series, atol=1e-5)
        assert np.isnan(triangle.sel(late=3).isel(early=slice(3, None))).all()


class TestNodes:
    def test_the_nodes_sum_to_the_whole(self):
        n, steps = 12, 30
        found = measured("nodes", hidden_size=n, steps=steps, seeds=1, weight_scales=1.3, precision="float64")
        made, params, h0 = network("tanh", n, 0, 1.3, "float64")
        split = node_split(made, params, h0, steps=steps)
        for node in ("activation", "matrix"):
            np.testing.assert_allclose(found.log_growth.sel(node=node).squeeze(), split[node], atol=1e-12)

        def last(h):
            return jnp.sum(rollout(made.step, params, h, steps=steps).states[-1])

        whole = np.linalg.norm(jax.jit(jax.grad(last))(h0)) / np.sqrt(n)
        np.testing.assert_allclose(float(found.log_growth.sum()), np.log(whole), atol=1e-10)

    def test_a_cell_with_a_second_path_is_refused(self):
        with pytest.raises(SettingError, match="cell: 'gru' is not allowed; allowed: linear, tanh"):
            checked({"experiment": "nodes", "cell": "gru"})


class TestFixedPoints:
    def test_counts_are_those_of_the_library(self):
        n, steps = 4, 12
        settings = {"hidden_size": n, "steps": steps, "seeds": 2, "starts": 12, "precision": "float64"}
        found = measured("fixed_points", weight_scales=[0.4, 2.5], **settings)
        assert found.fixed_point_count.dims == ("weight_scale", "seed")
        for scale in (0.4, 2.5):
            for seed in (0, 1):
                made, params, h0 = network("tanh", n, seed, scale, "float64")
                starts = starts_of(rollout(made.step, params, h0, steps=steps).states, 12)
                points = fixed_points(made.step, params, None, starts)
                at = found.sel(weight_scale=scale, seed=seed)
                assert int(at.fixed_point_count) == len(points.kind)
                assert int(at.stable_count) == np.sum(points.kind == int(names.PointKind.STABLE))
                assert int(at.failed_starts) == len(points.failed)
                leading = np.abs(points.eigenvalues[:, 0]).max()
                np.testing.assert_allclose(at.largest_multiplier, leading, rtol=1e-9)
        # a contraction has one fixed point, 0, whose multipliers are the eigenvalues of W
        at = found.sel(weight_scale=0.4)
        np.testing.assert_array_equal(at.fixed_point_count, 1)
        np.testing.assert_allclose(at.largest_multiplier, at.spectral_radius, rtol=1e-9)
        assert int(found.fixed_point_count.sel(weight_scale=2.5).max()) > 1

    def test_driven_networks_are_refused(self):
        with pytest.raises(SettingError, match="inputs: 'noise' is not allowed; allowed: none where experiment=fixed_"):
            checked({"experiment": "fixed_points", "inputs": "noise"})


class TestNetworks:
    def test_an_undriven_relu_network_that_dies_away_keeps_its_slopes(self):
        """Its state passes below the smallest float32 number some 60 steps before the end, but J_t depends on
        the state's direction alone. (Of seeds whose direction settles: a chaotic one parts ways with its rounding.)"""
        settings = {"cell": "relu", "hidden_size": 16, "steps": 160, "seeds": [0, 3, 4], "weight_scales": 0.4}
        short, long = (measured("jacobian", precision=precision, **settings) for precision in ("float32", "float64"))
        made, params, h0 = network("relu", 16, 0, 0.4)
        h = h0
        for _ in range(160):
            h = made.step(params, h, None)
        assert not h.any()
        np.testing.assert_allclose(short.log_norm, long.log_norm, rtol=1e-5)
        # h_T = J_T ... J_1 h_0, and the exponents are those of the same network at a scale where it lives
        spectra = measured("lyapunov", **{**settings, "weight_scales": [0.4, 1.4], "exponents": 1})
        first, second = spectra.lyapunov_exponent.isel(index=0).transpose("weight_scale", "seed").values
        np.testing.assert_allclose(second - first, np.log(1.4 / 0.4), atol=1e-4)

    def test_an_undriven_linear_network_does_not_overflow(self):
        settings = {"cell": "linear", "weights": "orthogonal", "hidden_size": 8, "steps": 200, "seeds": 1}
        found = measured("jacobian", weight_scales=10.0, **settings)
        exact = np.arange(1, 201) * np.log(10.0) + 0.5 * np.log(8)
        np.testing.assert_allclose(found.log_norm.squeeze(), exact, rtol=1e-5)
        assert bool(found.finite.all())


class TestInputGradients:
    def test_they_are_those_of_the_whole_rollout(self):
        n, steps = 6, 12
        settings = {"hidden_size": n, "steps": steps, "seeds": 2, "weight_scales": [0.7, 1.5], "precision": "float64"}
        config = checked({"experiment": "input_gradients", "inputs": "noise", "input_size": 2, **settings})
        found = experiments.measure(config, lambda _: None).log_input_gradient
        assert found.lag.values.tolist() == list(range(steps))
        drawn = {"seed": jnp.uint32(1), "weight_scale": jnp.float64(1.5)}
        params, h0, xs = init_network(draw_of(config), drawn, None)
        made = make_cell("tanh", n, 2)
        jacobian = np.asarray(jax.jit(jax.jacrev(lambda xs: rollout(made.step, params, h0, xs).states[-1]))(xs))[
            :, ::-1
        ]
        expected = np.log([np.linalg.norm(jacobian[:, lag]) for lag in range(steps)])
        # a step rounds by some √n eps; a product of random matrices cancels by ≲ n
        atol = 30 * steps * np.finfo(float).eps
        np.testing.assert_allclose(found.sel(weight_scale=1.5, seed=1), expected, atol=atol)

    def test_networks_without_inputs_are_refused(self):
        with pytest.raises(
            SettingError, match="inputs: 'none' is not allowed; allowed: noise, digits where experiment"
        ):
            checked({"experiment": "input_gradients", "inputs": "none"})
