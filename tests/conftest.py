"""Two CPU devices, float64 allowed, strict promotion, and shapes in signatures checked."""

from jaxtyping import install_import_hook

from gradient_horizon import runtime

runtime.prepare(devices=2, compile_cache=False)

import jax  # noqa: E402  after the settings that JAX reads when it is imported

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
