"""Published initialisations: each fixes the cell, the ensemble of W, its scale, and the other weights.

| name | cell | W | input and output weights | source |
|---|---|---|---|---|
| `sigmoid` | sigmoid | entries N(0, 0.01²) | N(0, 0.01²) | Pascanu, Mikolov, Bengio 2013, section 4.1.1, and its code |
| `basic_tanh` | tanh | entries N(0, 0.1²) | N(0, 0.1²) | the same |
| `smart_tanh` | tanh | 15 Gaussian entries per row, spectral radius 0.95 | N(0, 0.01²) | the same |
| `irnn` | relu | the identity | N(0, 0.001²) | Le, Jaitly, Hinton 2015, section 3 |

All biases are 0; the weight scale multiplies W once more, so that 1 gives the published initialisation. The paper of
the first three writes N(0, 0.01), but its code uses 0.01 as the standard deviation, as is done here. In the paper the
15 entries are the incoming weights of a unit, in its code the outgoing ones (`sparse_outgoing`). This module does not
import JAX.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Initialisation:
    """The cell, the allowed ensembles of W (its own first), the factor on W⁰, and the std of the other weights."""

    cell: str
    weights: tuple[str, ...]
    gain: float
    std: float


PUBLISHED = {
    "sigmoid": Initialisation("sigmoid", ("unit_normal",), 0.01, 0.01),
    "basic_tanh": Initialisation("tanh", ("unit_normal",), 0.1, 0.1),
    "smart_tanh": Initialisation("tanh", ("sparse", "sparse_outgoing"), 0.95, 0.01),
    "irnn": Initialisation("relu", ("identity",), 1.0, 0.001),
}
