"""What `gradient_horizon.prepare` changes in a process, and what it leaves alone."""

import os
import subprocess
import sys

import jax
import pytest

import gradient_horizon as gh
from gradient_horizon.ensembles import process

ASKED = ("JAX_NUM_CPU_DEVICES", "JAX_ENABLE_X64", "JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
SILENT = {name: value for name, value in os.environ.items() if name not in (*ASKED, "OPENBLAS_NUM_THREADS")}


def told(program, **environment):
    """What a new process prints that runs `program`."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env={**SILENT, **environment}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize("first", ["", "import jax", "import jax; jax.config.jax_enable_x64; import numpy"])
def test_devices_and_threads_are_set_and_nothing_else(first):
    program = f"""
{first}
import gradient_horizon as gh
found = gh.prepare(devices=3)
import jax, jax.numpy as jnp, threadpoolctl
print(*sorted(found))
print(len(jax.devices()), jnp.ones(2).dtype, jax.config.jax_enable_x64, jax.config.jax_compilation_cache_dir)
print({{pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}} <= {{1}})
step = lambda params, h, x: 0.5 * h
print(gh.log_jacobian_norms(step, None, jnp.ones(2), steps=3)["frobenius"].dtype)
"""
    names, devices, threads, dtype = told(program)
    assert {"JAX_NUM_CPU_DEVICES", "OPENBLAS_NUM_THREADS"} <= set(names.split())
    assert "JAX_ENABLE_X64" not in names
    assert devices == "3 float32 False None"
    assert threads == "True"
    assert dtype == "float32"


def test_what_the_environment_says_is_kept():
    program = (
        "import gradient_horizon as gh; print(gh.prepare().get('XLA_FLAGS')); import jax; print(len(jax.devices()))"
    )
    flags, devices = told(program, JAX_NUM_CPU_DEVICES="2", XLA_FLAGS="--xla_cpu_multi_thread_eigen=true")
    assert "--xla_cpu_multi_thread_eigen=true" in flags
    assert "multi_thread_eigen=false" not in flags
    assert devices == "2"


def test_too_late_is_an_error():
    jax.devices()
    with pytest.raises(RuntimeError, match=r"^prepare: JAX has already started its devices; call it before the first "):
        gh.prepare(devices=7)


def test_flags_are_set_only_where_they_are_supported(monkeypatch):
    monkeypatch.setattr(process, "_are_supported", lambda flags: False)
    monkeypatch.setenv("XLA_FLAGS", "--one=1")
    assert process._flags() == "--one=1"
    monkeypatch.setattr(process, "_are_supported", lambda flags: True)
    monkeypatch.setattr(process.platform, "machine", lambda: "arm64")
    assert "xla_cpu_multi_thread_eigen" in process._flags()
    assert "vector_width" not in process._flags()


def test_a_jaxlib_that_was_not_tried_is_asked(monkeypatch):
    monkeypatch.setattr(process.importlib.metadata, "version", lambda name: "0.99.0")
    tried = process._are_supported.__wrapped__
    assert tried(("--xla_cpu_multi_thread_eigen=false",))
    assert not tried(("--xla_cpu_that_no_jaxlib_knows=1",))


def test_the_old_name_still_works_with_a_warning():
    with pytest.warns(DeprecationWarning, match=r"gradient_horizon\.prepare"):
        assert gh.runtime.prepare is process.prepare_own  # type: ignore[attr-defined]
