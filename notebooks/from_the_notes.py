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
# # From the notes to the horizon
#
# Ten things that are told of a plain recurrent network, in the order in which a textbook tells them, each measured. It ends
# where the gradient neither vanishes nor explodes.
#
# Runs as a notebook (through jupytext) and as a plain script, `python notebooks/from_the_notes.py`, in a few minutes. It
# writes below `results` in the working folder, and finds there what an earlier run has computed.

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
# Training carries a gradient back from step T to step t by ∂h_T/∂h_t = J_T ⋯ J_{t+1}. Its norm against the lag T − t, for
# networks of 64 units with weights from half to twice those at the edge:

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
# Backwards through one step the gradient passes tanh, which multiplies by φ′(a) ≤ 1; +, which passes it on unchanged; and
# the matrix product, which multiplies by Wᵀ. Below, the notes' own experiment: dh ← dh Wᵀ again and again, as written.
# The largest eigenvalue of W, in modulus, decides which way it goes.

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
# In float32 the derivative of tanh, computed as 1 − y², is exactly 0 from x = 10 on, and JAX's own is from x = 8; the true
# one is small. A program that multiplies such zeros reports that a gradient is gone when it is merely small.

# %%
figures.tanh_derivative_in_float32()

# %% [markdown]
# ## 3. Why it matters: a story
#
# Someone sits in a room; Mary comes into it; many words later: whom did she say hi to? The clue lies `distance` words before
# the question's end. Whether a network learns that is settled in the notebook on training; here is what it is asked.

# %%
from gradient_horizon.tasks.story import WORDS  # noqa: E402

task = gh.make_task("story", 33, distance=9)
sample = task.sample(jax.random.key(3), task.data(), test=False, dtype=jnp.float32)
words = [WORDS[index] for index in np.argmax(sample.xs, axis=-1)]
print(" ".join(words), "___")

# %% [markdown]
# ## 4. Which node does what
#
# How much the activation and the matrix each add, per step, to the logarithm of a gradient's length. The two sum to all of
# it.

# %%
nodes = gh.run(
    ["experiment=nodes", "cell=tanh,relu", "weight_scales=[0.5,1.0,1.4,2.0]", f"seeds={SEEDS}", f"steps={STEPS}",
     "name=from_the_notes_nodes"]
)  # fmt: skip
figures.growth_by_node(nodes)

# %% [markdown]
# ## 6. ReLU instead of tanh
#
# For a ≥ 0 the gradient passes unshrunk, and where half the units are shut W must be √2 times as large to make up for
# it. Beyond that ReLU explodes, where tanh saturates and holds on: the horizon against the weight scale.

# %%
figures.horizon_against_scale(networks)

# %% [markdown]
# ## 9. Clipping
#
# If the norm n of all gradients together reaches the threshold c, the notes' formula multiplies by c/n and their code by
# c/(n + 10⁻⁶). The two differ by 10⁻⁶/n: by a ten-thousandth of the gradient where n is a hundredth.

# %%
gradient = {"W": jnp.full((3, 3), 0.01), "b": jnp.zeros(3)}
for rule in ("pseudocode", "book", "optax"):
    clipped = gh.clip_gradients(gradient, 0.01, rule)
    print(f"{rule:>10}: {float(jnp.sqrt(jnp.sum(clipped['W'] ** 2))):.8f}")

# %% [markdown]
# In training, below: tanh networks need it at this learning rate. The notes' ReLU learns with it too, from the identity as
# its first W, whose gradient neither shrinks nor grows; from Gaussian weights it does not learn this task.

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
# LSTM and GRU exist because of this. By the same instrument, at the same weight scales: their gradients vanish more slowly,
# and slower still where the forget gate is held open.

# %%
gates = gh.run(
    ["cell=tanh,gru,lstm", "weight_scales=[0.5,1.0,1.4,2.0]", f"seeds={SEEDS}", f"steps={STEPS}",
     "forget_bias=2.0", "name=from_the_notes_gates"]
)  # fmt: skip
figures.norm_against_lag(gates)

# %% [markdown]
# ## The edge
#
# Between vanishing and exploding lies a weight scale at which the median gradient does neither. Mean field theory puts it at
# g = 1 for tanh networks without input and at √2 for ReLU, as N → ∞; at the size measured it lies above.

# %%
growth = networks.log_norm.squeeze("norm").sel(lag=networks.lag[-1]).median("seed") - 0.5 * np.log(
    networks.state_size
)
for cell in networks.cell.values:
    by_scale = growth.sel(cell=cell)
    print(cell, ", ".join(f"g = {g:g}: {float(by_scale.sel(weight_scale=g)) / STEPS:+.3f}" for g in by_scale.weight_scale.values))
