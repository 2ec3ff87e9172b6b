# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own network
#
# Every measure of the package accepts any one-step map `step(params, h, x) -> h` that JAX can differentiate, with a
# state of any structure. This notebook measures a cell with a fast and a slow state, and checks the result against a
# straightforward computation of the same quantity. Nothing is trained.
#
# Runs as a notebook (through jupytext) and as a plain script, `python notebooks/your_own_network.py`, in under a
# minute.

# %% tags=["parameters"]
SEEDS = 16
STEPS = 60

# %%
# %matplotlib inline
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import gradient_horizon as gh

N = 24

# %% [markdown]
# ## A cell
#
# The state has two parts, one fast and one slow; any pytree will do.


# %%
def step(params, h, x):
    fast, slow = h["fast"], h["slow"]
    pushed = jnp.tanh(params["weights"] @ fast + params["back"] @ slow + x)
    return {"fast": pushed, "slow": 0.95 * slow + 0.05 * pushed}


def init_params(key, scale):
    weights, back = jax.random.normal(key, (2, N, N)) / N**0.5
    return {"weights": scale * weights, "back": back}


start = {"fast": jnp.zeros(N), "slow": jnp.zeros(N)}
for_network, for_networks, for_inputs = jax.random.split(jax.random.key(0), 3)
inputs = 0.1 * jax.random.normal(for_inputs, (STEPS, N))

# %% [markdown]
# ## How far its gradient reaches
#
# First one network, then many at once, with `jax.vmap` over seeds and weight scales.

# %%
params = init_params(for_network, 1.0)
norms = gh.log_jacobian_norms(step, params, start, inputs, norms=("frobenius", "spectral"))
print({name: values[np.array([0, 9, -1])].round(3).tolist() for name, values in norms.items()})


# %%
@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
@partial(jax.vmap, in_axes=(0, None))
def frobenius_norms(key, scale):
    return gh.log_jacobian_norms(step, init_params(key, scale), start, inputs)["frobenius"]


scales = np.array([0.5, 1.0, 1.5, 2.0], np.float32)
logs = np.asarray(frobenius_norms(jax.random.split(for_networks, SEEDS), scales))
horizon, kind = gh.horizon_of(logs, 2 * N)
for scale, reaches in zip(scales, map(gh.horizon_quantile, horizon, kind), strict=True):
    ends = " to ".join(dict.fromkeys(f"{reach.lag:g} ({reach.kind})" for reach in reaches))
    print(f"g = {scale:g}: median gradient horizon {ends} of {STEPS} steps")

# %%
figure = Figure(figsize=(3.4, 2.6), layout="constrained")
ax = figure.subplots()
for scale, curves in zip(scales, logs, strict=True):
    ax.plot(np.arange(1, STEPS + 1), np.median(curves, axis=0) / np.log(10) - 0.5 * np.log10(2 * N), label=f"g = {scale:g}")
ax.set(xlabel="lag (steps)", ylabel=R"$\log_{10}(\|\partial h_T/\partial h_{T-\tau}\|_F/\sqrt{n})$")
ax.legend(frameon=False)
figure

# %% [markdown]
# ## Is it right?
#
# The straightforward way is one Jacobian of the whole unrolled network, by `jax.jacrev`. It works as long as the
# numbers neither overflow nor underflow.


# %%
def unrolled(flat, lags):
    h = jax.tree.unflatten(jax.tree.structure(start), jnp.split(flat, 2))
    for x in inputs[STEPS - lags :]:
        h = step(params, h, x)
    return jnp.concatenate(jax.tree.leaves(h))


states = [start]
for x in inputs:
    states.append(step(params, states[-1], x))
for lags in (1, 5, 20):
    at = jnp.concatenate(jax.tree.leaves(states[STEPS - lags]))
    by_autodiff = jnp.log(jnp.linalg.norm(jax.jacrev(unrolled)(at, lags)))
    print(f"lag {lags}: {norms['frobenius'][lags - 1]:.5f}, by jacrev of the whole {by_autodiff:.5f}")
    np.testing.assert_allclose(norms["frobenius"][lags - 1], by_autodiff, atol=2e-5)

# %% [markdown]
# ## Its spectra
#
# All Lyapunov exponents, with the check that is returned alongside them: their sum against the mean of log|det J|. Then
# all singular values of the whole product, however far apart they are.

# %%
spectrum = gh.lyapunov_exponents(step, params, start, inputs, transient=STEPS // 5)
print("largest exponents", np.round(spectrum.exponents[:3], 3), "sum rule violated by", float(spectrum.sum_rule_error))
singular = gh.log_singular_values(step, params, start, inputs)
print(f"singular values from e^{float(singular[0]):.1f} to e^{float(singular[-1]):.1f}")
