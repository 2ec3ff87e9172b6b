"""All singular values of a product of step Jacobians, in logs, whatever its condition number.

A formed product holds σ_i to eps σ_1 only: beyond a condition number of 1/eps its small singular values are noise.
Here the product is never formed as one matrix of numbers:

1. Backwards, pulling an orthogonal matrix through the transposes with a QR at each step, which aligns Q_0 with
   the right singular vectors (one half of an orthogonal iteration).
2. Forwards, J_t Q_{t-1} = Q_t R_t by a QR with sorted rows, accumulating R_T ... R_1 = diag(2^e) X with
   a whole exponent a row: graded, X well conditioned.
3. One-sided Jacobi on the rows of diag(2^e) X, the exponents kept apart. What the alignment left undone (clusters,
   neighbours that have not separated) is done here to the last digit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gradient_horizon import linalg
from gradient_horizon.arrays import PyTree, Step
from gradient_horizon.randomness import fixed_orthogonal
from gradient_horizon.rollout import Trajectory, ever, flatten_step, pull, push, rollout, sequence_length
from gradient_horizon.scaling import normalise, power_of_two

_LOG_2 = 0.6931471805599453
_ZERO = -(2**30)  # the exponent of a row of zeros
_SWEEPS = 40  # some 5 to 8 are needed


class Graded(NamedTuple):
    """diag(2^`exponents`) `rows`, the largest entry of each row in [1, 2), or the row zero and its exponent `_ZERO`."""

    rows: Array
    exponents: Array


def _power(exponent: Int[Array, "..."], dtype) -> Float[Array, "..."]:
    """2^`exponent`, with 0 for what is too small to be told from it; the exponent at most some tens."""
    lowest = int(jnp.finfo(dtype).minexp)
    power = jnp.vectorize(lambda e: power_of_two(e, dtype))(jnp.maximum(exponent, lowest))
    return jnp.where(exponent < lowest, 0, power)


def _regrade(rows: Float[Array, "m n"], exponents: Int[Array, " m"]) -> Graded:
    scaled, gained = jax.vmap(normalise)(rows)
    zero = jnp.all(rows == 0, axis=1)
    return Graded(scaled, jnp.where(zero, _ZERO, exponents + gained))


def graded_product(left: Float[Array, "n n"], right: Graded) -> Graded:
    """`left` times a graded matrix, each entry's own exponent taken into account: nothing over- or underflows."""
    mantissa, exponent = jax.vmap(jax.vmap(normalise))(left)
    total = exponent + right.exponents[None, :]
    total = jnp.where((left == 0) | (right.exponents == _ZERO)[None, :], _ZERO, total)
    largest = jnp.max(total, axis=1)
    terms = mantissa * _power(total - largest[:, None], left.dtype)
    rows = jnp.where((largest == _ZERO)[:, None], 0, jnp.matmul(terms, right.rows, precision="highest"))
    return _regrade(rows, largest)


