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
# # Why did my run go NaN?
#
# A ReLU network learns to add two numbers by gradient descent, and breaks in two ways: because its gradient
# explodes, and because one batch holds a NaN. Both end with every parameter NaN. A `gh.Watch` tells them apart: when it
# happened, in which parameter, and whether it came through the recurrence.
#
# Runs as a notebook (through jupytext) and as a plain script, `python notebooks/why_nan.py`, in under a minute.

# %% tags=["parameters"]
STEPS = 50
UPDATES = 300

# %%
# %matplotlib inline
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import gradient_horizon as gh

logging.basicConfig(format="warned: %(message)s")
N, BATCH = 24, 16
cell = gh.make_cell("relu", N, input_size=2)

# %% [markdown]
# ## A training loop like any other
#
# The watch does not care how the network is trained: it is called with the parameters after each update.


# %%
def step(params, h, x):
    return cell.step(params["cell"], h, x)


def loss(params, xs):
    def output(xs):
        h, _ = jax.lax.scan(lambda h, x: (step(params, h, x), None), jnp.zeros(N), xs)
        return h @ params["readout"]

    sums = jnp.sum(xs[:, :, 0] * xs[:, :, 1], axis=1)
    return jnp.mean((jax.vmap(output)(xs) - sums) ** 2)


@jax.jit
def sample(key):
    values = jax.random.uniform(key, (BATCH, STEPS))
    marks = jnp.zeros(STEPS).at[jnp.array([3, STEPS // 2])].set(1.0)
    return jnp.stack([values, jnp.broadcast_to(marks, values.shape)], axis=-1)


for_weights, for_probe, for_data = jax.random.split(jax.random.key(1), 3)
probe = sample(for_probe)[:4]
keys = jax.random.split(for_data, UPDATES)


def train(decay, broken=-1):
    """Train with a weight decay; the batch of update `broken` holds a NaN."""
    params = {"cell": cell.init(for_weights, weight_scale=1.4), "readout": jnp.full(N, 0.1)}
    optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(0.005))
    state = optimizer.init(params)

    @jax.jit
    def advance(params, state, xs):
        updates, state = optimizer.update(jax.grad(loss)(params, xs), state, params)
        return optax.apply_updates(params, updates), state

    watch = gh.Watch(step, probe, every=5, h0=jnp.zeros(N), loss=loss)
    for update, key in enumerate(keys):
        xs = sample(key)
        if update == broken:
            xs = xs.at[0, 0, 0].set(jnp.nan)
        params, state = advance(params, state, xs)
        watch(params, update)
    return watch


# %% [markdown]
# ## The gradient explodes
#
# The first run has a weight decay of the wrong sign: its weights grow by half a per cent per update, and the gradient
# through fifty ReLU steps by the fiftieth power of that.

# %%
exploding = train(decay=-1.0)
print(exploding.explain())

# %% [markdown]
# ## A batch holds a NaN
#
# The second has none, and is healthy until one batch is not.

# %%
poisoned = train(decay=0.0, broken=UPDATES // 2)
print(poisoned.explain())
print(f"cause: {exploding.cause}, {poisoned.cause}")

# %% [markdown]
# ## Side by side
#
# The norm of the gradient of the loss, up to the last finite update. One run announces its end, the other does not.

# %%
figure = Figure(figsize=(3.4, 2.6), layout="constrained")
ax = figure.subplots()
for name, watch, colour in (("exploding", exploding, "#d55e00"), ("NaN in a batch", poisoned, "#0072b2")):
    table = watch.table()
    table = table.isel(update=np.flatnonzero(np.isfinite(table.log_gradient_norm)))
    ax.plot(table["update"], table.log_gradient_norm / np.log(10), color=colour, marker="o", markersize=2.5, label=name)
ax.set(xlabel="update", ylabel=R"$\log_{10}\|\partial L/\partial\theta\|$")
ax.legend(frameon=False)
figure
