"""Two CPU devices, float64 allowed, strict promotion, and shapes in signatures checked."""

import atexit
import os
import shutil
import signal
import tempfile

from jaxtyping import install_import_hook

from gradient_horizon import process

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

from gradient_horizon import compiled  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

CHECKED = (
    "activations",
    "backprop",
    "cells",
    "clipping",
    "horizon",
    "inputs",
    "jacobian",
    "outcomes",
    "randomness",
    "recurrence",
    "rollout",
    "scaling",
    "statistics",
    "tasks",
    "weights",
)
install_import_hook([f"gradient_horizon.{module}" for module in CHECKED], "beartype.beartype")

# What takes minutes comes first, so that no process is left with it when the others have ended.
FIRST = ("test_verify", "test_parts", "test_notebooks", "test_launch", "test_ensemble", "test_wheel")


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(FIRST)))


@pytest.fixture(autouse=True)
def _programs_are_of_what_stands(request):
    """A test that replaces a part of the package finds no program with the old part, and leaves none with the new."""
    replaces = "monkeypatch" in request.fixturenames
    if replaces:
        compiled.forget()
    yield
    if replaces:
        compiled.forget()
