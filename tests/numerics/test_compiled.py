"""A call outside `jax.jit` is compiled once, and again for whatever its functions read that is no longer the same."""

import functools
import os
import sys
import threading
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import programs

import gradient_horizon as gh
from gradient_horizon.cells import VanillaCell
from gradient_horizon.measures.trajectory import rollout

GAINS = (0.5, 1.0, 2.0, 1.0, -0.0, 0.0)
START = jnp.ones(2, jnp.float32)

gain = 1.0
table: dict[str, Any] = {"gains": [1.0]}
settings: Any = types.ModuleType("settings_of_a_user")
settings.gain = settings.other = 1.0
sys.modules["settings_of_a_user"] = settings


def states(step, params=None):
    return rollout(step, params, START, steps=3).states


def helped(h):
    return gain * h


class Scaled:
    """A user's object: an attribute of its own, one of its class, and a method that reads both."""

    common = 1.0

    def __init__(self, own=1.0):
        self.own = own

    def step(self, params, h, x):
        return self.own * self.common * h

    def __call__(self, params, h, x):
        return self.step(params, h, x)


class Slotted:
    __slots__ = ("own",)

    def __init__(self, own):
        self.own = own


def by_global():
    def step(params, h, x):
        return gain * h

    def change(value):
        globals()["gain"] = value

    return step, change


def by_helper():
    return (lambda params, h, x: helped(h)), by_global()[1]


def by_inner_function():
    def step(params, h, x):
        def inner():
            return gain

        return inner() * h

    return step, by_global()[1]


def by_container():
    def change(value):
        table["gains"][0] = value

    return (lambda params, h, x: table["gains"][0] * h), change


def by_module():
    def change(value):
        settings.gain = value

    return (lambda params, h, x: settings.gain * h), change


def by_import():
    def step(params, h, x):
        from settings_of_a_user import gain  # pyright: ignore[reportMissingImports]

        return gain * h

    return step, by_module()[1]


def by_two_functions_of_one_module():
    def own():
        return settings.other

    def change(value):
        settings.other = value

    return (lambda params, h, x: settings.gain * own() * h), change


def by_getattr():
    return (lambda params, h, x: getattr(settings, "ga" + "in") * h), by_module()[1]


def by_globals():
    return (lambda params, h, x: globals()["gain"] * h), by_global()[1]


def by_environment():
    def change(value):
        os.environ["GAIN_OF_A_TEST"] = str(value)

    change(1.0)
    return (lambda params, h, x: float(os.environ["GAIN_OF_A_TEST"]) * h), change


def by_closure():
    own = 1.0

    def change(value):
        nonlocal own
        own = value

    return (lambda params, h, x: own * h), change


def by_numpy():
    own = np.ones(2, np.float32)

    def change(value):
        own[:] = value

    return (lambda params, h, x: own * h), change


def by_default():
    def step(params, h, x, own=1.0):
        return own * h

    def change(value):
        step.__defaults__ = (value,)

    return step, change


def by_attribute_of_function():
    def step(params, h, x):
        return table["function"].own * h

    def change(value):
        vars(step)["own"] = value
        table["function"] = step

    return step, change


def by_attribute():
    scaled = Scaled()
    return scaled.step, functools.partial(setattr, scaled, "own")


def by_called_object():
    scaled = Scaled()
    return scaled, functools.partial(setattr, scaled, "own")


def by_slot():
    slotted = Slotted(1.0)
    return (lambda params, h, x: slotted.own * h), functools.partial(setattr, slotted, "own")


def by_class():
    return Scaled().step, functools.partial(setattr, Scaled, "common")


def by_decorated():
    step, change = by_closure()

    @functools.wraps(step)
    def wrapped(*args):
        return step(*args)

    return wrapped, change


def by_custom_rule():
    own = 1.0

    def change(value):
        nonlocal own
        own = value

    @jax.custom_jvp
    def scaled(h):
        return own * h

    scaled.defjvps(lambda tangent, out, h: own * tangent)
    return (lambda params, h, x: scaled(h)), change


@jax.tree_util.register_static
class Static:
    """An argument that JAX compares by identity."""

    def __init__(self, own):
        self.own = own


def test_a_static_argument_that_has_changed_is_read_again():
    static = Static(1.0)
    for value in GAINS:
        static.own = value
        assert states(lambda params, h, x: params.own * h, static)[1, 0] == np.float32(value)


READERS = (
    *(by_global, by_helper, by_inner_function, by_container, by_module, by_import, by_two_functions_of_one_module),
    *(by_getattr, by_globals, by_environment, by_closure, by_numpy, by_default),
    *(by_attribute_of_function, by_attribute, by_called_object, by_slot, by_class, by_decorated, by_custom_rule),
)


@pytest.mark.parametrize("reader", READERS)
def test_what_a_step_reads_is_read_again(reader):
    step, change = reader()
    try:
        for value in GAINS:
            change(value)
            right = np.float32(value) ** np.arange(4)
            np.testing.assert_array_equal(states(step)[:, 0], right, err_msg=str(value))
            # the Jacobian too, whose powers have another sign of zero at most
            logs = gh.log_jacobian_norms(step, None, START, steps=3)["frobenius"]
            with np.errstate(divide="ignore"):
                expected = np.log(np.abs(right[1:]) * np.sqrt(2.0))
            np.testing.assert_allclose(logs, expected, rtol=1e-6)
    finally:
        change(1.0)