def _tournament(n: int) -> np.ndarray:
    """Rounds of disjoint pairs of 0 .. n - 1 (n even) that meet every pair once: (n - 1, 2, n / 2)."""
    circle = list(range(1, n))
    rounds = []
    for _ in range(n - 1):
        players = [0, *circle]
        rounds.append([players[: n // 2], players[: n // 2 - 1 : -1]])
        circle = [circle[-1], *circle[:-1]]
    return np.array(rounds, np.int32)


def _rotate(graded: Graded, pairs: Int[Array, "2 m"]) -> tuple[Graded, Float[Array, ""]]:
    """The rows of each pair made orthogonal; and the largest |cosine| between two before."""
    dtype = graded.rows.dtype
    rows, exponents = graded.rows[pairs], graded.exponents[pairs]
    squares = jnp.sum(rows * rows, axis=2)
    size = exponents.astype(dtype) + 0.5 * jnp.log2(squares)  # -inf for a zero row
    swap = size[0] < size[1]
    first, second = jnp.where(swap, pairs[1], pairs[0]), jnp.where(swap, pairs[0], pairs[1])
    x, y = graded.rows[first], graded.rows[second]  # 2^e x is the longer row, 2^f y the shorter one
    e, f = graded.exponents[first], graded.exponents[second]
    a, b, inner = jnp.sum(x * x, axis=1), jnp.sum(y * y, axis=1), jnp.sum(x * y, axis=1)
    ratio = _power(f - e, dtype)
    gap = jnp.maximum(a - ratio * ratio * b, 0)
    root = gap + jnp.sqrt(gap * gap + 4 * ratio * ratio * inner * inner)
    # tan θ / ratio: finite where the ratio underflows, when it is Gram and Schmidt's coefficient
    slope = jnp.where(inner == 0, 0, 2 * inner / jnp.where(inner == 0, 1, root))
    tangent = ratio * slope
    cosine = (1 / jnp.sqrt(1 + tangent * tangent))[:, None]
    longer = _regrade(cosine * (x + (ratio * tangent)[:, None] * y), e)
    shorter = _regrade(cosine * (y - slope[:, None] * x), f)
    rows = graded.rows.at[first].set(longer.rows).at[second].set(shorter.rows)
    exponents = graded.exponents.at[first].set(longer.exponents).at[second].set(shorter.exponents)
    scale = jnp.sqrt(a) * jnp.sqrt(b)
    angle = jnp.max(jnp.where(scale > 0, jnp.abs(inner) / jnp.where(scale > 0, scale, 1), 0))
    return Graded(rows, exponents), angle


def graded_log_singular_values(graded: Graded) -> Float[Array, " n"]:
    """Log singular values of diag(2^e) X, descending, by one-sided Jacobi on its rows (Demmel and Veselić 1992).

    Each σ_i has a relative error of some eps κ(X), whatever e. -inf for exact zeros.
    """
    n, columns = graded.rows.shape
    dtype = graded.rows.dtype
    if n % 2:
        rows = jnp.concatenate([graded.rows, jnp.zeros((1, columns), dtype)])
        graded = Graded(rows, jnp.concatenate([graded.exponents, jnp.full(1, _ZERO, graded.exponents.dtype)]))
    rounds = jnp.asarray(_tournament(n + n % 2))
    # rows are orthogonal as far as their inner products can be told from 0
    tolerance = float(jnp.finfo(dtype).eps) * max(columns, 4)

    def sweep(carry):
        graded, _, count = carry
        graded, angles = lax.scan(_rotate, graded, rounds)
        return graded, jnp.max(angles), count + 1

    start = (graded, jnp.ones((), dtype), jnp.zeros((), jnp.int32))
    (rows, exponents), _, _ = lax.while_loop(lambda c: (c[1] > tolerance) & (c[2] < _SWEEPS), sweep, start)
    norms = jnp.sqrt(jnp.sum(rows * rows, axis=1))
    logs = jnp.log(norms) + jnp.where(norms > 0, exponents, 0).astype(dtype) * jnp.asarray(_LOG_2, dtype)
    return -jnp.sort(-logs)[:n]


def log_singular_values(
    step: Step, params: PyTree, h0: PyTree, xs: PyTree = None, *, steps: int | None = None
) -> Float[Array, " n"]:
    """Natural logs of all n singular values of ∂h_T/∂h_0 = J_T ... J_1, descending, for any one-step map.

    **Arguments:**

    - `step`: `step(params, h, x) -> h`; the state may be any pytree of one floating dtype, n entries in all.
    - `xs`: a pytree with leading axis T, or None with `steps` = T.

    **Returns:** (n,), in the state's dtype; -inf where a singular value is exactly zero (dead ReLU units), NaN
    throughout where a state is not finite. A factor that is singular to rounding only gives a value at rounding level.

    **Algorithm:** a product QR along an orthogonal iteration's aligned start, then one-sided Jacobi on the graded
    triangular product (see the module's text; Stewart 1995 and Demmel and Veselić 1992 for the two halves).

    **Accuracy:** the singular values are those of factors J_t (I + E_t), ‖E_t‖ of some n eps κ(J_t), κ(J_t) the
    condition number of one factor after its rows are scaled to equal norms: log σ_i is off by about that,
    summed over the steps, independently of the condition number of the product.

    **Raises:** `ValueError` for a wrong length or a step that changes its state's shape or dtype.
    """
    length = sequence_length(xs, steps)
    return log_singular_values_at_lags(step, params, h0, xs, steps=length, lags=(length,))[0]


def log_singular_values_at_lags(
    step: Step,
    params: PyTree,
    h0: PyTree,
    xs: PyTree = None,
    *,
    lags: Sequence[int],
    steps: int | None = None,
    trajectory: Trajectory | None = None,
) -> Float[Array, "lags n"]:
    """Natural logs of all n singular values of ∂h_T/∂h_{T-τ} at each lag τ: `log_singular_values` of the last τ steps.

    The way back from T aligns the starts of all lags at once; each lag has its own way forward. So the work grows with
    T and the sum of the lags.

    **Arguments:** those of `log_singular_values`, and

    - `lags`: whole numbers from 1 to T, ascending.
    - `trajectory`: what `rollout` gave for these, where it is at hand (with `rescale`, say); None: it is computed.

    **Returns:** (number of lags, n), in the state's dtype; -inf where a singular value is exactly zero, NaN at every
    lag whose product touches a state that is not finite.

    **Raises:** `ValueError` as `log_singular_values`, and for other lags.
    """
    length = sequence_length(xs, steps)
    if not lags or list(lags) != sorted(set(lags)) or lags[0] < 1 or lags[-1] > length:
        raise ValueError(f"lags: {list(lags)}; allowed: whole numbers from 1 to T = {length}, ascending")
    flat_step, start = flatten_step(step, h0)
    trajectory = rollout(step, params, h0, xs, steps=steps) if trajectory is None else trajectory
    n, dtype = start.size, start.dtype
    window = jax.tree.map(jnp.asarray, (trajectory.states[:-1], xs))
    identity = Graded(jnp.eye(n, dtype=dtype), jnp.zeros(n, jnp.int32))

    def at(time):
        return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, time, keepdims=False), window)

    def align(back, rows):
        h, x = at(length - 1 - back)
        q, _ = linalg.qr(pull(flat_step, params, h, x, rows).T)
        return q.T

    def advance(time, carry):
        basis, product = carry
        h, x = at(time)
        basis, r = linalg.graded_qr(push(flat_step, params, h, x, basis))
        return basis, graded_product(jnp.triu(r), product)

    def measure(rows, stretch):
        shorter, lag = stretch
        rows = lax.fori_loop(shorter, lag, align, rows)
        _, product = lax.fori_loop(length - lag, length, advance, (rows.T, identity))
        return rows, graded_log_singular_values(product)

    whole = np.asarray(lags, np.int32)
    stretches = (np.concatenate([np.zeros(1, np.int32), whole[:-1]]), whole)
    _, logs = lax.scan(measure, jnp.asarray(fixed_orthogonal(n), dtype), stretches)
    touches_bad = ever(~trajectory.finite[::-1])[whole]
    return jnp.where(touches_bad[:, None], jnp.nan, logs)
