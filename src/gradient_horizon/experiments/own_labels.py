"""Labels for what is measured of a user's own networks: an xarray Dataset with the names that the experiments use."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from gradient_horizon import names
from gradient_horizon.measures.all_pairs import log_jacobian_norms_all_pairs
from gradient_horizon.measures.jacobian_norms import JacobianNorms
from gradient_horizon.measures.lyapunov import LyapunovSpectrum
from gradient_horizon.measures.nodes import node_split
from gradient_horizon.measures.singular_values import log_singular_values

_LOG = "natural logarithm"
_TITLES = {
    "exponents": ("lyapunov_exponent", "Lyapunov exponent", "1/step"),
    "standard_error": ("standard_error", "standard error of the exponent", "1/step"),
    "sum_rule_error": ("sum_rule_error", "|sum of the exponents - mean log|det J|| / n", "1/step"),
    "kaplan_yorke_dimension": ("kaplan_yorke_dimension", "Kaplan-Yorke dimension", "1"),
    "entropy_rate": ("entropy_rate", "sum of the positive exponents", "1/step"),
}
_NODES = ("activation", "matrix")


def is_labelled(values: Any) -> bool:
    """True for a coordinate as xarray takes it: a tuple of its dimensions, its values and, perhaps, attributes."""
    return isinstance(values, tuple) and len(values) > 1 and isinstance(values[0], str | list | tuple)


def check_labels(
    measure: Callable[..., Any],
    result: Any,
    dims: Sequence[str],
    shape: Sequence[int],
    coords: Mapping[str, Any],
    keywords: Mapping[str, Any],
) -> None:
    """Raise `ValueError`, in one line, if `labelled` could not label results like `result`, the shapes of a network's.

    So that nothing is measured that cannot be returned.
    """
    numbered = [f"network axis {number}" for number in range(len(dims))]
    one = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape), leaf.dtype), result)
    data = labelled(measure, one, numbered, [1] * len(dims), {}, keywords)
    for argument, given in (("dims", dims), ("coords", coords)):
        taken = [name for name in given if name in data.variables or name in data.dims]
        if taken:
            own = ", ".join(
                name for name in map(str, dict.fromkeys([*data.variables, *data.dims])) if name not in numbered
            )
            raise ValueError(f"{argument}: {taken[0]} is a name in the result; allowed: names other than {own}")
    try:
        xr.Dataset({"": (tuple(dims), np.broadcast_to(False, shape))}, coords=_given(dims, coords))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"coords: {' '.join(str(error).split())}; allowed: coordinates of {', '.join(dims)}"
        ) from error


def labelled(
    measure: Callable[..., Any],
    results: Any,
    dims: Sequence[str],
    shape: Sequence[int],
    coords: Mapping[str, Any],
    keywords: Mapping[str, Any],
) -> xr.Dataset:
    """`results`, whose arrays have the networks along a leading axis, as a Dataset with the network axes `dims`.

    Results of the package's measures have the names and coordinates of its experiments. Those of other functions are
    named by their place in what the function returns, and their further axes are numbered.
    """
    results = jax.tree.map(lambda leaf: np.reshape(leaf, (*shape, *np.shape(leaf)[1:])), results)
    if isinstance(results, JacobianNorms):
        variables, own = _of_norms(results, dims, keywords.get("anchor", "end"))
    elif isinstance(results, LyapunovSpectrum):
        variables, own = _of_spectrum(results, dims)
    elif measure is log_singular_values:
        text = _text("log singular value of ∂h_T/∂h_0", "1", comment=f"{_LOG}; -inf where it is exactly zero")
        variables = {"log_singular_value": ((*dims, "index"), results, text)}
        own = {"index": _index(results, "singular value")}
    elif measure is log_jacobian_norms_all_pairs:
        text = _text(
            "log Frobenius norm of ∂h_late/∂h_early", "1", comment=f"{_LOG}; NaN where early is not before late"
        )
        variables = {"log_norm_of_pair": ((*dims, "late", "early"), results, text)}
        times = np.arange(results.shape[-1])
        own = {
            "late": ("late", times + 1, _text("time t of the state in the numerator", "step")),
            "early": ("early", times, _text("time s of the state in the denominator", "step")),
        }
    elif measure is node_split:
        values = np.stack([results[node] for node in _NODES], axis=len(dims))
        text = _text("contribution of the node to the log norm of ∂L/∂h, from lag - 1 to lag", "1/step", comment=_LOG)
        variables = {"log_growth": ((*dims, "node", "lag"), values, text)}
        own = {"node": ("node", list(_NODES), _text("node of the step", "1")), "lag": _lag(values.shape[-1])}
    else:
        variables, own = _of_others(results, dims), {}
    return xr.Dataset(variables, coords={**own, **_given(dims, coords)})


def _given(dims: Sequence[str], coords: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: (name, np.asarray(values)) if name in dims and not is_labelled(values) else values
        for name, values in coords.items()
    }


def _text(title: str, units: str, **more: str) -> dict[str, str]:
    return {"long_name": title, "units": units, **more}


def _lag(steps: int) -> Any:
    return "lag", np.arange(1, steps + 1), _text("lag", "step")


def _index(values: np.ndarray | jax.Array, what: str) -> Any:
    return "index", np.arange(1, values.shape[-1] + 1), _text(f"number of the {what}, from the largest", "1")


def _of_norms(norms: JacobianNorms, dims: Sequence[str], anchor: str) -> tuple[dict[str, Any], dict[str, Any]]:
    values = np.stack([*norms.values()])
    name, title = {
        "end": ("log_norm", "log norm of ∂h_T/∂h_(T-lag)"),
        "start": ("log_norm_from_start", "log norm of ∂h_lag/∂h_0"),
    }[anchor]
    variables: dict[str, Any] = {name: (("norm", *dims, "lag"), values, _text(title, "1", comment=_LOG))}
    if anchor == "end" and "frobenius" in norms:
        lag, kind = norms.horizon()
        text = _text("gradient horizon", "step", comment="first lag at which the gradient has changed thousandfold")
        variables["horizon"] = (tuple(dims), lag, text)
        kinds = np.array(names.HORIZON_KINDS)[kind]
        variables["horizon_kind"] = (tuple(dims), kinds, _text("how the gradient ends at its horizon", "1"))
    variables["state_size"] = ((), norms.state_size, _text("size n of the state, or of its block", "1"))
    own = {"norm": ("norm", [*norms], _text("matrix norm", "1")), "lag": _lag(values.shape[-1])}
    return variables, own


def _of_spectrum(spectrum: LyapunovSpectrum, dims: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    variables: dict[str, Any] = {}
    for field, values in spectrum._asdict().items():
        name, title, units = _TITLES[field]
        further = ("index",) if field in ("exponents", "standard_error") else ()
        variables[name] = ((*dims, *further), values, _text(title, units))
    return variables, {"index": _index(spectrum.exponents, "exponent")}


def _of_others(results: Any, dims: Sequence[str]) -> dict[str, Any]:
    variables = {}
    for path, values in jax.tree_util.tree_leaves_with_path(results):
        parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
        name = "_".join(parts) or "value"
        name = f"value_{name}" if name.isdigit() else name
        further = [f"{name}_axis_{number}" for number in range(values.ndim - len(dims))]
        variables[name] = ((*dims, *further), values)
    return variables