def test_a_partial_of_other_values():
    def step(own, params, h, x):
        return own * h

    for value in GAINS:
        for own in (value, np.float32(value), jnp.float32(value), np.full(2, value, np.float32)):
            np.testing.assert_array_equal(states(functools.partial(step, own))[1, 0], np.float32(value))


def test_jitted_steps_that_wrap_one_function_are_told_apart():
    def inner(params, h, x):
        return h

    def times(own):
        @jax.jit
        @functools.wraps(inner)
        def step(*args):
            return own * inner(*args)

        return step

    assert [float(states(times(own))[1, 0]) for own in (2.0, 3.0, 2.0)] == [2.0, 3.0, 2.0]


MEASURES = {
    "rollout": rollout,
    "norms": gh.log_jacobian_norms,
    "reference": functools.partial(gh.log_jacobian_norms, method="jacrev"),
    "pairs": gh.log_jacobian_norms_all_pairs,
    "singular values": gh.log_singular_values,
    "exponents": gh.lyapunov_exponents,
    "largest exponent": functools.partial(gh.lyapunov_exponents, count=1),
}


@pytest.mark.parametrize("name", MEASURES)
def test_the_second_call_compiles_nothing(name):
    cell = gh.make_cell("tanh", 3, 2)
    xs = jnp.ones((4, 2), jnp.float32)

    def call(seed):
        params = cell.init(jax.random.key(seed))
        step = gh.make_cell("tanh", 3, 2).step  # another cell, equal to the first
        return jax.block_until_ready(MEASURES[name](step, params, jnp.zeros(3, jnp.float32), xs))

    assert programs(lambda: call(0)) > 0
    assert programs(lambda: call(1)) == 0


def test_functions_that_are_alike_share_a_program():
    gains = [jnp.float32(value) for value in (1, 2, 3)]
    made = [lambda params, h, x: params * h * 2 for _ in gains]
    assert programs(lambda: states(made[0], gains[0])) > 0
    assert programs(lambda: [states(step, own) for step, own in zip(made, gains, strict=True)]) == 0
    twice = [functools.partial(lambda own, params, h, x: own * params * h, 2.0) for _ in gains]
    states(twice[0], gains[0])
    assert programs(lambda: [states(step, own) for step, own in zip(twice, gains, strict=True)]) == 0


def test_what_cannot_be_compared_is_traced_anew():
    numbers = iter(range(1, 10))  # nobody can look into it
    found = [float(states(lambda params, h, x: next(numbers) * h)[1, 0]) for _ in range(3)]
    assert found[0] < found[1] < found[2]


def test_a_step_may_look_at_the_values_of_its_parameters():
    def step(params, h, x):
        return h if float(params["sign"]) > 0 else -h

    assert states(step, {"sign": jnp.float32(1)})[1, 0] == 1
    assert states(step, {"sign": jnp.float32(-1)})[1, 0] == -1
    assert states(step, {"sign": -1})[1, 0] == -1
    assert states(lambda params, h, x: h * np.asarray(params).max(), jnp.float32(3))[1, 0] == 3


def test_an_error_comes_at_every_call():
    for _ in range(2):
        with pytest.raises(ValueError, match="step: returns a state of"):
            states(lambda params, h, x: h[:1])


def test_the_step_of_the_call_is_traced():
    """Not the one whose program is kept, which may have changed since."""
    first, second = Scaled(2.0), Scaled(2.0)
    assert states(first.step)[1, 0] == 2
    first.own = 5.0
    wide = jnp.ones(3, jnp.float32)  # another shape: traced again
    assert rollout(second.step, None, wide, steps=1).states[1, 0] == 2


def test_transformations_go_through():
    def first(own):
        return gh.log_jacobian_norms(lambda params, h, x: params * h, own, START, steps=2)["frobenius"][0]

    own = jnp.float32(2)
    np.testing.assert_allclose(jax.grad(first)(own), 0.5, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(first)(own[None]), jax.jit(first)(own), rtol=1e-6)

    def closed(own):  # a traced value that only the step holds
        return gh.log_jacobian_norms(lambda params, h, x: own * h, None, START, steps=2)["frobenius"][0]

    np.testing.assert_allclose(jax.grad(closed)(own), 0.5, rtol=1e-6)


def test_many_threads():
    found = {}

    def work(value):
        found[value] = [float(states(Scaled(float(value)).step)[1, 0]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {value: [value] * 5 for value in range(8)}


def test_a_cell_is_static():
    cell = gh.make_cell("tanh", 2, 0)
    assert isinstance(cell, VanillaCell)
    params = cell.init(jax.random.key(0))
    jitted = jax.jit(lambda cell, params, h: cell.step(params, h, None))
    np.testing.assert_allclose(jitted(cell, params, START), cell.step(params, START, None), rtol=1e-6)
    batch = jax.tree.map(lambda leaf: leaf[None], params)
    assert jax.vmap(jitted, in_axes=(None, 0, None))(cell, batch, START).shape == (1, 2)
