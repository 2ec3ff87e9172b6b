"""What a compiled program is made for, apart from the numbers that it takes as an argument.

A setting that is a leaf of a pytree (a scale, a rate) may then differ from job to job: all its values share a program.
"""

from typing import Any, TypeAlias

import jax
import numpy as np

Structure: TypeAlias = Any  # the pytree without its leaves; hashable


def parted(tree: Any) -> tuple[Structure, np.ndarray]:
    """`tree`, whose leaves are numbers, as its structure and a vector of them in float64."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, np.array(leaves, np.float64)


def joined(structure: Structure, numbers: Any) -> Any:
    """The tree again, of a vector that may be traced."""
    return jax.tree.unflatten(structure, [numbers[place] for place in range(structure.num_leaves)])
