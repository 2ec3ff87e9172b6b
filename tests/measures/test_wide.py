"""Weights from the smallest to the largest normal number: scaling W scales every product by the same factor a step."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from quick_programs import compiled

import gradient_horizon as gh
from gradient_horizon import experiments
from gradient_horizon.cells.vanilla import plain_cell
from gradient_horizon.experiments.networks import Networks
from gradient_horizon.measures.all_pairs import log_jacobian_norms_all_pairs
from gradient_horizon.measures.largest_exponent import largest_lyapunov_exponent
from gradient_horizon.measures.nodes import log_state_gradient_norms, node_split
from gradient_horizon.measures.trajectory import rollout
from gradient_horizon.measures.wide import (
    in_float64,
    jacobian_by_entry,
    lifted_jacobian,
    reads_subnormal,
    sized_jacobian,
)
from gradient_horizon.names.rules import SettingError
from gradient_horizon.numerics.extended_range import Extended
from gradient_horizon.settings.schema import Config
from gradient_horizon.settings.validation import checked

N, T = 4, 5
POWERS = {
    "float32": (-126, -100, 100, 127),
    "float64": (-1022, -1000, 1000, 1023),
}


# the only measure that is not compiled by itself
largest_exponent = compiled(largest_lyapunov_exponent, static_argnums=0)


def _step(params, h, x):
    """s Q h, whose J = s Q has entries below s."""
    scale, matrix = params
    return scale * (matrix @ h)


def _measured(params, h0, count):
    """Every measure along T steps as one vector; and by how many powers of s each entry goes."""
    trajectory = rollout(_step, params, h0, steps=T)
    read = jnp.zeros((T, N), h0.dtype).at[-1].set(1)
    spectra = [gh.lyapunov_exponents(_step, params, h0, steps=T, count=k, every=e) for k, e in ((None, 1), (count, 2))]
    late, early = np.tril_indices(T)
    by_end, by_start = (
        gh.log_jacobian_norms(_step, params, h0, steps=T, anchor=anchor, method=method, norms=("frobenius", "spectral"))
        for anchor, method in (("end", "auto"), ("start", "jacrev"))
    )
    lags = np.arange(1, T + 1)
    found = {
        "norms from the end": (by_end["frobenius"], lags),
        "norms from the start": (by_start["frobenius"], lags),
        "spectral norms": (by_end["spectral"], lags),
        "pairs": (log_jacobian_norms_all_pairs(_step, params, h0, steps=T)[late, early], late + 1 - early),
        "singular values": (gh.log_singular_values(_step, params, h0, steps=T), T),
        "exponents": (spectra[0].exponents, 1),
        "first exponents": (spectra[1].exponents, 1),
        "largest exponent": (largest_exponent(_step, params, h0, trajectory)[None], 1),
        "state gradients": (log_state_gradient_norms(_step, params, h0, trajectory, None, read), T - lags),
    }
    assert float(spectra[0].sum_rule_error) < 1e3 * N * float(jnp.finfo(h0.dtype).eps)
    return {name: (np.asarray(values, np.float64), powers) for name, (values, powers) in found.items()}


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_scaling_the_step_shifts_every_measure(precision):
    # Columns of different sizes, whose entries in s Q are subnormal long before s is. Of this Q the exponents come in
    # descending order after T steps already, so that of four vectors the first two are those of two vectors.
    matrix = np.random.default_rng(3).standard_normal((N, N)) * [[1, 0.25, 2.0**-6, 1]]
    with jax.enable_x64(precision == "float64"):
        dtype = jnp.dtype(precision)
        matrix, h0 = jnp.asarray(matrix, dtype), jnp.zeros(N, dtype)
        ordinary = _measured((jnp.ones((), dtype), matrix), h0, 2)
        for power in POWERS[precision]:
            scale = np.ldexp(1.0, power).astype(precision)
            for name, (found, powers) in _measured((jnp.asarray(scale), matrix), h0, 2).items():
                shift = powers * power * np.log(2.0)
                # a log of up to 127 T log 2 is rounded, and so are the sums of so many
                allowed = 8 * jnp.finfo(dtype).eps * (np.abs(shift) + 100)
                apart = np.abs(found - ordinary[name][0] - shift)
                assert np.all(apart <= allowed), (name, power, apart.max())


@pytest.mark.parametrize(
    ("precision", "sizes"),
    [("float32", (2.0**-126, 1.2e-38, 1e-36, 3e38)), ("float64", (2.0**-1022, 2.3e-308, 1e-300, 1e308))],
)
def test_an_orthogonal_matrix_of_any_size(precision, sizes):
    """W = s P, P a permutation, whose entries are normal down to the last s: every singular value of M is s^τ."""
    with jax.enable_x64(precision == "float64"):
        cell = plain_cell("linear", N, 0)
        ordinary = cell.init(jax.random.key(0))
        dtype = np.dtype(precision)
        h0, late, early = jnp.zeros(N, dtype), *np.tril_indices(T)
        for size in sizes:
            matrix = dtype.type(size) * np.eye(N, dtype=dtype)[[1, 2, 3, 0]]
            params = type(ordinary)(*(jnp.asarray(part, dtype) for part in (matrix, ordinary.input, ordinary.bias)))
            log = float(np.log(np.float64(dtype.type(size))))
            allowed = 4 * T * abs(log) * float(np.finfo(dtype).eps)
            logs = gh.log_singular_values(cell.step, params, h0, steps=T)
            np.testing.assert_allclose(logs, T * log, rtol=0, atol=allowed)
            spectrum = gh.lyapunov_exponents(cell.step, params, h0, steps=T, log_det=cell.log_abs_det)
            np.testing.assert_allclose(spectrum.exponents, log, rtol=0, atol=allowed)
            assert float(spectrum.sum_rule_error) < allowed
            pairs = log_jacobian_norms_all_pairs(cell.step, params, h0, steps=T)
            expected = (late + 1 - early) * log + np.log(2.0)
            np.testing.assert_allclose(pairs[late, early], expected, rtol=0, atol=allowed)
            split = node_split(cell, params, h0, steps=T)
            np.testing.assert_allclose(split["matrix"], log, rtol=0, atol=allowed)
            np.testing.assert_array_equal(split["activation"], 0)


def _of_a_cell(cell, params, h0):
    """Every measure of an undriven cell, one after the other."""
    trajectory = rollout(cell.step, params, h0, steps=T)
    return {
        "norms": gh.log_jacobian_norms(cell.step, params, h0, steps=T)["frobenius"],
        "pairs": log_jacobian_norms_all_pairs(cell.step, params, h0, steps=T)[np.tril_indices(T)],
        "singular values": gh.log_singular_values(cell.step, params, h0, steps=T),
        "exponents": gh.lyapunov_exponents(cell.step, params, h0, steps=T).exponents,
        "largest exponent": largest_exponent(cell.step, params, h0, trajectory),
    }


@pytest.mark.parametrize("name", ["tanh", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gru", "lstm"))])
def test_tiny_weights_of_cells_are_those_of_float64(name):
    """Near the zero state: what float64 finds of the same numbers, for which they are not small."""
    cell = gh.make_cell(name, N, 0)
    scaled = jax.tree.map(lambda leaf: leaf * 2.0**-118, cell.init(jax.random.key(1), bias_scale=0.0))
    h0 = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e-3), cell.initial_state(jax.random.key(2)))
    found = _of_a_cell(cell, scaled, h0)
    with jax.enable_x64(True):
        exact = _of_a_cell(cell, *jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), (scaled, h0)))
    for measure, values in found.items():
        assert np.any(np.isfinite(values)), measure
        # sums of T logs of some 80, each rounded
        np.testing.assert_allclose(values, exact[measure], rtol=1e-6, atol=1e-4, err_msg=measure)


def test_a_tanh_network_of_the_smallest_weights_to_fifty_digits():
    """float64, W of 1e-306 and less beside biases that saturate: J_t = diag(1 - tanh²(W h + b)) W."""
    rng = np.random.default_rng(8)
    cell = gh.make_cell("tanh", N, 0)
    recurrent, bias = 1e-306 * rng.uniform(0.5, 1, (N, N)) * [[1, -1, 1, -1]], np.array([0.3, 5.0, 9.0, 2.0])
    recurrent[0] *= -1
    with jax.enable_x64(True):
        made = cell.init(jax.random.key(0))
        params = type(made)(jnp.asarray(recurrent), jnp.zeros((N, 0)), jnp.asarray(bias))
        h0 = jnp.asarray([0.5, -0.5, 0.25, 0.125])
        found = _of_a_cell(cell, params, h0)
    with mpmath.workdps(3000):  # the products are of 1e-1530
        matrix = mpmath.matrix(recurrent.tolist())
        slopes = mpmath.diag([mpmath.sech(mpmath.mpf(b)) ** 2 for b in bias])  # W h, of 1e-306, does not move tanh
        products = [slopes * matrix]
        for _ in range(T - 1):
            products.append(slopes * matrix * products[-1])
        norms = [float(mpmath.log(mpmath.norm(list(product), 2))) for product in products]
        squares = mpmath.eigsy(products[-1].T * products[-1], eigvals_only=True)
        values = sorted((float(mpmath.log(square) / 2) for square in squares), reverse=True)
    np.testing.assert_allclose(found["norms"], norms, rtol=1e-14)
    late, early = np.tril_indices(T)
    np.testing.assert_allclose(found["pairs"], np.array(norms)[late - early], rtol=1e-14)
    np.testing.assert_allclose(found["singular values"], values, rtol=1e-13)
    np.testing.assert_allclose(np.sum(found["exponents"]) * T, np.sum(values), rtol=1e-13)


def test_each_step_has_a_size_of_its_own():
    powers = np.array([-126, 100, -90, 127, 0, -126, 60, -126])
    matrices = np.random.default_rng(2).standard_normal((len(powers), N, N)).astype(np.float32)
    h0, late, early = jnp.zeros(N, jnp.float32), *np.tril_indices(len(powers))

    def step(params, h, x):
        scale, matrix = x
        return scale * (matrix @ h)

    def measured(scales):
        xs = jnp.asarray(scales, jnp.float32), jnp.asarray(matrices)
        return (
            gh.log_singular_values(step, None, h0, xs),
            gh.lyapunov_exponents(step, None, h0, xs).exponents * len(powers),
            log_jacobian_norms_all_pairs(step, None, h0, xs)[late, early],
        )

    so_far = np.concatenate([[0], np.cumsum(powers)])
    shifts = so_far[-1], so_far[-1], so_far[late + 1] - so_far[early]
    for found, ordinary, shift in zip(measured(np.ldexp(1.0, powers)), measured(np.ones(8)), shifts, strict=True):
        np.testing.assert_allclose(found, np.asarray(ordinary) + shift * np.log(2.0), atol=1e-3)


def _exponents(log, matrix):
    params = jnp.exp(log), matrix
    spectrum = gh.lyapunov_exponents(_step, params, jnp.zeros(N, jnp.float32), steps=T).exponents
    return jnp.sum(spectrum), jnp.sum(gh.log_singular_values(_step, params, jnp.zeros(N, jnp.float32), steps=T))


_exponents_of_several = jax.jit(jax.vmap(_exponents, in_axes=(None, 0)))
_slopes_of_exponents = jax.jit(jax.jacfwd(_exponents))


@pytest.mark.parametrize("scale", [1e-38, 1e36])
def test_a_whole_ensemble_and_derivatives(scale):
    matrices = jnp.asarray(np.random.default_rng(3).standard_normal((3, N, N)), jnp.float32)
    log = jnp.log(jnp.float32(scale))
    found = _exponents_of_several(log, matrices)
    ordinary = _exponents_of_several(jnp.float32(0), matrices)
    np.testing.assert_allclose(found[0], ordinary[0] + N * log, rtol=1e-5)
    np.testing.assert_allclose(found[1], ordinary[1] + N * T * log, rtol=1e-5)
    # one more in the log of the scale is one more in each
    slopes = _slopes_of_exponents(jnp.log(jnp.float32(max(scale, 1e-30))), matrices[0])
    np.testing.assert_allclose(slopes, (N, N * T), rtol=1e-4)


def test_entries_of_very_different_sizes():
    diagonal = np.array([1e37, 1.0, 1e-30, 1.2e-38], np.float32)
    h0, log = jnp.zeros(N, jnp.float32), np.log(np.float64(diagonal))

    def step(params, h, x):
        return params * h

    np.testing.assert_allclose(gh.log_singular_values(step, diagonal, h0, steps=T), T * log, rtol=1e-6)
    # five steps do not separate the directions, but their volume grows by the determinant
    spectrum = gh.lyapunov_exponents(step, diagonal, h0, steps=T)
    np.testing.assert_allclose(np.sum(spectrum.exponents), np.sum(log), rtol=1e-5)
    norms = gh.log_jacobian_norms(step, diagonal, h0, steps=T)["frobenius"]
    np.testing.assert_allclose(norms, np.arange(1, T + 1) * log[0], rtol=1e-6)


@pytest.mark.parametrize("held", ["params", "closure", "number"])
def test_a_parameter_that_is_read_as_zero_makes_every_measure_nan(held):
    tiny = np.eye(N, dtype=np.float32)
    tiny[0, 1] = 1e-39

    def step(params, h, x):
        return 1e-39 * h if held == "number" else (tiny if held == "closure" else params) @ h

    h0 = jnp.zeros(N, jnp.float32)
    params = tiny if held == "params" else None
    assert bool(reads_subnormal(lambda h: step(params, h, None), h0))
    assert np.all(np.isnan(gh.log_jacobian_norms(step, params, h0, steps=T)["frobenius"]))
    assert np.all(np.isnan(gh.log_singular_values(step, params, h0, steps=T)))
    assert np.all(np.isnan(gh.lyapunov_exponents(step, params, h0, steps=T).exponents))
    assert np.all(np.isnan(log_jacobian_norms_all_pairs(step, params, h0, steps=T)))
    trajectory = rollout(step, params, h0, steps=T)
    assert np.isnan(largest_exponent(step, params, h0, trajectory))
    assert np.all(np.isnan(log_state_gradient_norms(step, params, h0, trajectory, None, jnp.ones((T, N), jnp.float32))))


def test_what_the_step_does_not_read_does_not_matter():
    params = np.eye(N, dtype=np.float32), np.array([1e-39], np.float32)
    found = gh.log_jacobian_norms(lambda params, h, x: params[0] @ h, params, jnp.zeros(N, jnp.float32), steps=T)[
        "frobenius"
    ]
    np.testing.assert_allclose(found, np.log(2.0), rtol=1e-6)


@pytest.mark.parametrize(("dtype", "is_one"), [("float32", True), ("bfloat16", True), ("float16", False)])
def test_subnormal_numbers_by_dtype(dtype, is_one):
    whole = jnp.uint32 if dtype == "float32" else jnp.uint16
    values = jax.lax.bitcast_convert_type(jnp.asarray([0, 5], whole), jnp.dtype(dtype))
    assert bool(reads_subnormal(lambda h: values * h, jnp.ones(2, dtype))) == is_one


def test_forms_of_a_jacobian():
    diagonal = jnp.float32([3e38, 1.0, 1.2e-38])

    def function(h):
        return diagonal * (jnp.float32(0.5) * h)

    found: Extended = jacobian_by_entry(function, jnp.zeros(3, jnp.float32))
    exact = np.diag(np.ldexp(np.float64(found.mantissa), np.clip(found.exponent, -1000, None)))
    np.testing.assert_array_equal(exact, 0.5 * np.float64(diagonal))
    with jax.enable_x64(True):
        matrix, exponent = in_float64(lifted_jacobian(function, jnp.zeros(3, jnp.float32)))
        np.testing.assert_array_equal(np.diag(matrix), exact)
        assert int(exponent) == 0
    for scale, is_sure in ((1e-37, True), (1.0, True), (1e38, False)):
        matrix, exponent, sure = sized_jacobian(
            lambda h, scale=scale: jnp.float32(scale) * h, jnp.zeros(3, jnp.float32)
        )
        np.testing.assert_allclose(np.diag(matrix) * 2.0 ** int(exponent), scale, rtol=1e-7)
        assert bool(sure) == is_sure


@pytest.mark.parametrize("weights", ["gaussian", "identity"])
def test_experiments_refuse_weight_scales_that_lose_entries(weights):
    def networks(scale, precision="float32"):
        settings = {"hidden_size": 6, "steps": 3, "seeds": [0, 1], "weight_scales": [0.0, 1.0, scale]}
        return Networks(Config(cell="tanh", weights=weights, precision=precision, **settings))

    # 1e-36 times the smallest of 72 normal numbers is subnormal, times 1 it is not
    for scale in (1e-38, 1e-50) if weights == "identity" else (1e-36, 1e-38):
        with pytest.raises(SettingError, match=r"weight_scales: .* no entry of W is below 1.2e-38"):
            networks(scale)
    networks(1.2e-38 if weights == "identity" else 1e-33)


@pytest.mark.parametrize(("precision", "power"), [("float32", -126), ("float64", -1022)])
def test_experiments_at_the_smallest_scales(precision, power):
    """Of linear networks with W = s 1 every measure shifts by log s a step."""
    steps, tiny = 6, 2.0**power
    settings = {"cell": "linear", "hidden_size": 4, "steps": steps, "seeds": 2, "weight_scales": [1.0, tiny]}
    settings |= {"weights": "identity", "precision": precision, "state_scale": 1.0}

    def shift(experiment, variable, **others):
        found = experiments.measure(checked({"experiment": experiment, **settings, **others}), lambda _: None)
        assert bool(found.finite.all())
        ordinary, scaled = (found[variable].isel(weight_scale=place, drop=True) for place in (0, 1))
        return scaled - ordinary

    log, allowed = power * np.log(2.0), 1e-6 * abs(power) if precision == "float32" else 1e-11
    pairs = shift("pairs", "log_norm_of_pair").transpose(..., "late", "early").values
    late, early = np.tril_indices(steps)
    expected = np.broadcast_to((late + 1 - early) * log, pairs[..., late, early].shape)
    np.testing.assert_allclose(pairs[..., late, early], expected, rtol=0, atol=allowed)
    values = shift("singular_values", "log_singular_value")
    np.testing.assert_allclose((values - values.lag * log).values, 0, rtol=0, atol=allowed)
    np.testing.assert_allclose(shift("lyapunov", "lyapunov_exponent", transient=1), log, rtol=0, atol=allowed)
    of_w = shift("lyapunov", "log_eigenvalue_modulus", transient=1)
    np.testing.assert_allclose(of_w, log, rtol=0, atol=allowed)
