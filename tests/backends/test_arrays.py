"""The caller's arrays: what both backends make of them, and that no one reaches another's memory.

Every test runs on both backends. A wrong value is refused by both in the same words.
"""

import copy
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from gradient_checks import random_params
from tiny_recipes import TINY_MOONS, TINY_SHAPES

from npdiff.backends import load_backend
from npdiff.models import MODELS, convnet, mlp, model_name, unet
from npdiff.samplers import SAMPLERS
from npdiff.sampling import Sampling, sample
from npdiff.training import Batch, new_denoiser, train

CONFIGS = {
    "mlp": mlp.SMALL,
    "convnet": convnet.Config(size=4, features=3, time_dim=4, classes=2),
    "unet": unet.SMALL,
}
BACKENDS = pytest.mark.parametrize("name", ["numpy", "torch"])
NETWORKS = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def denoiser_on(name, config, dtype="float32"):
    """-> backend, a denoiser with parameters that are the same on both backends."""
    backend = load_backend(name, dtype=dtype)
    return backend, backend.make_denoiser(config, random_params(config, np.random.default_rng(0)))


def bytes_of(state):
    """The bytes of every array of a state, by name."""
    return {name: array.tobytes() for name, array in state.items()}


def refusals(call):
    """What each backend says when call(backend, its denoiser of an MLP or U-Net) is refused: a set."""
    words = set()
    for name in ("numpy", "torch"):
        for config in (mlp.SMALL, unet.SMALL):
            with pytest.raises(ValueError) as refused:
                call(*denoiser_on(name, config))
            words.add(str(refused.value))
    return words


class Seven:
    """An integer of some other library."""

    def __index__(self):
        return 7


INTS = [7, np.int8(7), np.uint8(7), np.int64(7), np.uint64(7), np.array(7), np.array(7, ">i2"), Seven()]
MANY = [
    [3, 7, 7],
    (3, 7, 7),
    np.array([3, 7, 7], np.int8),
    np.array([3, 7, 7], np.uint8),
    np.array([3, 7, 7], np.uint16),
    np.array([3, 7, 7], np.uint64),
    np.array([3, 7, 7], ">i4"),
    np.array([7, 7, 3])[::-1],
    np.array([3, 0, 7, 0, 7])[::2],
    [3, Seven(), Seven()],
]


@BACKENDS
@NETWORKS
def test_integers_of_any_kind_are_the_same_timesteps(name, config):
    backend, denoiser = denoiser_on(name, config)
    x = backend.asarray(np.random.default_rng(1).standard_normal((3, *config.data_shape)))

    def answer(t):
        return backend.to_numpy(denoiser.predict(x, t)).tobytes()

    assert {answer(t) for t in INTS} == {answer(np.full(3, 7))}
    assert {answer(t) for t in MANY} == {answer(np.array([3, 7, 7]))} != {answer(7)}
    target = backend.asarray(np.zeros((3, *config.data_shape)))
    losses = {denoiser.loss_and_grads(Batch(1, x, t, target))[0] for t in MANY}
    assert losses == {denoiser.loss_and_grads(Batch(1, x, np.array([3, 7, 7]), target))[0]}
    assert all(len(denoiser.operations(x, t)) > 5 for t in (*INTS, *MANY))
    if len(config.data_shape) == 1:
        for t in (*INTS, *MANY):
            denoiser.divergence(x, t)


@pytest.mark.parametrize("t, message", [
    (7.0, r"t has shape \(\) and dtype float64; it must be an int or \(3,\) integers in 1..T"),
    (np.array([1.0, 2.0, 3.0]), r"t has shape \(3,\) and dtype float64"),
    (True, r"t has shape \(\) and dtype bool"),
    (np.ones(3, bool), r"t has shape \(3,\) and dtype bool"),
    ("7", r"t has shape \(\) and dtype <U1"),
    (None, r"t has shape \(\) and dtype object"),
    ([1, 2], r"t has shape \(2,\) and dtype int64"),
    (np.ones((3, 1), int), r"t has shape \(3, 1\) and dtype int64"),
    (0, "t is 0; timesteps are integers from 1 on"),
    (np.array([1, -2, 3]), "t is -2; timesteps are integers from 1 on"),
    (np.array([1, 0, 3], np.uint8), "t is 0; timesteps are integers from 1 on"),
    (2**63, "t is 9223372036854775808; timesteps"),
])
def test_other_timesteps_are_refused_in_the_same_words(t, message):
    def inputs(backend, denoiser):
        return backend.asarray(np.ones((3, *denoiser.config.data_shape)))

    for ask in (
        lambda backend, denoiser: denoiser.predict(inputs(backend, denoiser), t),
        lambda backend, denoiser: denoiser.operations(inputs(backend, denoiser), t),
        lambda backend, denoiser: denoiser.loss_and_grads(
            Batch(1, inputs(backend, denoiser), t, inputs(backend, denoiser))),
    ):
        (words,) = refusals(ask)
        assert re.match(message, words)


