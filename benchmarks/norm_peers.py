"""Log Frobenius norms at every lag as a user would write them without this project, from the same W and h_0.

Products are carried from the end, M J_t, as in this project. They are rescaled only where float32 needs it: with 16
units or fewer, some network shrinks beyond its range within 100 steps.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from contestants import Case, Ready, fastest

from gradient_horizon.ensembles import devices
from gradient_horizon.ensembles.block_size import block_size

_RESCALED = 16  # the largest N whose products are rescaled
_EVERY = 10  # steps


def _start(case: Case) -> tuple[np.ndarray, np.ndarray]:
    with np.load(case["start"]) as arrays:
        return arrays["W"], arrays["h"]


def product(case: Case) -> Ready:
    """Multiply two `n` × `n` matrices in a program that may use every thread."""
    import jax

    matrix = jax.numpy.asarray(np.random.default_rng(0).standard_normal((case["n"], case["n"]), np.float32))
    program = jax.jit(lambda a: a @ a)
    return Ready(lambda: jax.block_until_ready(program(matrix)), lambda _: {})


def plain(case: Case) -> Ready:
    """`jax.vmap` of a scan that computes each J_t by `jax.jacrev`: one program over all networks."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    n, rescaled = case["n"], case["n"] <= _RESCALED

    def step(h: Any, matrix: Any) -> Any:
        return jnp.tanh(matrix @ h)

    def norms(matrix: Any, h: Any) -> Any:
        def backward(carry, h):
            product, gained = carry
            product = product @ jax.jacrev(step)(h, matrix)
            norm = jnp.sqrt(jnp.sum(product**2))
            log = gained + jnp.log(norm)
            return ((product / norm, log) if rescaled else (product, gained)), log

        _, states = lax.scan(lambda h, _: (step(h, matrix), h), h, length=case["steps"])
        _, logs = lax.scan(backward, (jnp.eye(n), jnp.float32(0)), states, reverse=True)
        return logs[::-1]

    program = jax.jit(jax.vmap(norms))
    matrices, h = (jnp.asarray(array) for array in _start(case))
    return Ready(lambda: jax.block_until_ready(program(matrices, h)), lambda logs: {"frobenius": np.asarray(logs)})


Advance = Callable[[Any, Any, Any, Any], Any]  # advance(product, h_{t-1}, h_t, W) -> the next product


def _torch_norms(begin: Callable[[Any], Advance], block: int, matrices: Any, h: Any, steps: int) -> Any:
    """Return log norms (networks, lags), `block` networks at a time; `begin(W)` returns their `Advance`."""
    torch: Any = import_module("torch")
    rescaled = matrices.shape[1] <= _RESCALED
    blocks = []
    with torch.inference_mode():
        for W, first in zip(matrices.split(block), h.split(block), strict=True):
            states = [first]
            for _ in range(steps):
                states.append(torch.tanh(torch.bmm(W, states[-1][:, :, None])[:, :, 0]))
            advance = begin(W)
            product = torch.eye(W.shape[1]).expand_as(W).clone()
            gained, logs = torch.zeros(len(W)), []
            for lag in range(1, steps + 1):
                product = advance(product, states[steps - lag], states[steps - lag + 1], W)
                norm = torch.linalg.vector_norm(product, dim=(1, 2))
                logs.append(gained + torch.log(norm))
                if rescaled and lag % _EVERY == 0:
                    gained = logs[-1]
                    product /= norm[:, None, None]
            blocks.append(torch.stack(logs, 1))
    return torch.cat(blocks)


def _torch_ready(begin: Callable[[Any], Advance], case: Case) -> Ready:
    """Use one thread or all, over all networks at once or in blocks that fit the cache, whichever is fastest."""
    torch: Any = import_module("torch")
    matrices, h = (torch.from_numpy(array) for array in _start(case))
    own = block_size(case["n"], case["steps"])

    def call(threads: int, block: int) -> Any:
        torch.set_num_threads(threads)
        return _torch_norms(begin, block, matrices, h, case["steps"])

    candidates = {
        f"{threads} threads, blocks of {block}": partial(call, threads, block)
        for threads in sorted({1, devices.cpu_count()})
        for block in sorted({min(own * threads, len(h)), len(h)})
    }
    name, best = fastest(candidates)
    return Ready(best, lambda logs: {"frobenius": logs.numpy()}, name)


def by_hand(case: Case) -> Ready:
    """PyTorch: batched products with J_t = diag(1 - h_t²) W written out, into reused buffers."""
    torch: Any = import_module("torch")

    def begin(W: Any) -> Advance:
        scaled, spare = torch.empty_like(W), [torch.empty_like(W)]

        def advance(product: Any, _: Any, after: Any, W: Any) -> Any:
            torch.mul(product, (1 - after * after)[:, None, :], out=scaled)
            following = spare.pop()
            torch.bmm(scaled, W, out=following)
            spare.append(product)
            return following

        return advance

    return _torch_ready(begin, case)


def torch_func(case: Case) -> Ready:
    """PyTorch: `torch.func.vmap` of `jacrev` of the step, then a batched product."""
    torch: Any = import_module("torch")

    def step(h: Any, W: Any) -> Any:
        return torch.tanh(W @ h)

    jacobians = torch.func.vmap(torch.func.jacrev(step))

    def begin(_: Any) -> Advance:
        return lambda product, before, after, W: torch.bmm(product, jacobians(before, W))

    return _torch_ready(begin, case)
