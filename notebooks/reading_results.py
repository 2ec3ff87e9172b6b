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
# # Reading results
#
# At which weight scale does the gradient of a recurrent network neither vanish nor explode? A small sweep of tanh
# and ReLU networks, read by its labels alone, gives the answer.
#
# Runs as a notebook (through jupytext) and as a plain script, `python notebooks/reading_results.py`, in under a
# minute. It writes to `results/reading` in the working folder.

# %% tags=["parameters"]
SEEDS = 16
STEPS = 100

# %%
# %matplotlib inline
import numpy as np

import gradient_horizon as gh
from gradient_horizon import figures

# %% [markdown]
# ## A sweep
#
# `gh.run` takes what the command line takes after `gradient-horizon run -m` and runs it in a process of its own. A
# second run finds everything finished and only loads it.

# %%
data = gh.run(
    [
        "cell=tanh,relu",
        "weight_scales={start: 0.5, stop: 2.1, num: 17}",
        f"seeds={SEEDS}",
        "hidden_size=32",
        f"steps={STEPS}",
        "name=reading",
    ]
)

# %% [markdown]
# ## Its dataset
#
# `gh.load` gives later what `gh.run` gave: every finished job of the folder, joined. The swept setting `cell` is a
# dimension beside those of each job. Each variable says what it is and its units.

# %%
data = gh.load("results/reading")
print(data)
for name, variable in data.data_vars.items():
    print(f"{name}: {variable.attrs['long_name']} [{variable.attrs['units']}]")

# %% [markdown]
# ## Its figures
#
# The same functions that draw the figures of `gradient-horizon run`, which lie as PDF and PNG in `results/reading`.

# %%
figures.norm_against_lag(data)

# %%
figures.horizon_against_scale(data)

# %% [markdown]
# ## The question
#
# √n is the Frobenius norm of a product that passes every gradient unchanged, so over T steps the gradient has grown by
# log ‖∂h_T/∂h_0‖_F − ½ log n. It neither vanishes nor explodes at the weight scale whose median over seeds is nearest
# to zero. (`neutral g` in the table that `run` prints is the same, interpolated between weight scales.)

# %%
growth = data.log_norm.sel(norm="frobenius", lag=data.lag[-1]).median("seed") - 0.5 * np.log(data.state_size)
neutral = abs(growth).idxmin("weight_scale")
for cell in data.cell.values:
    print(f"{cell}: g = {neutral.sel(cell=cell).item():.1f}")

# %% [markdown]
# How far back the gradient reaches below, at and above it, and what ends it there. A horizon beyond T reads T + 1: it
# is censored, so the median is that of one network (of two in the middle, the lower), with its own kind.

# %%
around = data.sel(weight_scale=[0.5, 1.0, 1.2, 1.4, 2.0])
for cell in around.cell.values:
    for scale in around.weight_scale.values:
        at = around.sel(cell=cell, weight_scale=scale)
        reach, _ = gh.horizon_quantile(at.horizon, at.horizon_kind)
        print(f"{cell}, g = {scale:g}: median horizon {reach.lag:g}, {reach.kind}")
print()
for kind in ("vanished", "beyond", "exploded"):
    share = (around.horizon_kind == kind).mean("seed")
    print(f"share of networks: {kind}", share.to_pandas(), sep="\n", end="\n\n")

# %% [markdown]
# ## Beside theory
#
# For tanh networks without input mean field theory gives the growth per step in the limit of many units, ½ log χ, as
# `gh.theory.mean_field`: negative below the edge at g = 1, positive above. The measured slope of the norm over the second half
# of the lags, median over seeds, has the finite size in it.

# %%
tanh = data.sel(cell="tanh", norm="frobenius")
half = STEPS // 2
slope = (tanh.log_norm.isel(lag=-1) - tanh.log_norm.sel(lag=half)) / (STEPS - half)
for scale in (0.8, 1.0, 1.5, 2.0):
    law = gh.theory.mean_field("tanh", scale)
    print(f"g = {scale:g}: measured {slope.sel(weight_scale=scale).median().item():+.3f}, theory {float(law.log_growth):+.3f} per step")