@BACKENDS
def test_labels_of_any_width_are_the_same(name):
    backend, denoiser = denoiser_on(name, unet.SMALL)
    x = backend.asarray(np.random.default_rng(1).standard_normal((3, *unet.SMALL.data_shape)))
    answers = {
        backend.to_numpy(denoiser.predict(x, 5, labels)).tobytes()
        for labels in (
            [0, 2, 1], np.array([0, 2, 1], np.uint8), np.array([0, 2, 1], ">i2"), np.array([1, 2, 0])[::-1],
            np.array([0, 2, 1], np.uint64), np.array([0, 9, 2, 9, 1])[::2],
        )
    }
    assert len(answers) == 1 and answers != {backend.to_numpy(denoiser.predict(x, 5)).tobytes()}


@pytest.mark.parametrize("labels", [[0.0, 1.0], [True, False], [0, 3], [-1, 0], [0], "ab", 1])
def test_other_labels_are_refused_in_the_same_words(labels):
    words = set()
    for name in ("numpy", "torch"):
        backend, denoiser = denoiser_on(name, unet.SMALL)
        with pytest.raises(ValueError, match="label") as refused:
            denoiser.predict(backend.asarray(np.zeros((2, *unet.SMALL.data_shape))), 5, labels)
        words.add(str(refused.value))
    assert len(words) == 1


AS_FLOATS = [
    ("integers", lambda x: x.round().astype(int)),
    ("short", lambda x: x.round().astype(np.int8)),
    ("unsigned", lambda x: abs(x).round().astype(np.uint8)),
    ("bools", lambda x: x > 0),
    ("float16", lambda x: x.astype(np.float16)),
    ("float64", lambda x: x),
    ("long double", lambda x: x.astype(np.longdouble) / 3),
    ("big-endian", lambda x: x.astype(">f8")),
    ("little-endian", lambda x: x.astype("<f4")),
    ("flipped", lambda x: x[..., ::-1]),
    ("backwards", lambda x: x[::-1]),
    ("every other", lambda x: np.repeat(x, 2, axis=0)[::2]),
    ("transposed", lambda x: np.asfortranarray(x)),
    ("one for all", lambda x: np.broadcast_to(x[:1], x.shape)),
    ("lists", lambda x: x.tolist()),
]


