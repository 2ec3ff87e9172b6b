"""Figures: each takes a labelled Dataset and returns a matplotlib Figure, without pyplot. One figure per file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "activations": ["tanh_derivative_in_float32"],
        "all_pairs": ["reach_of_every_pair"],
        "catalogue": ["quick_look", "sweep_figures"],
        "covariant_vectors": ["smallest_angle_over_time"],
        "fixed_points": ["fixed_points_against_scale", "multistability_against_scale"],
        "gradient_norms": ["gradient_norm_against_update"],
        "horizon": ["horizon_against_scale"],
        "input_gradients": ["reach_of_inputs"],
        "kit.style": ["save"],
        "learning_curves": ["error_against_update", "loss_against_update"],
        "lyapunov": ["largest_exponent_against_scale", "lyapunov_spectrum"],
        "nodes": ["growth_by_node"],
        "norm_curves": ["norm_against_lag"],
        "notes": ["norm_growth_and_decay"],
        "share_solved": ["accuracy_against", "share_solved_against"],
        "share_solved_map": ["solved_map"],
        "singular_values": ["growth_of_every_direction"],
        "solving_against_growth": ["solving_against_initial_growth"],
        "state_gradients": ["state_gradient_over_training"],
        "transient": ["overshoot_against_scale", "share_parallelisable", "transient_quick_look"],
        "weight_spectra_over_training": ["evolution_of_the_network"],
    },
)
