"""Split a pytree into its structure, for which a program is compiled, and its numeric leaves, which are an argument.

A setting that is a leaf (a scale, a rate) may thus differ between jobs: all its values share a program.
"""

from typing import Any, TypeAlias

import jax
import numpy as np

Structure: TypeAlias = Any  # the pytree without its leaves; hashable


def parted(tree: Any) -> tuple[Structure, np.ndarray]:
    """Split `tree`, whose leaves are numbers, into its structure and a float64 vector of the leaves."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, np.array(leaves, np.float64)


def joined(structure: Structure, numbers: Any) -> Any:
    """Rebuild the tree from its structure and a vector, which may be traced."""
    return jax.tree.unflatten(structure, [numbers[place] for place in range(structure.num_leaves)])
