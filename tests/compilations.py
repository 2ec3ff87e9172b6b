"""How often JAX compiles."""

from collections.abc import Callable
from typing import Any

import jax


def programs(call: Callable[[], Any]) -> int:
    """How many programs `call` makes JAX compile."""
    found = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        found.append(event == "/jax/core/compile/backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        call()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return sum(found)
