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
        "seeds=16",
        "hidden_size=32",
        "steps=100",
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
# is censored.

# %%
around = data.sel(weight_scale=[0.5, 1.0, 1.2, 1.4, 2.0])
print(around.horizon.median("seed").to_pandas(), end="\n\n")
for kind in ("vanished", "beyond", "exploded"):
    share = (around.horizon_kind == kind).mean("seed")
    print(f"share of networks: {kind}", share.to_pandas(), sep="\n", end="\n\n")