@pytest.mark.slow
@pytest.mark.parametrize("change", [change for _, change in AS_FLOATS], ids=[name for name, _ in AS_FLOATS])
@NETWORKS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_array_of_numbers_is_taken_as_floats(change, config, dtype):
    """By asarray, and by predict, divergence, operations and loss_and_grads without it. The answers have the
    backend's dtype, and are those for the same numbers in a plain array of that dtype.
    """
    x = change(2 * np.random.default_rng(1).standard_normal((3, *config.data_shape)))
    plain, rounding = np.array(x, dtype, order="C"), 1e-4 if dtype == "float32" else 1e-12
    answers = []
    for name in ("numpy", "torch"):
        backend, denoiser = denoiser_on(name, config, dtype)
        made = backend.asarray(x)
        assert backend.to_numpy(made).dtype == dtype
        np.testing.assert_array_equal(backend.to_numpy(made), plain)
        for given in (x, made):
            right, y = (backend.to_numpy(denoiser.predict(array, 5)) for array in (plain, given))
            assert y.dtype == dtype
            np.testing.assert_allclose(y, right, rtol=rounding, atol=rounding)
            batch = Batch(1, given, [1, 2, 3], x, None, [1, 2, 3])
            loss, grads = denoiser.loss_and_grads(batch)
            plain_batch = Batch(1, plain, np.arange(1, 4), plain, None, np.array([1.0, 2.0, 3.0]))
            assert loss == pytest.approx(denoiser.loss_and_grads(plain_batch)[0], rel=rounding)
            assert {backend.to_numpy(g).dtype for g in grads.values()} == {np.dtype(dtype)}
            denoiser.operations(given, 5)
            if len(config.data_shape) == 1:
                denoiser.divergence(given, 5)
        answers.append(y)
    np.testing.assert_allclose(*answers, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("wrong, dtype", [
    (np.ones((3, 2), complex), "complex128"), (np.full((3, 2), "1"), "<U1"),
    (np.full((3, 2), None), "object")])
@pytest.mark.parametrize("ask", [
    lambda backend, denoiser, x: backend.asarray(x),
    lambda backend, denoiser, x: denoiser.predict(x, 1),
    lambda backend, denoiser, x: denoiser.divergence(x, 1),
    lambda backend, denoiser, x: denoiser.operations(x, 1),
    lambda backend, denoiser, x: denoiser.loss_and_grads(Batch(1, x, 1, np.ones((3, 2))))])
def test_what_is_not_a_number_is_refused_in_the_same_words(ask, wrong, dtype):
    words = refusals(lambda backend, denoiser: ask(backend, denoiser, wrong))
    assert words == {f"x has dtype {dtype}; it must hold floats or integers"}


def test_the_reference_takes_its_own_arrays_of_other_dtypes():
    torch = pytest.importorskip("torch")
    backend, denoiser = denoiser_on("torch", mlp.SMALL)
    x = torch.tensor([[0, 1], [2, -1]])
    right = denoiser.predict(backend.asarray(x.numpy()), 5)
    for dtype in (torch.int64, torch.int8, torch.float64, torch.bfloat16):
        assert torch.equal(denoiser.predict(x.to(dtype), 5), right)
        assert torch.equal(backend.asarray(x.to(dtype)), backend.asarray(x.numpy()))
    with pytest.raises(ValueError, match="x has dtype torch.complex64; it must hold floats or integers"):
        denoiser.predict(x.to(torch.complex64), 5)
    assert torch.equal(denoiser.predict(x.float().requires_grad_(), torch.tensor([5, 5])), right)


@BACKENDS
def test_a_read_only_array_is_taken_without_a_warning(name):
    backend, denoiser = denoiser_on(name, mlp.SMALL)
    x, t = np.ones((3, 2), np.float32), np.array([1, 2, 3])
    x.flags.writeable = t.flags.writeable = False
    answer = backend.to_numpy(denoiser.predict(x, t))
    np.testing.assert_array_equal(answer, backend.to_numpy(denoiser.predict(x.copy(), t.copy())))
    np.testing.assert_array_equal(backend.to_numpy(backend.asarray(x)), x)
    loss, _ = denoiser.loss_and_grads(Batch(1, x, t, x, None, np.broadcast_to(1.0, 3)))
    assert loss == denoiser.loss_and_grads(Batch(1, x.copy(), t.copy(), x.copy(), None, np.ones(3)))[0]


def changed(array):
    """The same numbers, big-endian, in long strides and backwards in memory."""
    return np.repeat(array, 2, axis=0)[::-2].astype(array.dtype.newbyteorder(">"))[::-1]


@NETWORKS
def test_parameters_states_and_gradients_in_any_layout(config):
    """Flipped, big-endian or of another width, on both backends: the numbers alone count."""
    rng = np.random.default_rng(0)
    params = random_params(config, rng)
    for name in ("numpy", "torch"):
        backend = load_backend(name, dtype="float64")
        plain = backend.make_denoiser(config, params, 0.9)
        other = backend.make_denoiser(config, {key: changed(array) for key, array in params.items()}, 0.9)
        assert bytes_of(other.export()) == bytes_of(plain.export())
        grads = {key: rng.standard_normal(array.shape) for key, array in params.items()}
        plain.update({key: backend.asarray(g) for key, g in grads.items()}, 0.1)
        other.update({key: changed(g) for key, g in grads.items()}, 0.1)
        assert bytes_of(other.export()) == bytes_of(plain.export())
        fresh = backend.make_denoiser(config, params, 0.9)
        state = plain.export()
        fresh.load({key: changed(a) if a.ndim else a.astype(">i2") for key, a in state.items()})
        assert bytes_of(fresh.export()) == bytes_of(state)


@BACKENDS
def test_no_array_that_crosses_the_seam_is_shared(name):
    """What went in or came out is overwritten. The denoiser and what it was given before do not change."""
    config = mlp.SMALL
    backend = load_backend(name)
    params = random_params(config, np.random.default_rng(0))
    params = {key: array.astype(np.float32) for key, array in params.items()}
    denoiser = backend.make_denoiser(config, params, 0.9)
    before = bytes_of(denoiser.export())
    x = np.random.default_rng(1).standard_normal((3, 2)).astype(np.float32)
    made, kept = backend.asarray(x), x.copy()
    seen = backend.to_numpy(made)
    seen += 1
    np.testing.assert_array_equal(backend.to_numpy(made), kept)
    x += 1
    np.testing.assert_array_equal(backend.to_numpy(made), kept)
    state = denoiser.export()
    for array in (*params.values(), *state.values()):
        array[...] = 0
    for array in denoiser.operations(made, 5).values():
        array[...] = 0
    y, trace = denoiser.divergence(made, 5)
    y[...] = trace[...] = 0
    denoiser.predict(made, 5)[...] = 0
    _, grads = denoiser.loss_and_grads(Batch(1, made, 5, made))
    for g in grads.values():
        g[...] = 0
    assert bytes_of(denoiser.export()) == before
    np.testing.assert_array_equal(backend.to_numpy(made), kept)
    _, grads = denoiser.loss_and_grads(Batch(1, made, 5, made))
    denoiser.update(grads, 0.1)
    state = denoiser.export()
    after = bytes_of(state)
    for g in grads.values():
        g[...] = 0
    assert bytes_of(denoiser.export()) == after
    denoiser.load(state)
    for array in state.values():
        array[...] = 0
    assert bytes_of(denoiser.export()) == after


@BACKENDS
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_frame_changed_in_place_does_not_change_the_chain(name, sampler):
    backend, sampling = load_backend(name), Sampling(sampler, steps=10, eta=0.5 if sampler == "ddim" else 0.0)
    denoiser = new_denoiser(backend, TINY_MOONS, 0)

    def chain():
        return sample(denoiser, backend, TINY_MOONS, 5, 0, sampling=sampling)

    right = [backend.to_numpy(x) for _, x in chain()]
    for (_, x), untouched in zip(chain(), right, strict=True):
        frame = backend.to_numpy(x)
        frame += 1
        frame *= 127.5
        np.testing.assert_array_equal(backend.to_numpy(x), untouched)
        x[...] = 0                                                  # the backend's own array
    x0 = np.ones((5, 2), np.float32)
    start = replace(sampling, start="data")
    for _, x in sample(denoiser, backend, TINY_MOONS, 5, 0, sampling=start, x0=x0):
        x[...] = 0
    assert (x0 == 1).all()


def by_pickle(denoiser):
    return pickle.loads(pickle.dumps(denoiser))


def by_read_only_pickle(denoiser):
    """As some libraries hand pickles on between processes: the arrays lie in memory that no one may write."""
    buffers = []
    data = pickle.dumps(denoiser, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])


