"""Two CPU devices, float64 allowed, strict promotion, and shapes in signatures checked."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path

from jaxtyping import install_import_hook

from gradient_horizon.ensembles import process

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # in the background of a script; the processes that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" not in os.environ:
    # One cache of compiled programs for all that a run starts: most tests compile what another has compiled before.
    cache = tempfile.mkdtemp(prefix="gradient-horizon-tests-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

process.prepare_own(devices=2, compile_cache=False)

import jax  # noqa: E402  after the settings that JAX reads when it is imported
import pytest  # noqa: E402

from gradient_horizon.numerics import compiled  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# `theory` takes whatever NumPy takes, and checks it itself.
CHECKED = ("numerics", "cells", "tasks", "measures", "training", "ensembles", "analysis")
install_import_hook([f"gradient_horizon.{room}" for room in CHECKED], "shape_checks.checked")

# What takes minutes comes first, so that no process is left with it when the others have ended.
FIRST = ("test_verify", "test_checkpoints", "test_notebooks", "test_launch", "test_blocks", "test_wheel")

# Of tests that compile for long, the cases that a run of the suite does; the others of their kind are `slow`.
DONE = {
    "test_no_number_of_a_setting_is_compiled_into_a_program": ("jacobian", "notes"),
    "test_a_killed_sweep_goes_on_bit_for_bit": ("jacobian-4",),
    "test_norms_are_those_of_networks_one_by_one": ("tanh-16-end-norms1", "relu-5-start-norms4"),
    "test_every_pair_agrees_with_its_separate_run": ("tanh-1-3", "leaky_tanh-17-4"),
    "test_a_triangle_of_the_size_that_its_cost_is_stated_for": ("float32-1e-05",),
    "test_a_sweep_with_null_among_its_values_has_tables_and_figures": ("training-record_every-2-fixed2",),
    "test_dead_units_give_minus_infinity_and_never_nan": ("1",),
    "test_the_company_of_a_network_does_not_change_a_bit_of_it": ("tanh-8-more0",),
    "test_gates_and_leaks": (),
    "test_both_anchors_agree_at_full_lag": ("vanilla", "lstm"),
    "test_oracle_jacrev_of_the_whole_rollout": ("vanilla-float32", "lstm-float64"),
    "test_what_decays_and_grows_at_different_times_is_not_lost": ("two-float32", "grows-float32", "back-float32"),
    "test_an_lstm_without_weights_keeps_its_cell_state_alone": ("cell",),
    "test_the_sum_rule_holds_at_every_scale": ("float32-0.0001",),
    "test_every_lag_agrees_with_lapack": ("gru-start-float32", "hard_tanh-start-float64"),
    "test_mean_field_growth_is_what_networks_do": ("relu-1.2-0.4",),
    "test_workers_change_no_bit_of_a_sweep_and_share_cores_and_programs": (),
    "test_real_results_have_figures": ("jacobian", "notes", "covariant", "input_gradients"),
    "test_the_results_of_every_experiment_are_read_as_xarray_reads_them": ("jacobian", "notes", "covariant", "pairs"),
    "test_a_page_runs_and_draws_its_picture": ("covariant_vectors", "finite_time", "transients", "truncation"),
    "test_it_runs": ("reading_results", "where_to_truncate", "why_nan"),
    "test_scaling_the_step_shifts_every_measure": ("float32",),
    "test_experiments_at_the_smallest_scales": ("float32--126",),
    "test_an_orthogonal_matrix_of_any_size": ("float32-sizes0",),
    "test_a_whole_ensemble_and_derivatives": (),
    "test_a_parameter_that_is_read_as_zero_makes_every_measure_nan": ("number",),
    "test_the_gradient_of_the_step_is_that_of_backpropagation_through_time": ("lstm-float32", "gru-float64"),
    "test_networks_side_by_side_and_the_derivative": (),
    "test_derivatives_in_both_directions_are_the_slopes": ("of_exponents",),
    "test_sum_rule": ("64-False-float32", "16-True-float64"),
    "test_oracle_parameters_of_their_own_at_every_step": ("vanilla", "lstm"),
    "test_a_longer_sequence_of_a_key_does_not_begin_as_a_shorter_one": ("story", "copy_memory", "delayed_xor"),
    "test_nodes_and_steps_sum_to_the_gradient_of_the_whole_rollout": ("tanh-float32", "relu-float64", "linear-float32"),
    "test_a_network_of_16_bits_goes_its_own_way_with_products_of_float32": ("bfloat16",),
    "test_parts_that_grow_and_decay_at_different_times": ("in turn-float32", "long-float32"),
    "test_an_interrupted_measurement_goes_on_bit_for_bit": ("jacobian",),
    "test_the_gradient_is_that_of_the_mean_loss_through_the_step": ("lstm-adding",),
    "test_an_lstm_without_weights_forgets_by_its_gate": ("end-float32",),
    "test_units_that_grow_and_decay_at_different_times": ("hand over-float32-False", "hand over-float64-True"),
    "test_whatever_ends_the_drawing_a_repeat_does_it": ("KeyboardInterrupt-2",),
    "test_what_is_not_what_was_drawn_is_drawn_again": ("altered",),
    "test_a_file_that_is_missing_is_made_again": ("notes.pdf", "notes.json"),
    "test_a_file_that_is_not_the_one_that_was_built_is_made_again": ("notes.pdf",),
    "test_exponents_are_those_of_elimination": ("lstm-3",),
    "test_gaussian_factors_against_many_digits": ("4-1",),
    "test_no_derivative": ("jacfwd",),
    "test_mean_field_with_fresh_weights": ("3.0",),
    "test_orthogonal_weights_scale_every_singular_value_by_g": ("16-1.0-float32",),
    "test_commands_at_once_keep_all_jobs_and_compute_none_twice": ("without locks",),
    "test_blocks_on_two_devices_equal_a_loop": (),
    "test_rules_of_the_global_norm": ("book", "pascanu"),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        done = DONE.get(item.originalname)
        if done is not None and (not hasattr(item, "callspec") or item.callspec.id not in done):
            item.add_marker("slow")
    place = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(FIRST)))


def pytest_collection_finish():
    gc.freeze()  # modules and tests stay until the end: no collection needs to look at them again


# A process may map 65530 regions of memory (Linux's vm.max_map_count). A compiled program takes several, and thousands
# of them end in an abort.
MANY_REGIONS, REGIONS = 20_000, Path("/proc/self/maps")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    ends_a_module = nextitem is None or nextitem.path != item.path
    if ends_a_module and REGIONS.exists() and REGIONS.read_bytes().count(b"\n") > MANY_REGIONS:
        compiled.forget()
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def _programs_are_of_what_stands(request):
    """A test that replaces a part of the package finds no program with the old part, and leaves none with the new."""
    replaces = "monkeypatch" in request.fixturenames
    if replaces:
        compiled.forget()
    yield
    if replaces:
        compiled.forget()
