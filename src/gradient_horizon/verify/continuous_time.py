"""Checks of ordinary differential equations, whose Runge-Kutta step is measured like any other step."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradient_horizon.measures.lyapunov import LyapunovSpectrum, lyapunov_exponents
from gradient_horizon.verify.comparison import STANDARD_ERRORS, Comparison, Item, worst

EPS = float(np.finfo(np.float64).eps)
SIGMA, RHO, BETA = 10.0, 28.0, 8 / 3  # of Lorenz's equations
TRANSIENT = 1000


class _Flow(NamedTuple):
    """dh/dt = `linear` h + `quadratic` (h, h), integrated with steps of `dt`."""

    linear: Array
    quadratic: Array
    dt: Array


def _step(flow: _Flow, h: Array, _: None) -> Array:
    """A step of the classical Runge-Kutta method of order 4."""

    def slope(h):
        return flow.linear @ h + (flow.quadratic @ h) @ h

    first = slope(h)
    second = slope(h + flow.dt / 2 * first)
    third = slope(h + flow.dt / 2 * second)
    fourth = slope(h + flow.dt * third)
    return h + flow.dt / 6 * (first + 2 * second + 2 * third + fourth)


def _exponents(flow: _Flow, steps: int) -> LyapunovSpectrum:
    h = jnp.asarray([1.0, 2.0, 20.0])
    spectrum = lyapunov_exponents(_step, flow, h, steps=TRANSIENT + steps, transient=TRANSIENT)
    return jax.tree.map(np.asarray, spectrum)


def _lorenz(dt: float) -> _Flow:
    linear = np.array([[-SIGMA, SIGMA, 0.0], [RHO, -1.0, 0.0], [0.0, 0.0, -BETA]])
    quadratic = np.zeros((3, 3, 3))
    quadratic[1, 0, 2], quadratic[2, 0, 1] = -1.0, 1.0
    return _Flow(jnp.asarray(linear), jnp.asarray(quadratic), jnp.asarray(dt))


def lorenz(full: bool) -> Iterator[Item]:
    """Lorenz's equations at σ = 10, ρ = 28, β = 8/3: the sum of the exponents, and the largest."""
    steps = 100_000 if full else 20_000
    fine, coarse = 0.02, 0.04
    spectra = [_exponents(_lorenz(dt), steps) for dt in (fine, coarse)]
    sums = [float(spectrum.exponents.sum()) / dt for spectrum, dt in zip(spectra, (fine, coarse), strict=True)]
    largest, error = (float(values[0]) / fine for values in spectra[0][:2])
    yield Comparison(
        f"Lorenz: the exponents sum to -(σ + 1 + β) = -41/3 per unit of time, Runge-Kutta steps of {fine:g}",
        "the divergence of the flow is -(σ + 1 + β) everywhere", -(SIGMA + 1 + BETA), sums[0],
        2 * abs(sums[1] - sums[0]) / 15,
        "the error of the method is c dt⁴: a 15th of the change from 2 dt to dt, and as much again for dt⁵",
    )  # fmt: skip
    yield Comparison(
        f"Lorenz: the largest exponent is 0.9056 per unit of time, over {steps * fine:g} units",
        "Viswanath 1998; Sprott 2003, Chaos and Time-Series Analysis, appendix A", 0.9056, largest,
        STANDARD_ERRORS * error, "5 standard errors, from 10 groups of steps",
    )  # fmt: skip


def linear(full: bool) -> Iterator[Item]:
    """A linear equation with a normal matrix, for which the method multiplies each mode by a polynomial."""
    dt, turned = 0.1, np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    spiral = np.array([[-0.3, 2.0, 0.0], [-2.0, -0.3, 0.0], [0.0, 0.0, -1.5]])
    flow = _Flow(jnp.asarray(turned @ spiral @ turned.T), jnp.zeros((3, 3, 3)), jnp.asarray(dt))
    steps = 20_000
    modes = np.array([-0.3 + 2.0j, -0.3 - 2.0j, -1.5]) * dt
    growth = np.log(np.abs(sum(modes**order / math.factorial(order) for order in range(5))))
    yield worst(
        "linear equation: the exponents of a Runge-Kutta step of 0.1 are log|1 + z + z²/2 + z³/6 + z⁴/24|, z = μ_i dt",
        "Hairer, Nørsett, Wanner 1993, section IV.2; the matrix is normal", growth, _exponents(flow, steps).exponents,
        64 * EPS, "each step rounds by n eps in each of its four stages, with either sign",
    )  # fmt: skip
