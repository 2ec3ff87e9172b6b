"""Bounds that hold for every network, not just on average."""

from typing import NamedTuple

from gradient_horizon.cells.activations import ACTIVATIONS
from gradient_horizon.theory.numbers import log, number


class PascanuBounds(NamedTuple):
    """`log_bound`: log(σ_max γ), natural, per step: log‖M‖₂ ≤ τ · `log_bound` at every lag τ.

    `must_vanish`: σ_max < 1/γ, sufficient for vanishing. `may_explode`: σ_max > 1/γ, necessary for exploding.
    At σ_max = 1/γ neither holds: the norm never exceeds 1.
    """

    log_bound: float
    must_vanish: bool
    may_explode: bool


def pascanu_bounds(largest_singular_value: float, activation: str) -> PascanuBounds:
    """The conditions on σ_max(W) under which gradients must vanish, or may explode.

    J_t = diag(φ′) W has ‖J_t‖₂ ≤ γ σ_max, γ = max φ′ (1; ¼ for sigmoid, 2/√π for erf), whatever the inputs and
    biases. σ_max is the largest *singular value*: a spectral radius below 1 bounds no finite product.
    Raises `ValueError` for an unknown activation or a negative singular value.
    Pascanu, Mikolov, Bengio 2013, section 2.1.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: {activation!r} is unknown; allowed: {', '.join(ACTIVATIONS)}")
    bound = number("largest_singular_value", largest_singular_value) * ACTIVATIONS[activation].steepest
    return PascanuBounds(log(bound), bound < 1.0, bound > 1.0)
