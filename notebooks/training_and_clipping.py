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
# # Training and clipping
#
# What does the Jacobian of an untrained network reveal about how well it will learn, and which networks does clipping
# rescue? Here tanh and ReLU networks learn the order of two letters, with and without gradient clipping, and their
# gradients are recorded throughout.
#
# Runs as a notebook (through jupytext) and as a plain script, `python notebooks/training_and_clipping.py`, in a few
# minutes. It writes to `results` in the working folder and reuses what an earlier run has computed there.

# %% tags=["parameters"]
SEEDS = 8
UPDATES = 2000

# %%
# %matplotlib inline
import itertools

import jax
import numpy as np

import gradient_horizon as gh
from gradient_horizon import figures
from gradient_horizon.analysis.outcomes import horizon_auc, has_solved, initial_log_norms

# %% [markdown]
# ## A sweep of training
#
# Eight jobs: two cells, from Gaussian weights and from the identity, each with and without gradient clipping. A job
# trains `SEEDS` networks at each of three weight scales; a seed sees the same sequences in all jobs.

# %%
data = gh.run(
    [
        "+sweeps=main_training",
        "weight_scales=[0.8,1.0,1.2]",
        "learning_rates=[0.1]",
        f"seeds={SEEDS}",
        f"updates={UPDATES}",
        "name=training_and_clipping",
    ]
)
print(data)

# %% [markdown]
# ## The loss, and the share of networks that solve the task
#
# The dashed line is chance, the smallest loss possible without reading the input. A network has solved its task once
# its error on fresh sequences falls below `solved_below`.

# %%
figures.loss_against_update(data)

# %%
figures.share_solved_against(data)

# %% [markdown]
# The learning curve of one network, selected by its labels:

# %%
one = data.sel(cell="tanh", weights="gaussian", clip="book", weight_scale=1.0, seed=0).squeeze(drop=True)
print(one.error.to_series().round(3).to_string())
print("solved at update", int(one.solved_at))

# %% [markdown]
# ## What clipping does
#
# Above, the norm of the gradient before (solid) and after (dashed) clipping; below, the fraction of gradients that were
# clipped. Clipping does not shorten every step: it shortens the rare long ones, which set an unclipped network back.

# %%
figures.gradient_norm_against_update(data)

# %% [markdown]
# ## The gradient through time during learning
#
# ‖∂L/∂h_t‖ at every step t, from the first update on. A network that learns the task extends its memory: its gradient
# comes to reach the letters at the beginning of the sequence.

# %%
figures.state_gradient_over_training(data)

# %% [markdown]
# ## Prediction from the initial Jacobian
#
# For each network, the update at which it solved the task against the growth of its gradient per step before the first
# update. The area under the curve (AUC) is the probability that a network that solves the task had a longer gradient
# horizon than one that does not; a value of ½ would mean that the horizon carries no information.

# %%
figures.solving_against_initial_growth(data)

# %%
for cell, weights in itertools.product(data.cell.values, data.weights.values):
    chosen = data.sel(cell=cell, weights=weights, clip="book").squeeze(["learning_rate", "clip_threshold"])
    area = horizon_auc(chosen)
    norms = initial_log_norms(chosen)  # of the product over √n
    median, _ = gh.horizon_quantile(*gh.horizon_of(norms.reshape(-1, norms.shape[-1]), 1))
    print(
        f"{cell}, {weights}: {int(has_solved(chosen).sum())} solved; median initial horizon {median.lag:g}, {median.kind};"
        f" AUC {f'{area.estimate:.2f} ({area.lower:.2f} to {area.upper:.2f})' if area else 'undetermined'}"
    )

# %% [markdown]
# ## The same without the command line
#
# `make_train` returns a pure function from keys and numbers to a training history, vmapped here over learning rates.

# %%
task = gh.make_task("temporal_order", steps=20)
spec = gh.TrainSpec(
    gh.make_cell("tanh", 32, task.input_size), task, clip="book", updates=UPDATES // 4, record_every=UPDATES // 8
)
train = jax.jit(jax.vmap(gh.make_train(spec), in_axes=(gh.Member(None, None, 0, None), None)))
rates = np.array([0.01, 0.03, 0.1, 0.3], np.float32)
history = train(gh.Member(jax.random.key(0), 1.0, rates, 1.0), task.data())
for rate, error in zip(rates, history.record.error[:, -1], strict=True):
    print(f"learning rate {rate:g}: error {error:.3f}")
