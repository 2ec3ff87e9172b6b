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
# At which weight scale does the gradient of a recurrent network neither vanish nor explode? A small sweep of tanh and
# ReLU networks answers this, with every number selected by its labels.
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
# `gh.run` takes the arguments that follow `gradient-horizon run -m` on the command line, and runs them in a process of
# its own. When everything has been computed already, it only loads the result.

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
# ## The dataset
#
# `gh.load` returns the same dataset later: all finished jobs of the folder, joined. The swept setting `cell` is a
# dimension, alongside those of each job. Every variable carries a description and its units.

# %%
data = gh.load("results/reading")
print(data)
for name, variable in data.data_vars.items():
    print(f"{name}: {variable.attrs['long_name']} [{variable.attrs['units']}]")

# %% [markdown]
# ## The figures
#
# These functions also draw the figures that `gradient-horizon run` saves, here as PDF and PNG in `results/reading`.

# %%
figures.norm_against_lag(data)

# %%
figures.horizon_against_scale(data)

# %% [markdown]
# ## The question
#
# A product that passes every gradient unchanged has the Frobenius norm √n, so over T steps the log of the gradient
# grows by log ‖∂h_T/∂h_0‖_F − ½ log n. The gradient neither vanishes nor explodes at the weight scale at which the
# median of this growth over seeds is closest to zero. (`neutral g` in the table that `run` prints is the same,
# interpolated between weight scales.)

# %%
growth = data.log_norm.sel(norm="frobenius", lag=data.lag[-1]).median("seed") - 0.5 * np.log(data.state_size)
neutral = abs(growth).idxmin("weight_scale")
for cell in data.cell.values:
    print(f"{cell}: g = {neutral.sel(cell=cell).item():.1f}")

# %% [markdown]
# How far back the gradient reaches below, at and above that scale, and whether it then vanishes or explodes. A horizon
# beyond T is censored and recorded as T + 1. The median is therefore the horizon of one network (the lower of the
# middle two), together with its kind.

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
# ## Comparison with theory
#
# For tanh networks without input, mean-field theory (`gh.theory.mean_field`) gives the growth per step in the limit of
# many units: ½ log χ, which is negative below the edge of chaos at g = 1 and positive above it. The measured slope over
# the second half of the lags, median over seeds, also contains the effect of the finite size.

# %%
tanh = data.sel(cell="tanh", norm="frobenius")
half = STEPS // 2
slope = (tanh.log_norm.isel(lag=-1) - tanh.log_norm.sel(lag=half)) / (STEPS - half)
for scale in (0.8, 1.0, 1.5, 2.0):
    law = gh.theory.mean_field("tanh", scale)
    print(f"g = {scale:g}: measured {slope.sel(weight_scale=scale).median().item():+.3f}, theory {float(law.log_growth):+.3f} per step")
