"""Covariant Lyapunov vectors: exponents, and the angles between the directions that grow and those that do not."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from gradient_horizon.cells.cell import Cell
from gradient_horizon.experiments.networks import Measurement, Network, Networks
from gradient_horizon.measures.covariant_vectors import covariant_lyapunov_vectors
from gradient_horizon.names import declare
from gradient_horizon.settings.schema import Config
from gradient_horizon.store.checkpoints import Checkpoints

DECLARES = declare.Experiment(
    "covariant",
    "covariant Lyapunov vectors, and the angles between unstable and stable directions",
    make="measure",
    slab_size="slab_size",
    reads=declare.DRAWN,
    # half of the steps are counted: a quarter each aligns the vectors from the start and from the end
    defaults={"hidden_size": 16, "steps": 800},
)

BINS = 30  # from 0 to π/2
_EDGES = np.linspace(0, np.pi / 2, BINS + 1)


def density(angles: Float[Array, " L"]) -> Float[Array, " bins"]:
    """Return the density of `angles` over the bins, per radian; NaN if they are."""
    edges = jnp.asarray(_EDGES[1:-1], angles.dtype)
    places = jnp.sum(angles[:, None] >= edges[None], axis=1, dtype=jnp.int32)
    counts = jnp.sum((places[:, None] == jnp.arange(BINS, dtype=jnp.int32)[None]).astype(angles.dtype), axis=0)
    width = float(_EDGES[1])
    return jnp.where(jnp.any(jnp.isnan(angles)), jnp.nan, counts / (len(angles) * width))


def _measure(_: None, cell: Cell, network: Network) -> dict[str, Any]:
    params, h0, xs, trajectory = network
    vectors = covariant_lyapunov_vectors(cell.step, params, h0, xs, steps=trajectory.length, trajectory=trajectory)
    angles = vectors.smallest_angle()
    return {
        "exponents": vectors.exponents,
        # (XLA's minimum on the CPU may pass over NaN)
        "smallest": jnp.where(jnp.any(jnp.isnan(angles)), jnp.nan, jnp.min(angles)),
        "density": density(angles),
        "error": jnp.maximum(vectors.forward_error, vectors.backward_error),
        "covariance_error": jnp.max(vectors.covariance_error),
        "first_bad_step": trajectory.first_bad_step,
    }


_MEASUREMENT = Measurement(_measure)


def slab_size(config: Config, budget: int) -> int | None:
    """Return how many networks may be measured at once in `budget` bytes; None: all of them."""
    return Networks(config).slab_size(_MEASUREMENT, budget)


def measure(config: Config, report: Any, checkpoints: Checkpoints | None = None) -> xr.Dataset:
    """Measure the covariant vectors of every network of `config` and label what is kept of them."""
    networks = Networks(config, checkpoints)
    measured = networks.every(_MEASUREMENT, report)
    label = networks.per_network
    described = {
        "lyapunov_exponent": label(
            measured["exponents"],
            "index",
            title="Lyapunov exponent: mean growth of the covariant vector",
            units="1/step",
            comment="natural logarithm; NaN for directions that die and all that follow",
        ),
        "smallest_angle": label(
            measured["smallest"],
            title="smallest angle between the unstable and the other directions, over all times",
            units="rad",
            comment="NaN without a positive exponent, or if a direction dies",
        ),
        "angle_density": label(
            measured["density"],
            "angle",
            title="density over time of the smallest angle between the unstable and the other directions",
            units="1/rad",
        ),
        "vector_error": label(
            measured["error"],
            "index",
            title="largest angle between the vectors of two computations",
            units="rad",
            comment="from another start and another end; large if the exponent is equal or close to a neighbour's",
        ),
        "covariance_error": label(
            measured["covariance_error"], title="largest angle between J v(t) and v(t + 1)", units="rad"
        ),
        **networks.descriptions(measured["first_bad_step"], networks.eigenvalues()),
    }
    count = measured["exponents"].shape[1]
    centres = (_EDGES[1:] + _EDGES[:-1]) / 2
    coordinates = {
        "index": ("index", np.arange(1, count + 1), {"long_name": "number of the vector", "units": "1"}),
        "angle": ("angle", centres, {"long_name": "centre of the bin of angles", "units": "rad"}),
        **networks.coordinates(),
    }
    return xr.Dataset(described, coords=coordinates).assign_attrs(block_size=networks.block)
