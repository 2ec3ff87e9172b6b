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
# # From the study notes to the horizon
#
# Ten statements about plain recurrent networks, in the order in which a textbook makes them, each measured. At the end
# comes the weight scale at which the gradient neither vanishes nor explodes. The study notes that prompted this project
# are described in `docs/sweeps.md`.
#
# Runs as a notebook (through jupytext) and as a plain script, `python notebooks/from_the_notes.py`, in a few minutes.
# It writes to `results` in the working folder and reuses what an earlier run has computed there.

# %% tags=["parameters"]
SEEDS = 32
STEPS = 100
UPDATES = 2000

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import numpy as np

import gradient_horizon as gh
from gradient_horizon import figures
from gradient_horizon.figures.paper import paper_figure

# %% [markdown]
# ## 1. Gradients vanish or explode
#
# In training, ∂h_T/∂h_t = J_T ⋯ J_{t+1} carries a gradient back from step T to step t. Its norm against the lag T − t,
# for networks of 64 units at weight scales from half to twice the edge of chaos of tanh networks:

# %%
networks = gh.run(
    [
        "cell=tanh,relu",
        "weight_scales=[0.5,1.0,1.4,2.0]",
        f"seeds={SEEDS}",
        f"steps={STEPS}",
        "name=from_the_notes",
    ]
)
figures.norm_against_lag(networks)

# %% [markdown]
# ## 2, 5, 7, 8. The graph of one step, its activation, its matrix
#
# On its way back through one step the gradient passes tanh, which multiplies it by φ′(a) ≤ 1; the sum, which leaves it
# unchanged; and the matrix product, which multiplies it by Wᵀ. The lower row repeats the demonstration in the study
# notes, dh ← dh Wᵀ again and again, exactly as written there. Whether dh grows or decays is decided by the spectral
# radius of W.

# %%
notes = gh.run(["+sweeps=notes", "name=notes"])
paper_figure("notes").draw(notes)

# %%
for scale in notes.weight_scale.values:
    one = notes.sel(weight_scale=scale).isel(seed=0)
    print(
        f"W times {scale:g}: after {notes.step.values[-1]} steps {float(one.norm[-1]):.6g}; largest |eigenvalue|"
        f" {float(one.spectral_radius):.4f}"
    )

# %% [markdown]
# ### The trap in 1 − y²
#
# In float32 the derivative of tanh, computed as 1 − y², is exactly 0 from x = 10 on, and JAX's own from x = 8 on,
# whereas the true derivative is small but positive. A program that multiplies such zeros reports that a gradient has
# vanished completely when it is merely small.

# %%
figures.tanh_derivative_in_float32()

# %% [markdown]
# ## 3. Why it matters: a story
#
# Someone is in a room, and Mary comes in; many words later the question is to whom she says hi. The clue lies
# `distance` words before the end of the question. This is one such story; `docs/tasks.md` lists settings with which
# networks learn to answer it.

# %%
from gradient_horizon.tasks.story import WORDS  # noqa: E402

task = gh.make_task("story", 33, distance=9)
sample = task.sample(jax.random.key(3), task.data(), test=False, dtype=jnp.float32)
words = [WORDS[index] for index in np.argmax(sample.xs, axis=-1)]
print(" ".join(words), "___")

# %% [markdown]
# ## 4. Which node does what
#
# The contributions of the activation and of the matrix to the logarithm of the gradient's norm, accumulated over the
# lag. Together they account for all of it.

# %%
nodes = gh.run(
    ["experiment=nodes", "cell=tanh,relu", "weight_scales=[0.5,1.0,1.4,2.0]", f"seeds={SEEDS}", f"steps={STEPS}",
     "name=from_the_notes_nodes"]
)  # fmt: skip
figures.growth_by_node(nodes)

# %% [markdown]
# ## 6. ReLU instead of tanh
#
# A ReLU unit with a ≥ 0 passes the gradient unchanged. With half of the units inactive, W must be √2 times as large to
# make up for it. Beyond that scale the gradient of ReLU networks explodes, while tanh networks saturate, which slows
# the growth. The horizon against the weight scale:

# %%
figures.horizon_against_scale(networks)

# %% [markdown]
# ## 9. Clipping
#
# If the global norm n of the gradient reaches the threshold c, the formula in the study notes multiplies it by c/n, and
# their code by c/(n + 10⁻⁶). The relative difference is 10⁻⁶/n: one part in ten thousand at n = 0.01.

# %%
gradient = {"W": jnp.full((3, 3), 0.01), "b": jnp.zeros(3)}
for rule in ("pseudocode", "book", "optax"):
    clipped = gh.clip_gradients(gradient, 0.01, rule)
    print(f"{rule:>10}: {float(jnp.sqrt(jnp.sum(clipped['W'] ** 2))):.8f}")

# %% [markdown]
# In the training below, tanh networks need clipping at this learning rate. ReLU networks learn with it too if W starts
# as the identity, which neither shrinks nor grows the gradient; from Gaussian weights they do not learn this task.

# %%
trained = gh.run(
    [
        "+sweeps=main_training",
        "learning_rates=[0.1]",
        "seeds=4",
        f"updates={UPDATES}",
        "name=from_the_notes_training",
    ]
)
figures.gradient_norm_against_update(trained)

# %%
figures.share_solved_against(trained)

# %% [markdown]
# ## 10. Gates
#
# LSTM and GRU were designed for this. Measured in the same way, at the same weight scales, their gradients vanish more
# slowly, and more slowly still if a bias holds the forget gate open.

# %%
gates = gh.run(
    ["cell=tanh,gru,lstm", "weight_scales=[0.5,1.0,1.4,2.0]", f"seeds={SEEDS}", f"steps={STEPS}",
     "forget_bias=2.0", "name=from_the_notes_gates"]
)  # fmt: skip
figures.norm_against_lag(gates)

# %% [markdown]
# ## The edge
#
# Between vanishing and exploding lies a weight scale at which the median gradient does neither. Mean-field theory puts
# it at g = 1 for tanh networks without input and at √2 for ReLU networks as N → ∞; at the size measured here it is
# larger.

# %%
growth = networks.log_norm.squeeze("norm").sel(lag=networks.lag[-1]).median("seed") - 0.5 * np.log(
    networks.state_size
)
for cell in networks.cell.values:
    by_scale = growth.sel(cell=cell)
    print(cell, ", ".join(f"g = {g:g}: {float(by_scale.sel(weight_scale=g)) / STEPS:+.3f}" for g in by_scale.weight_scale.values))
