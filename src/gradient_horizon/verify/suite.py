"""The checks of `gradient-horizon verify`, which measures the laws that the package can be tested against.

A check is a generator of comparisons (and figures); a section is a group of checks. A comparison states the law, its
source, the predicted and measured values, and a tolerance with its origin: rounding, propagated through the computation
to first order, or standard errors of a mean. No measured value is hard-coded anywhere.
"""

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gradient_horizon.verify import (
    continuous_time,
    covariant,
    fixed_points,
    floating_point,
    gradients,
    identities,
    long_products,
    mean_field,
    one_unit,
    own_networks,
    random_matrices,
    transients,
    truncation,
)
from gradient_horizon.verify.comparison import Check, Comparison, Item, Plot

_log = logging.getLogger(__name__)

SECTIONS: dict[str, tuple[Check, ...]] = {
    "Traps of arithmetic": (
        floating_point.slopes_of_saturated_units,
        floating_point.kinks,
        floating_point.underflow,
        floating_point.order,
        floating_point.state,
        floating_point.zero_is_a_value,
        floating_point.one_bad_network,
        floating_point.dying_state,
        floating_point.clip_rules,
        long_products.small_singular_values,
        long_products.products_that_hand_over,
        long_products.exact_zeros,
        long_products.hand_over,
        long_products.long_sums,
    ),
    "Identities": (
        identities.oracle,
        identities.products,
        identities.homogeneity,
        identities.sum_rule,
    ),
    "Covariant vectors": (
        covariant.covariance,
        covariant.eigenvectors,
        covariant.rates,
        covariant.henon,
    ),
    "Continuous time": (continuous_time.lorenz, continuous_time.linear),
    "One unit, one gate": (one_unit.one_unit, one_unit.forget_gate),
    "Gradients of inputs, parameters and loss": (
        gradients.inputs,
        gradients.gates,
        gradients.steps_of_a_loss,
        gradients.memory,
        gradients.looking_ahead,
    ),
    "Fixed and periodic points": (
        fixed_points.one_unit,
        fixed_points.contractions,
        fixed_points.maps_of_the_plane,
        fixed_points.driven_cycle,
    ),
    "Random matrices": (
        random_matrices.newman_spectrum,
        random_matrices.vector_growth,
        random_matrices.powers,
        random_matrices.norm_and_radius,
    ),
    "Transient growth": (
        transients.jordan_blocks,
        transients.normal_matrices,
        transients.nilpotent,
        transients.kreiss_inequality,
        transients.random_departures,
        transients.windows,
    ),
    "Mean field of wide networks": (
        mean_field.growth,
        mean_field.largest_exponent,
        mean_field.averages,
        mean_field.edges,
        mean_field.below_the_edge,
    ),
    "Truncation and tuning": (
        truncation.truncated_scaled_identity,
        truncation.truncated_gradient,
        truncation.tuned_settings,
    ),
    "Ensembles of own networks": (own_networks.diagonal_networks, own_networks.own_step_and_cell),
}
"""The checks by section, in the order of the page."""


@dataclass(frozen=True)
class Section:
    """The results of the checks of one section."""

    title: str
    comparisons: list[Comparison]
    plots: list[Plot]


def verify(
    *,
    full: bool = False,
    sections: Mapping[str, Sequence[Check]] = SECTIONS,
    report: Callable[[str], None] = lambda check: None,
) -> list[Section]:
    """Run the checks of `sections`, one after the other; `report` is called with the name of each before it starts.

    `full` uses more and larger networks. A check that raises yields a comparison that fails.
    """
    results = []
    for title, checks in sections.items():
        items = [item for check in checks for item in _items(check, full, report)]
        comparisons = [item for item in items if isinstance(item, Comparison)]
        results.append(Section(title, comparisons, [item for item in items if isinstance(item, Plot)]))
    return results


def _items(check: Check, full: bool, report: Callable[[str], None]) -> list[Item]:
    name = check.__name__.replace("_", " ")
    report(name)
    items: list[Item] = []
    try:
        items.extend(check(full))
    except Exception as error:
        _log.debug("%s", name, exc_info=True)
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        law, trace = f"{name}: stopped by {why}", traceback.format_exc()
        items.append(Comparison(law, "none", float("nan"), float("inf"), 0.0, "must not raise", trace=trace))
    return items
