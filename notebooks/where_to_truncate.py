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
# # Where should I truncate?
#
# Backpropagation through time is often truncated after K steps, which biases the gradient. This notebook computes the
# bias of every K exactly, for a small network before and after training, and compares it with the bound that
# `gh.truncation_length` derives from the norms of ∂L/∂h alone.
#
# Runs as a notebook (through jupytext) and as a plain script, `python notebooks/where_to_truncate.py`, in under a
# minute.

# %% tags=["parameters"]
SEEDS = 32
STEPS = 100
UPDATES = 300

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import gradient_horizon as gh

N, DELAY = 24, 6

# %% [markdown]
# ## A network and a task
#
# A tanh network reads noise and is to return, at the last step, the input of some steps before. There is one sequence
# per seed.

# %%
for_weights, for_inputs, for_readout = jax.random.split(jax.random.key(0), 3)
cell = gh.make_cell("tanh", hidden_size=N, input_size=1)
inputs = jax.random.normal(for_inputs, (SEEDS, STEPS, 1))
targets = inputs[:, -1 - DELAY, 0]
start = {
    "cell": cell.init(for_weights, weight_scale=0.9),
    "readout": jax.random.normal(for_readout, (N,)) / N**0.5,
}


def loss(params, recurrent, offsets):
    """The mean squared error, if step t has the matrix recurrent[t], and offsets[:, t] is added to its state."""

    def one(xs, target, offsets):
        def step(h, at):
            W, x, offset = at
            return jnp.tanh(W @ h + params["cell"].input @ x + params["cell"].bias) + offset, None

        h, _ = jax.lax.scan(step, jnp.zeros(N), (recurrent, xs, offsets))
        return (params["readout"] @ h - target) ** 2

    return jnp.mean(jax.vmap(one)(inputs, targets, offsets))


NO_OFFSETS = jnp.zeros((SEEDS, STEPS, N))


def copies(params):
    return jnp.broadcast_to(params["cell"].recurrent, (STEPS, N, N))


@jax.jit
def train(params):
    def update(params, _):
        value, slope = jax.value_and_grad(lambda p: loss(p, copies(p), NO_OFFSETS))(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, slope), value

    return jax.lax.scan(update, params, None, length=UPDATES)


trained, losses = train(start)
print(f"loss {losses[0]:.3f} before, {losses[-1]:.3f} after {UPDATES} updates")

# %% [markdown]
# ## The bias of every truncation
#
# If each step has its own copy of W, one gradient holds what each lag contributes to dL/dW. The sum over the last K of
# them is the gradient truncated at K.

# %%
slopes = jax.jit(jax.grad(loss, argnums=(1, 2)))


def measured(params):
    """The measured bias at K = 1 .. T, the length for a bias of 5 %, and that which cancellation cannot spoil."""
    by_step, by_state = slopes(params, copies(params), NO_OFFSETS)
    kept = np.cumsum(np.asarray(by_step, np.float64)[::-1], axis=0)
    whole = np.linalg.norm(kept[-1])
    bias = np.linalg.norm(kept - kept[-1], axis=(1, 2)) / whole
    norms = np.linalg.norm(np.asarray(by_state, np.float64), axis=-1)[:, ::-1]
    logs = np.log(np.maximum(norms, 1e-300))
    factor = N**0.5 * norms.sum() / whole  # the direct derivative of a step with respect to W is at most ‖h‖ ≤ √N
    usual, sure = (gh.truncation_length(logs, bias=b, first_lag=0, seeds_axis=0) for b in (0.05, 0.05 / factor))
    return bias, usual, sure, factor


found = {"before training": measured(start), "after training": measured(trained)}
for name, (bias, cut, sure, factor) in found.items():
    print(f"{name}: the gradient decays by {np.exp(cut.log_decay):.3f} per step")
    print(f"  K = {cut.length:g} for a bias of 5 % (95 %: {cut.lower:g} to {cut.upper:g}; {cut.kind.name.lower()})")
    print(f"  contributions cancel by at most a factor of {factor:.0f}: K = {sure.length:g} is safe")
    for length in (cut.length, sure.length):
        if length <= STEPS:
            print(f"  measured bias at K = {length:g}: {100 * bias[int(length) - 1]:.2f} %")

# %%
figure = Figure(figsize=(3.4, 2.8), layout="constrained")
ax = figure.subplots()
for colour, (name, (bias, cut, *_)) in zip(("#0072B2", "#D55E00"), found.items(), strict=True):
    ax.semilogy(np.arange(1, STEPS), bias[:-1], ".", markersize=3, color=colour, label=f"{name}, measured")
    ax.semilogy(np.arange(1, len(cut.log_bounds) + 1), np.exp(cut.log_bounds), color=colour, label="bound")
ax.axhline(0.05, color="0.5", linewidth=0.8)
ax.set(xlabel="steps of backpropagation, K", ylabel="relative bias of dL/dW", ylim=(1e-4, 1.5))
ax.legend(frameon=False, fontsize=7)
figure

# %% [markdown]
# The bound is for contributions that do not cancel. Before training the measured bias lies below it. After training the
# errors of the sequences have different signs, so that the gradient is a small difference between large contributions,
# and its bias exceeds the bound. Dividing `bias` by the factor M Σ‖∂L/∂h‖ / ‖dL/dW‖ (see `help(gh.truncation_length)`)
# gives a length that is safe all the same, some steps longer.
