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
    "test_no_number_of_a_setting_is_compiled_into_a_program": ("jacobian", "notes", "training-leaky"),
    "test_a_killed_sweep_goes_on_bit_for_bit": ("jacobian-4",),
    "test_norms_are_those_of_networks_one_by_one": ("tanh-16-end-norms1", "relu-5-start-norms4", "gru-4-end-norms6"),
    "test_every_pair_agrees_with_its_separate_run": ("tanh-1-3", "leaky_tanh-17-4"),
    "test_a_triangle_of_the_size_that_its_cost_is_stated_for": ("float32-1e-05",),
    "test_a_sweep_with_null_among_its_values_has_tables_and_figures": (
        "jacobian-input_size-4-fixed0",
        "training-record_every-2-fixed2",
    ),
    "test_dead_units_give_minus_infinity_and_never_nan": ("1",),
    "test_the_company_of_a_network_does_not_change_a_bit_of_it": ("tanh-8-more0", "tanh-33-more2"),
    "test_gates_and_leaks": ("gru",),
    "test_both_anchors_agree_at_full_lag": ("vanilla", "lstm"),
    "test_oracle_jacrev_of_the_whole_rollout": ("vanilla-float32", "lstm-float64"),
    "test_what_decays_and_grows_at_different_times_is_not_lost": ("two-float32", "grows-float32", "back-float32"),
    "test_an_lstm_without_weights_keeps_its_cell_state_alone": ("cell",),
    "test_the_sum_rule_holds_at_every_scale": ("float32-0.0001",),
    "test_every_lag_agrees_with_lapack": ("tanh-end-float32", "gru-start-float32", "hard_tanh-start-float64"),
    "test_mean_field_growth_is_what_networks_do": ("tanh-10.0-0.3", "relu-1.2-0.4", "sigmoid-5.0-0.5"),
    "test_workers_change_no_bit_of_a_sweep_and_share_cores_and_programs": (),
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
