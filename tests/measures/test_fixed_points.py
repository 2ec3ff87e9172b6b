"""Fixed and periodic points: each error holds against fifty digits, and what is not certain says so."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import gradient_horizon as gh
from gradient_horizon import PointKind, fixed_points, make_cell, sample_states
from gradient_horizon.cells.vanilla import VanillaParams
from gradient_horizon.measures.fixed_points import linearise, search
from gradient_horizon.measures.trajectory import rollout

KEY = jax.random.key(5)
STABLE, SADDLE, REPELLER, MARGINAL, KINK, SLOW = map(int, PointKind)


def affine(part, h, x):
    return (
        mp.matrix(np.asarray(part.recurrent).tolist()) * h
        + mp.matrix(np.asarray(part.input).tolist()) * x
        + mp.matrix(np.asarray(part.bias).tolist())
    )


def sigmoid(a):
    return a.apply(lambda value: 1 / (1 + mp.exp(-value)))


def times(*factors):
    return mp.matrix([mp.fprod(entries) for entries in zip(*factors, strict=True)])


def exact_step(name, params, h, x):
    """One step of a cell in the arithmetic of mpmath, from the equations in its docstring."""
    if name == "tanh":
        return affine(params, h, x).apply(mp.tanh)
    n = len(params.recurrent)
    out, cell = h[:n], h[n:]
    gates = [params.input_gate, params.forget_gate, params.output_gate]
    i, f, o = (sigmoid(affine(gate, mp.matrix(out), x)) for gate in gates)
    c = times(f, cell) + times(i, affine(params.candidate, mp.matrix(out), x).apply(mp.tanh))
    return mp.matrix([*times(o, c.apply(mp.tanh)), *c])


def exact_jacobian(function, h):
    n, delta = len(h), mp.mpf(10) ** -25
    columns = []
    for k in range(n):
        step = mp.zeros(n, 1)
        step[k] = delta
        columns.append((function(h + step) - function(h - step)) / (2 * delta))
    return mp.matrix([[columns[j][i] for j in range(n)] for i in range(n)])


def exact_point(function, h):
    """The fixed point next to h, and its multipliers, to some thirty digits."""
    for _ in range(6):
        h = h - mp.lu_solve(exact_jacobian(function, h) - mp.eye(len(h)), function(h) - h)
    assert mp.norm(function(h) - h) < mp.mpf(10) ** -35
    return h, mp.eig(exact_jacobian(function, h))[0]


@pytest.mark.parametrize(("name", "n", "scale"), [("tanh", 5, 2.5), ("lstm", 2, 6.0)])
def test_errors_hold_against_fifty_digits(name, n, scale):
    cell = make_cell(name, n, 1)
    params = cell.init(KEY, scale, bias_scale=0.2, dtype=jnp.float64)
    x = jnp.asarray([0.3], jnp.float64)
    starts = jax.vmap(lambda key: cell.initial_state(key, dtype=jnp.float64))(jax.random.split(KEY, 30))
    found = fixed_points(cell.step, params, x, starts)
    assert len(found.period) >= (3 if name == "tanh" else 1)
    with mp.workdps(50):

        def function(h):
            return exact_step(name, params, h, mp.matrix([0.3]))

        exact = []
        for k in range(len(found.period)):
            vector = np.concatenate([np.ravel(leaf[k]) for leaf in jax.tree.leaves(found.points)])
            point, values = exact_point(function, mp.matrix(vector.tolist()))
            distance = max(abs(entry) for entry in point - mp.matrix(vector.tolist()))
            assert distance <= found.error[k] < 1e-10
            for value, allowed in zip(found.eigenvalues[k], found.eigenvalue_error[k], strict=True):
                assert min(abs(value - mp.mpc(other)) for other in values) <= allowed < 1e-7
            outside = sum(abs(value) > 1 for value in values)
            assert found.unstable[k] == outside
            kind = STABLE if outside == 0 else REPELLER if outside == len(values) else SADDLE
            assert found.kind[k] == kind
            exact.append([float(entry) for entry in point])
    assert np.unique(np.round(exact, 8), axis=0).shape[0] == len(exact)  # no point is reported twice
    assert found.starts.sum() + len(found.failed) == 30
    np.testing.assert_allclose(found.residual, 0, atol=1e-13)


def test_an_lstm_without_weights_rests_where_its_gates_say():
    """c* = σ(b_i) tanh(b_g) / (1 - σ(b_f)), h* = σ(b_o) tanh c*; the multipliers are σ(b_f) and 0."""
    cell = make_cell("lstm", 2, 1)
    still = jax.tree.map(jnp.zeros_like, cell.init(KEY, dtype=jnp.float64))
    biases = dict(zip(("input_gate", "forget_gate", "output_gate", "candidate"), (0.3, 1.5, -0.4, 0.8), strict=True))
    params = replace(
        still, **{name: replace(getattr(still, name), bias=jnp.full(2, bias)) for name, bias in biases.items()}
    )
    starts = jax.vmap(lambda key: cell.initial_state(key, dtype=jnp.float64))(jax.random.split(KEY, 30))
    found = fixed_points(cell.step, params, jnp.asarray([0.3]), starts)
    i, f, o = (1 / (1 + np.exp(-bias)) for bias in (0.3, 1.5, -0.4))
    c = i * np.tanh(0.8) / (1 - f)
    allowed = found.error[0] + 16 * np.finfo(float).eps * c
    assert found.starts.tolist() == [30]
    np.testing.assert_allclose(found.points.c, np.full((1, 2), c), atol=allowed)
    np.testing.assert_allclose(found.points.h, np.full((1, 2), o * np.tanh(c)), atol=allowed)
    np.testing.assert_allclose(found.eigenvalues, [[f, f, 0, 0]], atol=found.eigenvalue_error.max())
    assert found.eigenvalue_error.max() < 1e-14


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-3), pytest.param("bfloat16", 1.0, marks=pytest.mark.slow)])
def test_errors_hold_in_fewer_bits(dtype, most):
    """Searched in its own precision, a point lies as far from that of the exact network as its error allows."""
    cell = make_cell("tanh", 5, 1)
    wide = cell.init(KEY, 2.5, bias_scale=0.2, dtype=jnp.float64)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), wide)
    x = jnp.asarray([0.25], dtype)
    starts = jax.random.normal(KEY, (30, 5), jnp.float32).astype(dtype)
    own = search(cell.step, params, x, starts)
    error, points = np.asarray(own.error), np.asarray(own.points, np.float64)
    sure = np.isfinite(error)
    assert sure.sum() >= (15 if dtype == "float32" else 0)
    as_exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    refined = search(cell.step, as_exact, x.astype(jnp.float64), jnp.asarray(np.nan_to_num(points)))
    gap = np.abs(np.asarray(refined.points) - points).max(axis=1)
    assert np.all(gap[sure] <= error[sure])
    assert np.all(error[sure] < most)
    assert gap.max() > 0


def planar(p, h, x):
    """Most maps of the plane below; one family, so that they share compiled programs."""
    return p["constant"] + p["linear"] @ h + jnp.tanh(p["weights"] @ h) + p["squares"] @ (h * h) + x


def of_the_plane(starts, driven=False, **parts):
    zeros = {"constant": np.zeros(2), **{name: np.zeros((2, 2)) for name in ("linear", "weights", "squares")}}
    settings = {name: parts.pop(name) for name in ("period", "slow") if name in parts}
    x = jnp.asarray(parts.pop("x", np.zeros(2)))
    params = {name: jnp.asarray(value, jnp.float64) for name, value in {**zeros, **parts}.items()}
    return fixed_points(planar, params, x, jnp.asarray(starts), driven=driven, **settings)


def along_the_line(values):
    """Starts whose second entry is 0."""
    return np.stack([values, np.zeros(len(values))], axis=1)


STARTS = np.random.default_rng(1).standard_normal((8, 2))
LINE = along_the_line(np.linspace(-0.51, 0.7, 8))


def test_float32_networks_are_searched_in_float64():
    w = jnp.asarray([1.5, 0.5], jnp.float32)
    starts = jnp.ones((1, 2), jnp.float32)
    found = fixed_points(lambda w, h, x: jnp.tanh(w * h), w, None, starts)
    assert found.points.dtype == np.float64
    assert 0 < found.error[0] < 1e-13
    # a step that computes in float32 anyway is not, and its error knows it
    short = fixed_points(lambda w, h, x: jnp.tanh((w * h).astype(jnp.float32)).astype(h.dtype), w, None, starts)
    assert short.points.dtype == np.float32
    assert 1e-8 < short.error[0] < 1e-4


class TestPeriods:
    def test_a_ring_of_three_that_saturates_has_two_fixed_points_and_two_cycles(self):
        """h ← clip(3 P h), P a cyclic shift: its corners are permuted. All multipliers of a corner are 0."""
        cell = make_cell("hard_tanh", 3)
        shift = np.roll(np.eye(3), 1, axis=0)
        params = VanillaParams(jnp.asarray(3 * shift), jnp.zeros((3, 0)), jnp.zeros(3))
        corners = np.array(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])).reshape(3, -1).T
        found = fixed_points(cell.step, params, None, jnp.asarray(0.9 * corners), period=3)
        assert sorted(zip(found.period.tolist(), found.starts.tolist(), strict=True)) == [
            (1, 1),
            (1, 1),
            (3, 3),
            (3, 3),
        ]
        np.testing.assert_array_equal(np.abs(found.points), 1)
        np.testing.assert_array_equal(found.kind, STABLE)
        np.testing.assert_array_equal(found.eigenvalues, 0)

    def test_minimal_periods_divide_and_the_multipliers_are_their_own(self):
        """The logistic map at r = 3.5 has one 4-cycle, one 2-cycle and two fixed points."""
        starts = along_the_line([-0.01, 0.01, 0.4286, 0.38, 0.5, 0.71, 0.86, 0.875])
        found = of_the_plane(starts, period=4, linear=[[3.5, 0], [0, 0]], squares=[[-3.5, 0], [0, 0]])
        order = np.lexsort((found.points[:, 0], found.period))
        assert found.period[order].tolist() == [1, 1, 2, 4]
        # r, 2 - r; 4 + 2r - r² for the cycle of two
        np.testing.assert_allclose(found.eigenvalues[order[:3], 0], [3.5, -1.5, 4 + 7 - 12.25], atol=1e-12)
        assert abs(found.eigenvalues[order[3], 0]) < 1
        assert found.kind[order].tolist() == [SADDLE, SADDLE, SADDLE, STABLE]
        assert found.unstable[order].tolist() == [1, 1, 1, 0]

    def test_a_driven_cycle_is_where_the_network_settles(self):
        xs, weights = np.random.default_rng(2).standard_normal((3, 2)), np.array([[0.7, -0.6], [0.9, 0.4]])
        found = of_the_plane(STARTS, x=xs, driven=True, weights=weights)
        h, slope = np.zeros(2), np.eye(2)
        for _ in range(200):
            slope = np.eye(2)
            for x in xs:
                slope = (1 - np.tanh(weights @ h) ** 2)[:, None] * weights @ slope
                h = np.tanh(weights @ h) + x
        assert found.kind.tolist() == [STABLE]
        assert found.starts.tolist() == [8]
        np.testing.assert_allclose(found.points[0], h, atol=float(found.error[0]) + 1e-14)
        values = np.linalg.eigvals(slope)
        expected = values[np.argsort(-np.abs(values))]
        np.testing.assert_allclose(np.abs(found.eigenvalues[0]), np.abs(expected), atol=1e-13)


class TestKinks:
    def test_within_a_linear_piece_the_point_is_that_of_the_piece(self):
        rng = np.random.default_rng(0)
        matrix, bias = 0.3 * rng.standard_normal((3, 3)), np.array([1.0, 2.0, -5.0])
        cell = make_cell("relu", 3)
        params = VanillaParams(jnp.asarray(matrix), jnp.zeros((3, 0)), jnp.asarray(bias))
        found = fixed_points(cell.step, params, None, jnp.asarray(rng.standard_normal((8, 3))))
        alive = np.diag([1.0, 1.0, 0.0])
        exact = np.linalg.solve(np.eye(3) - alive @ matrix, alive @ bias)
        assert exact[0] > 0 < exact[1]
        assert matrix[2] @ exact + bias[2] < 0
        np.testing.assert_allclose(found.points, exact[None], atol=1e-14)
        assert found.kind.tolist() == [STABLE]
        assert found.error[0] < 1e-13

    def test_a_point_on_a_kink_is_flagged(self):
        """h ← relu(½ h): at 0 the slope is ½ or 0."""
        cell = make_cell("relu", 3)
        params = VanillaParams(0.5 * jnp.eye(3), jnp.zeros((3, 0)), jnp.zeros(3))
        found = fixed_points(cell.step, params, None, jax.random.normal(KEY, (8, 3), jnp.float64))
        np.testing.assert_array_equal(found.points, np.zeros((1, 3)))
        assert found.kind.tolist() == [KINK]


def dense(w, h, x):
    return jnp.tanh(w @ h)


class TestNearZero:
    """Numbers below the smallest normal one are flushed to 0, so that every start seems to end in an exact zero."""

    @pytest.mark.parametrize("scale", [1.0, 1e-309])
    def test_a_contraction_has_one_fixed_point(self, scale):
        rng = np.random.default_rng(0)
        for _ in range(3):
            matrix = rng.standard_normal((8, 8))
            starts = jnp.asarray(scale * rng.standard_normal((32, 8)))
            found = fixed_points(dense, jnp.asarray(0.85 * matrix / np.linalg.norm(matrix, 2)), None, starts)
            assert found.starts.tolist() == [32]
            assert np.abs(found.points).max() <= found.error[0] < 1e-280
            assert found.kind.tolist() == [STABLE]

    def test_the_pair_beside_the_saddle_at_0_is_found(self):
        found = of_the_plane(LINE, weights=np.diag([1.5, 0.0]))
        root = float(mp.findroot(lambda h: mp.tanh(1.5 * h) - h, 0.8))
        order = np.argsort(found.points[:, 0])
        np.testing.assert_allclose(found.points[order, 0], [-root, 0, root], atol=found.error.max() + 1e-15)
        assert found.kind[order].tolist() == [STABLE, SADDLE, STABLE]
        assert found.error.max() < 1e-13

    def test_0_is_no_surer_than_other_points_of_a_continuum(self):
        found = of_the_plane(np.array([[0.0, 0.0], *STARTS[1:]]), linear=np.eye(2))
        np.testing.assert_array_equal(found.error, np.inf)
        np.testing.assert_array_equal(found.kind, MARGINAL)


class TestDegenerate:
    def test_a_line_of_fixed_points_is_marginal_and_has_no_error(self):
        found = of_the_plane(STARTS, linear=np.diag([1.0, 0.5]))
        assert len(found.period) == 8
        np.testing.assert_array_equal(found.kind, MARGINAL)
        np.testing.assert_array_equal(found.error, np.inf)
        np.testing.assert_allclose(found.points, along_the_line(STARTS[:, 0]), atol=1e-15)
        np.testing.assert_allclose(found.eigenvalues, np.tile([1.0, 0.5], (8, 1)), atol=1e-14)

    def test_the_identity_leaves_every_start_where_it_is(self):
        found = of_the_plane(STARTS, linear=np.eye(2))
        np.testing.assert_array_equal(found.points, STARTS)
        np.testing.assert_array_equal(found.kind, MARGINAL)
        np.testing.assert_array_equal(found.error, np.inf)

    def test_no_fixed_point_is_no_result(self):
        found = of_the_plane(STARTS, linear=np.eye(2), constant=[1.0, 0.0])
        assert len(found.period) == 0
        assert found.points.shape == (0, 2)
        assert found.eigenvalues.shape == (0, 2)
        assert found.failed.tolist() == list(range(8))

    def test_nan_stays_with_its_start(self):
        starts = STARTS.copy()
        starts[1, 0], starts[2, 1] = np.nan, np.inf
        found = of_the_plane(starts, linear=np.diag([0.5, 0.2]))
        assert found.failed.tolist() == [1, 2]
        assert found.starts.tolist() == [6]
        nowhere = of_the_plane(STARTS, linear=np.diag([np.nan, 0.2]))
        assert nowhere.failed.tolist() == list(range(8))

    def test_a_parameter_that_xla_reads_as_0_leaves_nothing(self):
        found = of_the_plane(STARTS, linear=np.diag([0.5, 1e-310]))
        assert found.failed.tolist() == list(range(8))

    @pytest.mark.parametrize("gap", [0.01, 1e-6])
    def test_a_bottleneck_is_slow_and_not_fixed(self, gap):
        """h ← h + h² + gap: no fixed point, but |F(h) - h| has its minimum, gap, at 0."""
        parts = {"linear": np.diag([1.0, 0.0]), "squares": np.diag([1.0, 0.0]), "constant": [gap, 0.0]}
        found = of_the_plane(LINE, slow=True, **parts)
        assert found.kind.tolist() == [SLOW]
        assert found.error.tolist() == [np.inf]
        assert found.residual[0] == pytest.approx(gap, rel=1e-6)
        assert len(of_the_plane(LINE, **parts).period) == 0

    @pytest.mark.parametrize("gap", [1e-4, 1e-8])
    def test_two_points_about_to_meet_are_two_points(self, gap):
        """h ← h + h² - gap: ±√gap."""
        found = of_the_plane(LINE, linear=np.diag([1.0, 0.0]), squares=np.diag([1.0, 0.0]), constant=[-gap, 0.0])
        np.testing.assert_allclose(np.sort(found.points[:, 0]), [-(gap**0.5), gap**0.5], atol=found.error.max())
        assert found.error.max() < 0.1 * gap**0.5
        assert sorted(found.kind.tolist()) == [STABLE, SADDLE]

    def test_a_double_zero_is_marginal(self):
        """h ← h + (h - 1)², at whose fixed point rounding hides which side it is on."""
        found = of_the_plane(LINE, linear=np.diag([-1.0, 0.0]), squares=np.diag([1.0, 0.0]), constant=[1.0, 0.0])
        assert len(found.period) > 0
        np.testing.assert_array_equal(found.kind, MARGINAL)
        np.testing.assert_array_equal(found.error, np.inf)
        np.testing.assert_allclose(found.points[:, 0], 1, atol=1e-6)

    def test_a_jordan_block_does_not_claim_digits_that_it_lacks(self):
        q, _ = np.linalg.qr(STARTS[:2])
        found = of_the_plane(STARTS, linear=q @ np.array([[0.5, 1.0], [0.0, 0.5]]) @ q.T)
        off = np.abs(found.eigenvalues[0] - 0.5)
        assert off.max() > 1e-9
        assert np.all(off <= found.eigenvalue_error[0])
        assert found.kind.tolist() == [STABLE]

    def test_large_numbers_that_cancel_are_part_of_the_error(self):
        """½ h + 10⁸ - 10⁸ rounds by 10⁻⁸, of which the Jacobian knows nothing."""

        def cancelling(p, h, x):
            return jnp.tanh((p[0] * h + p[1]) + p[2] + p[3])

        found = fixed_points(cancelling, jnp.asarray([0.5, 1e8, -1e8, 0.3]), None, jnp.zeros((1, 1), jnp.float64))
        with mp.workdps(30):
            exact = mp.findroot(lambda h: mp.tanh(h / 2 + mp.mpf(0.3)) - h, 0.5)
        assert len(found.period) == 1
        assert abs(found.points[0, 0] - float(exact)) <= found.error[0]
        assert 1e-9 < found.error[0] < 1e-5


class TestStates:
    def test_any_pytree_with_parts_that_are_not_differentiated(self):
        def step(w, h, x):
            return {"a": jnp.tanh(w * h["b"]), "b": h["a"], "count": h["count"] + 1}

        starts = {"a": jnp.ones((3, 1)), "b": jnp.ones((3, 1)), "count": jnp.arange(3)}
        found = fixed_points(step, jnp.asarray(1.5), None, starts)
        assert set(found.points) == {"a", "b", "count"}
        assert found.points["a"].shape == (1, 1)
        assert found.points["a"] == pytest.approx(found.points["b"], abs=2 * float(found.error[0]))
        assert found.points["count"].tolist() == [0]
        assert found.eigenvalues.shape == (1, 2)

    def test_a_complex_state_has_its_multipliers_in_pairs(self):
        a, c = 0.3 + 0.9j, 1.0 - 2.0j
        found = fixed_points(lambda p, h, x: p[0] * h + p[1], jnp.asarray([a, c]), None, jnp.zeros((1, 1), complex))
        np.testing.assert_allclose(found.points, [[c / (1 - a)]], atol=1e-14)
        np.testing.assert_allclose(np.sort_complex(found.eigenvalues[0]), [np.conj(a), a], atol=1e-14)

    def test_search_and_linearise_are_jitted_and_vmapped_over_networks(self):
        starts = jnp.linspace(-1, 1, 5)[:, None]

        def number(w):
            found = search(unit, w, None, starts)
            point = linearise(unit, w, None, found.points[0])
            return jnp.sum(found.is_first), point.eigenvalues[0].real

        counts, slopes = jax.jit(jax.vmap(number))(jnp.asarray([0.5, 1.5]))
        assert counts.tolist() == [1, 3]
        alone = fixed_points(unit, jnp.asarray(1.5), None, starts)
        np.testing.assert_allclose(slopes, [0.5, alone.eigenvalues[0, 0].real], atol=1e-14)

    def test_states_of_a_trajectory_are_starts(self):
        cell = make_cell("lstm", 3, 1)
        params, h0 = cell.init(KEY, 1.0), cell.initial_state(KEY)
        xs = jax.random.normal(KEY, (20, 1), jnp.float32)
        states = sample_states(cell.step, params, h0, xs, key=KEY, count=40)
        assert states.h.shape == states.c.shape == (40, 3)
        every = np.asarray(rollout(cell.step, params, h0, xs).states[:-1])
        drawn = np.concatenate([states.h, states.c], axis=1)
        assert {row.tobytes() for row in drawn} <= {row.tobytes() for row in every}
        moved = sample_states(cell.step, params, h0, xs, key=KEY, count=40, noise=0.5)
        assert np.std(np.asarray(moved.h) - np.asarray(states.h)) == pytest.approx(0.5, rel=0.25)  # 120 numbers


def unit(w, h, x):
    return jnp.tanh(w * h)


class TestRefused:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"period": 0}, "period: 0; allowed: a whole number of at least 1"),
            ({"period": -2}, "period: -2; allowed: a whole number of at least 1"),
            ({"iterations": 0}, "iterations: 0; allowed: a whole number of at least 1"),
            ({"driven": True}, r"x: leading axes \[\]; allowed where driven"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            fixed_points(unit, jnp.asarray(1.5), None, jnp.ones((2, 1)), **settings)

    def test_starts_without_a_common_axis(self):
        starts = {"a": jnp.ones((3, 1)), "b": jnp.ones((2, 1))}
        with pytest.raises(
            ValueError, match=r"starts: leading axes \[2, 3\]; allowed: one number of states, at least 1"
        ):
            fixed_points(unit, jnp.asarray(1.5), None, starts)
        with pytest.raises(ValueError, match=r"starts: leading axes \[0\]"):
            fixed_points(unit, jnp.asarray(1.5), None, jnp.ones((0, 1)))
        with pytest.raises(ValueError, match="count: 0; allowed"):
            sample_states(unit, jnp.asarray(1.5), jnp.ones(1), steps=3, key=KEY, count=0)

    def test_transformations_name_what_works_there(self):
        with pytest.raises(ValueError, match=r"inside a transformation.*search and linearise"):
            jax.jit(lambda w: fixed_points(unit, w, None, jnp.ones((2, 1))).error)(jnp.asarray(1.5))


def test_only_points_of_a_kind():
    found = fixed_points(unit, jnp.asarray(1.5), None, jnp.linspace(-1, 1, 5)[:, None])
    stable = found.of_kind(gh.PointKind.STABLE)
    assert stable.points.shape == (2, 1)
    assert stable.starts.tolist() == [2, 2]