@BACKENDS
@pytest.mark.parametrize("recipe", [TINY_MOONS, replace(TINY_SHAPES, batch_size=4)], ids=["moons", "shapes"])
@pytest.mark.parametrize("done", [0, 3])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, by_pickle, by_read_only_pickle])
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_a_copy_trains_like_the_original_and_alone(name, recipe, done, how):
    if (name, how) == ("torch", by_read_only_pickle):
        pytest.skip("torch pickles its arrays in its own way")
    backend, recipe = load_backend(name), replace(recipe, steps=done + 5, ema_decay=0.9)
    original = new_denoiser(backend, recipe, 0)
    list(train(original, backend, replace(recipe, steps=done), 0) if done else ())
    before = bytes_of(original.export())
    other = how(original)
    assert bytes_of(other.export()) == before
    losses = list(train(other, backend, recipe, 0, done + 1))
    assert bytes_of(original.export()) == before                     # the copy trains alone
    assert list(train(original, backend, recipe, 0, done + 1)) == losses
    after = bytes_of(other.export())
    assert bytes_of(original.export()) == after
    assert all(after[key] != before[key] for key in after if key.startswith("params/linear"))
    x = backend.asarray(np.ones((2, *recipe.model.data_shape)))
    answers = {backend.to_numpy(denoiser.predict(x, 3)).tobytes() for denoiser in (original, other)}
    assert len(answers) == 1                                         # and its answers are those of its state
    assert how(backend).asarray([1.0]).dtype == backend.asarray([1.0]).dtype


@BACKENDS
@NETWORKS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_gradients_and_states_with_nan_are_refused_by_name(name, config, value):
    backend, denoiser = denoiser_on(name, config)
    *_, last = denoiser_parameters(config)
    before = bytes_of(denoiser.export())
    grads = {key: np.zeros(shape) for key, shape in denoiser_parameters(config).items()}
    grads[last].flat[-1] = value
    with pytest.raises(ValueError, match=f"^the gradients hold {last} with the value {value}; every"):
        denoiser.update({key: backend.asarray(g) for key, g in grads.items()}, 0.1)
    for group in ("params", "adam_m", "adam_v"):
        state = denoiser.export()
        state[f"{group}/{last}"].flat[-1] = value
        with pytest.raises(ValueError, match=f"^the state's {group} hold {last} with the value {value}"):
            denoiser.load(state)
    params = random_params(config, np.random.default_rng(0))
    params[last].flat[0] = value
    with pytest.raises(ValueError, match=f"^the parameters hold {last} with the value {value}"):
        backend.make_denoiser(config, params)
    assert bytes_of(denoiser.export()) == before


