#!/bin/sh
# Where a bfloat16 recurrent state is recorded in float32 inside a jitted scan, the record is not the state.
#
# Guess, before it was run: h.astype(float32) of a bfloat16 h is exact, so that what a scan records of a bfloat16
# network are the states that it carries, whatever surrounds them; jitted or not.
# Seen (jax 0.10.2 on an x86-64 CPU): outside jit that is so. Inside jit no recorded number is a bfloat16 number: XLA
# computes tanh in float32 and leaves out the rounding to bfloat16 in front of the cast. Rounded, the records are the
# states; a Jacobian taken at the record as it is, is taken beside the trajectory. lax.reduce_precision in front of the
# record makes it the state again.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
from jax import lax

print("jax", jax.__version__)
weight, start = jnp.bfloat16(0.9), jnp.bfloat16(0.7)


def states(record):
    def step(h, _):
        h = jnp.tanh(weight * h)
        return h, (h, record(h))

    return lambda: lax.scan(step, start, None, length=8)[1]


def cast(h):
    return h.astype(jnp.float32)


def rounded(h):
    return lax.reduce_precision(cast(h), exponent_bits=8, mantissa_bits=7)


with jax.disable_jit():
    carried, recorded = states(cast)()
outside = int((cast(carried) == recorded).sum())
carried, recorded = jax.jit(states(cast))()
inside = int((cast(carried) == recorded).sum())
after_rounding = int((carried == recorded.astype(jnp.bfloat16)).sum())
carried, recorded = jax.jit(states(rounded))()
reduced = int((cast(carried) == recorded).sum())
print(f"of 8 records those that are the state: outside jit {outside}, inside jit {inside}, "
      f"rounded afterwards {after_rounding}, with reduce_precision {reduced}")
assert (outside, inside, after_rounding, reduced) == (8, 0, 8, 8), "this has changed"
PYTHON
