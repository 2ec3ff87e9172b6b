"""How many networks are computed together: in one compiled block, and side by side in a processor's vector lanes.

These depend only on a network's own settings and on the backend, never on how many networks or devices there are.
"""

import os


def block_size(n: int, steps: int, *, precision: str = "float32", backend: str = "cpu") -> int:
    """The number of networks in one compiled block, chosen so that their matrices stay in the cache.

    It depends only on the network's own settings and the backend, never on the number of networks, devices or bytes,
    so that a network's last digits do not depend on the rest of the sweep. Measured for float32 on a CPU with 1 MiB of
    cache per core; float64 takes half as many. Products of more than 2¹⁵ entries are split over the threads of all
    cores, which then wait for each other: a third slower at N = 16, 64 and 100. Beyond 1000 steps blocks shrink, down
    to 8 networks, because trajectories take memory and most such runs have only a few networks.
    """
    if backend != "cpu":  # an accelerator needs large batches: about 64 MiB of state matrices
        return max(1, min(4096, 2**24 // (n * n)))
    size = 2 ** (min(256, max(1, 2**15 // (n * n))).bit_length() - 1)
    if precision == "float64":
        size = max(1, size // 2)
    while size > 8 and size * steps > 256_000:
        size //= 2
    return size


def training_block(n: int, steps: int, batch_size: int, *, precision: str = "float32", backend: str = "cpu") -> int:
    """The number of networks that one compiled block trains, chosen so that the states of a batch stay in the cache.

    Like `block_size`, it depends only on the network's own settings and the backend. Measured for float32 on a CPU with
    1 MiB of second-level cache per core: 4 networks of 50 units at 100 steps of 20 sequences; blocks of 16 take half as
    long again. Never more than 4 on a CPU, where jobs of a few networks would spend their time on padding.
    """
    states = n * steps * batch_size * (2 if precision == "float64" else 1)
    sizes, most = ((4, 2), 400_000) if backend == "cpu" else ((256, 64, 16, 4), 2**28)
    return next((size for size in sizes if size * states <= most), 1)


def batch_last_width(n: float, block: int, *, precision: str = "float32", backend: str = "cpu") -> int:
    """The number of networks of a block that share the processor's vector lanes (see `batch_last_vmap`); 1: no sharing.

    Chosen so that their matrices stay in the first-level cache. Measured for float32 on a CPU with 512-bit lanes and 32
    KiB of that cache: 2 to 3 times as fast as one by one at N = 3 to 14, 1.7 times at 16, 1.3 times at 24 and no faster
    from 28 on; float64 gains nothing. The environment variable GRADIENT_HORIZON_LANES=0 turns it off; results then
    differ in their last digits.
    """
    if backend != "cpu" or precision != "float32" or os.environ.get("GRADIENT_HORIZON_LANES") == "0":
        return 1
    width = next((width for largest, width in ((4, 256), (12, 64), (14, 32), (24, 16)) if n <= largest), 1)
    return min(width, block)