def denoiser_parameters(config):
    """The shape of every parameter, by name."""
    params = MODELS[model_name(config)].init(config, np.random.default_rng(0))
    return {key: array.shape for key, array in params.items()}


@BACKENDS
def test_a_number_too_large_for_the_dtype_is_refused(name):
    backend, denoiser = denoiser_on(name, mlp.SMALL)
    state = denoiser.export()
    state |= {key: array.astype(np.float64) for key, array in state.items() if array.ndim}
    state["adam_m/linear2.b"][1] = 1e300
    with pytest.raises(ValueError, match="^the state's adam_m hold linear2.b with the value inf"):
        denoiser.load(state)


@BACKENDS
@pytest.mark.parametrize("spoil, message", [
    (lambda grads: grads.pop("linear2.b"), "^the gradients lack linear2.b$"),
    (lambda grads: grads.update(x=np.zeros(2)), "^the gradients hold x, which this network does not have$"),
    (lambda grads: grads.update({"linear2.W": grads["linear2.W"].T}),
     r"^the gradients hold linear2.W of shape \(5, 7\); this network needs \(7, 5\)$"),
    (lambda grads: grads.update({"linear2.b": np.zeros(5, complex)}), "^linear2.b has dtype complex128"),
])
def test_gradients_that_do_not_fit_are_refused(name, spoil, message):
    backend, denoiser = denoiser_on(name, mlp.SMALL)
    grads = {key: np.zeros(shape) for key, shape in denoiser_parameters(mlp.SMALL).items()}
    spoil(grads)
    before = bytes_of(denoiser.export())
    with pytest.raises(ValueError, match=message):
        denoiser.update(grads, 0.1)
    assert bytes_of(denoiser.export()) == before and denoiser.step == 0


@BACKENDS
@pytest.mark.parametrize("step", [-1, 2.5, np.nan, True])
def test_a_step_that_is_no_number_of_updates_is_refused(name, step):
    _, denoiser = denoiser_on(name, mlp.SMALL)
    before = bytes_of(denoiser.export())
    with pytest.raises(ValueError, match=f"^the state's arrays hold step {step}; it must be an integer"):
        denoiser.load(denoiser.export() | {"step": np.array(step)})
    assert bytes_of(denoiser.export()) == before


def test_no_samples_are_refused_in_the_same_words():
    def empty(denoiser):
        return np.zeros((0, *denoiser.config.data_shape))

    for ask in (
        lambda backend, denoiser: denoiser.predict(empty(denoiser), 1),
        lambda backend, denoiser: denoiser.predict(empty(denoiser), np.zeros(0, int)),
        lambda backend, denoiser: denoiser.operations(empty(denoiser), 1),
        lambda backend, denoiser: denoiser.loss_and_grads(Batch(1, empty(denoiser), 1, empty(denoiser))),
    ):
        assert refusals(ask) == {
            f"x has shape {shape}; it must hold at least one sample" for shape in ((0, 2), (0, 1, 4, 4))}


@pytest.mark.parametrize("config", [
    convnet.Config(size=1, features=3),
    unet.Config(size=1, widths=(8,), groups=2, time_dim=4, embedding_dim=5),
    unet.Config(size=2, widths=(6, 6), groups=2, heads=2, time_dim=4, embedding_dim=5),
    unet.Config(size=2, widths=(6, 6), groups=2, heads=2, block_kind="plain", attention_levels=2),
    mlp.Config(data_dim=1, hidden=(1,), time_dim=2),
], ids=repr)
def test_one_sample_of_one_position_is_right_on_both(config):
    answers, losses = [], []
    for name in ("numpy", "torch"):
        backend, denoiser = denoiser_on(name, config, "float64")
        x = backend.asarray(np.random.default_rng(1).standard_normal((1, *config.data_shape)))
        answers.append(backend.to_numpy(denoiser.predict(x, 5)))
        loss, grads = denoiser.loss_and_grads(Batch(1, x, 5, 0 * x))
        denoiser.update(grads, 0.1)
        losses.append(loss)
    np.testing.assert_allclose(*answers, rtol=1e-10)
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
