"""The study notes' experiment: apply dh ← dh Whᵀ repeatedly and record the norm of dh.

    np.random.seed(3); Wh = np.random.randn(H, H) * scale; dh = np.ones((N, H))
    for t in range(T): dh = dh @ Wh.T; norm_list.append(np.sqrt(np.sum(dh**2)) / N)

Three series are computed: the one above in float64; the same in float32 for at least 400 steps, over which it overflows
or vanishes; and its log-domain version, which does neither. The modulus of the largest eigenvalue of Wh decides between
growth and decay.

The float64 series agrees with NumPy's to 1e-12 max(1, T/20) down to norms of 1e-153. Below that the squares are
subnormal: XLA flushes them to zero, NumPy keeps a few wrong digits of them, and only the log-domain series is right.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax
from jaxtyping import Array, Float

from gradient_horizon.names import declare
from gradient_horizon.names.rules import SettingError
from gradient_horizon.numerics.exponents import normalise
from gradient_horizon.settings.schema import Config

DECLARES = declare.Experiment(
    "notes",
    "the study notes' experiment: repeated multiplication by one matrix",
    make="measure",
    reads=("experiment", "hidden_size", "batch_size", "steps", "seeds", "weight_scales"),
    # the numbers of the notes: a 3 × 3 matrix from NumPy's seed 3, as drawn and halved, 20 steps
    defaults={"hidden_size": 3, "batch_size": 2, "steps": 20, "seeds": [3], "weight_scales": [1.0, 0.5]},
    has_own_draws=True,
)

LONG = 400  # steps by which both of the notes' series have left the range of float32


def _plain(matrix: Float[Array, "H H"], rows: int, steps: int) -> Float[Array, " T"]:
    def advance(dh, _):
        dh = jnp.matmul(dh, matrix.T, precision="highest")
        return dh, jnp.sqrt(jnp.sum(dh**2)) / rows

    return lax.scan(advance, jnp.ones((rows, len(matrix)), matrix.dtype), length=steps)[1]


def _logarithmic(matrix: Float[Array, "H H"], rows: int, steps: int) -> Float[Array, " T"]:
    def advance(carry, _):
        dh, exponent = carry
        dh, gained = normalise(jnp.matmul(dh, matrix.T, precision="highest"))
        exponent = exponent + gained
        log_norm = jnp.log(jnp.sqrt(jnp.sum(dh**2))) - jnp.log(jnp.asarray(rows, dh.dtype))
        return (dh, exponent), log_norm + exponent.astype(dh.dtype) * float(np.log(2.0))

    start = (jnp.ones((rows, len(matrix)), matrix.dtype), jnp.zeros((), jnp.int32))
    return lax.scan(advance, start, length=steps)[1]


def notes_matrix(seed: int, hidden_size: int, scale: float) -> Float[np.ndarray, "H H"]:
    """Draw Wh as the notes do, from NumPy's legacy generator."""
    return np.random.RandomState(seed).randn(hidden_size, hidden_size) * scale


@jax.jit(static_argnums=(1, 2))
def _series(matrices: Float[Array, "K H H"], rows: int, steps: int) -> dict[str, Array]:
    long = max(steps, LONG)
    return {
        "norm": jax.vmap(lambda matrix: _plain(matrix, rows, steps))(matrices),
        "norm_float32": jax.vmap(lambda matrix: _plain(matrix, rows, long))(matrices.astype(jnp.float32)),
        "log_norm": jax.vmap(lambda matrix: _logarithmic(matrix, rows, long))(matrices),
    }


def measure(config: Config, report: Any, checkpoints: Any = None) -> xr.Dataset:
    """Compute the three series for every seed and weight scale, and the spectral radius that governs them.

    `checkpoints` are not used: the experiment is too short to need them.
    """
    shape = (len(config.weight_scales), len(config.seeds))
    matrices = np.stack(
        [notes_matrix(seed, config.hidden_size, scale) for scale in config.weight_scales for seed in config.seeds]
    )
    tiny = np.finfo(np.float64).tiny
    for scale, of_scale in zip(config.weight_scales, matrices.reshape(shape[0], -1), strict=True):
        if scale and np.any(np.abs(of_scale) < tiny):  # XLA flushes them to 0
            raise SettingError("weight_scales", scale, f"0, or scales at which no entry of Wh is below {tiny:.2g}")
    with jax.enable_x64(True):
        series = jax.tree.map(np.asarray, _series(jnp.asarray(matrices), config.batch_size, config.steps))
    report(len(matrices))
    network = ("weight_scale", "seed")

    def labelled(values: np.ndarray, dim: str, title: str, **more: str) -> Any:
        return (*network, dim), values.reshape(*shape, -1), {"long_name": title, "units": "1", **more}

    radius = np.abs(np.linalg.eigvals(matrices)).max(axis=-1).reshape(shape)
    largest = np.linalg.svd(matrices, compute_uv=False)[:, 0].reshape(shape)
    return xr.Dataset(
        {
            "norm": labelled(series["norm"], "step", "norm of dh, divided by N"),
            "norm_float32": labelled(series["norm_float32"], "long_step", "norm of dh, divided by N, in float32"),
            "log_norm": labelled(series["log_norm"], "long_step", "log(‖dh‖ / N)", comment="natural logarithm"),
            "spectral_radius": (network, radius, {"long_name": "spectral radius of Wh", "units": "1"}),
            "largest_singular_value": (network, largest, {"long_name": "largest singular value of Wh", "units": "1"}),
        },
        coords={
            "weight_scale": ("weight_scale", config.weight_scales, {"long_name": "factor on Wh", "units": "1"}),
            "seed": ("seed", config.seeds, {"long_name": "NumPy seed", "units": "1"}),
            "step": ("step", np.arange(1, config.steps + 1), {"long_name": "steps back", "units": "step"}),
            "long_step": (
                "long_step",
                np.arange(1, max(config.steps, LONG) + 1),
                {"long_name": "steps back", "units": "step"},
            ),
        },
    )
