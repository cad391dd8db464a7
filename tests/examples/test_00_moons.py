"""examples/00_moons.py, the whole path in one file: it is short, it is right, and autograd gives the same."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import numpy as np
import pytest
from example_scripts import SCRIPTS, load
from matplotlib.image import imread

from npdiff import diffusion, nn, optim, schedule
from npdiff.data.moons import make_moons
from npdiff.evaluation.metrics import off_arcs
from npdiff.samplers import ancestral, time_pairs, to_x0_eps
from npdiff.verify.gradcheck import complex_step, tensor_error

moons = load("00_moons")
SCHEDULE = schedule.sigmoid(moons.T)
PACKAGE = Path(nn.__file__).parents[1]
RULE = "# " + 60 * "-"          # what starts the first line of a section


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_it_has_at_most_120_lines_of_code():
    """Lines that hold a token of code; not docstrings, comments and blank lines."""
    source = SCRIPTS["00_moons"].read_text()
    skip = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skip:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    assert 60 < len(lines) <= 120


def sections(name):
    """{the rest of its first line: its text} for every section of a script."""
    return dict(part.split("\n", 1) for part in SCRIPTS[name].read_text().split(RULE)[1:])


def test_it_needs_numpy_and_matplotlib_alone():
    modules = set()
    for node in ast.walk(ast.parse(SCRIPTS["00_moons"].read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    assert modules == {"numpy", "pathlib", "matplotlib.figure"}


def test_every_section_names_a_room_that_exists():
    titles = list(sections("00_moons"))
    assert len(titles) == 11
    for title in titles:
        room = re.fullmatch(r" [A-Z][\w ]+\. In full: npdiff/(\S+)", title)
        assert room and (PACKAGE / room[1]).is_file(), title


def test_a_framework_replaces_only_gradients_and_the_optimiser():
    """What has no gradient is the same text in both files; what has one is shorter there."""
    ours, twin = sections("00_moons"), sections("00_moons_torch")
    adam = " Adam. In full: npdiff/optim.py"
    assert [title for title in ours if title != adam] == list(twin)
    changed = {title.split(".")[0].strip() for title in twin if twin[title] != ours[title]}
    assert changed == {"Linear layer", "SiLU", "Loss", "Network", "Training", "Ancestral sampler"}
    assert "backward(" not in "".join(twin.values()).replace("loss.backward()", "")


def test_the_schedule_and_the_closed_form_are_the_packages(rng):
    np.testing.assert_allclose(moons.alpha_bar, SCHEDULE.alpha_bar, rtol=1e-13)
    x0, noise = rng.standard_normal((2, 50, 2))
    t = rng.integers(1, moons.T, 50, endpoint=True)
    np.testing.assert_allclose(
        moons.q_sample(x0, t, noise), diffusion.q_sample(x0, t, noise, SCHEDULE), rtol=1e-12
    )


def test_each_layer_is_the_packages(rng):
    x, W, b, dy = (rng.standard_normal(shape) for shape in ((7, 5), (5, 3), 3, (7, 3)))
    (y, cache), (our_y, our_cache) = moons.linear_forward(x, W, b), nn.linear_forward(x, W, b)
    np.testing.assert_array_equal(y, our_y)
    for gradient, ours in zip(
        moons.linear_backward(dy, cache), nn.linear_backward(dy, our_cache), strict=True
    ):
        np.testing.assert_array_equal(gradient, ours)
    (y, cache), (our_y, our_cache) = moons.silu_forward(x), nn.silu_forward(x)
    np.testing.assert_allclose(y, our_y, rtol=1e-13)
    np.testing.assert_allclose(
        moons.silu_backward(x, cache), nn.silu_backward(x, our_cache), rtol=1e-12, atol=1e-14
    )
    (loss, cache), (our_loss, our_cache) = moons.mse_forward(dy, y[:, :3]), nn.mse_forward(dy, y[:, :3])
    assert loss == pytest.approx(our_loss, rel=1e-14)
    np.testing.assert_allclose(moons.mse_backward(cache), nn.mse_backward(our_cache), rtol=1e-14)


def test_adam_is_the_packages(rng):
    p, m, v = rng.standard_normal(20), np.zeros(20), np.zeros(20)
    our_p, our_m, our_v = p.copy(), m.copy(), v.copy()
    for step in range(1, 30):
        g = rng.standard_normal(20)
        moons.adam([p], [g], [m], [v], step, 0.01)
        optim.adam(our_p, g, our_m, our_v, step, 0.01)
    np.testing.assert_allclose(p, our_p, rtol=1e-12)


def test_the_learning_rate_is_the_packages(rng, monkeypatch):
    rates = []
    monkeypatch.setattr(moons, "adam", lambda params, grads, m, v, step, lr: rates.append(lr))
    list(moons.train(moons.init(rng), 7, rng))
    wanted = [optim.learning_rate("cosine", step, 7, moons.LR) for step in range(1, 8)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-14)


def test_the_data_are_the_packages():
    np.testing.assert_allclose(
        moons.make_moons(50, np.random.default_rng(5)), make_moons(50, np.random.default_rng(5)), rtol=1e-13
    )


def test_the_features_are_the_packages(rng):
    """The same columns in another order: x, and the sines and cosines of x and of t."""
    x, t = rng.standard_normal((9, 2)), rng.integers(1, moons.T, 9, endpoint=True)
    B = np.kron(np.eye(2), np.arange(1, 5))                                     # (2, 8)
    of_x, _ = nn.fourier_forward(x, B)                                          # (9, 16)
    of_t = nn.sinusoidal_embedding(t, 16, 10000, np.float64)                    # (9, 16)
    wanted = np.concatenate([x, of_x[:, :8], of_t[:, :8], of_x[:, 8:], of_t[:, 8:]], axis=1)
    np.testing.assert_allclose(moons.features(x, t), wanted, rtol=1e-12, atol=1e-14)


def test_the_gradient_of_the_whole_network_is_right(rng, monkeypatch):
    monkeypatch.setattr(moons, "HIDDEN", 6)
    params = moons.init(rng)
    x, target = rng.standard_normal((2, 5, 2))
    t = rng.integers(1, moons.T, 5)
    y, caches = moons.forward(params, x, t)
    _, error = moons.mse_forward(y, target)
    grads = moons.backward(moons.mse_backward(error), caches)
    assert [g.shape for g in grads] == [p.shape for p in params]
    for k, g in enumerate(grads):
        def loss_at(p, k=k):
            return moons.mse_forward(moons.forward([*params[:k], p, *params[k + 1:]], x, t)[0], target)[0]

        assert tensor_error(g, complex_step(loss_at, params[k])) < 1e-13


def test_the_sampler_is_the_packages():
    """The same network and the same noise in both: the same samples."""
    params, n = moons.init(np.random.default_rng(2)), 20
    theirs = moons.sample(params, n, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    denoise = to_x0_eps(lambda x, t: moons.forward(params, x, np.full(n, t))[0], SCHEDULE)
    walk = ancestral(denoise, rng.standard_normal((n, 2)), SCHEDULE, lambda t: rng.standard_normal((n, 2)),
                     time_pairs(moons.T), "posterior")
    *_, (_, ours) = walk
    np.testing.assert_allclose(theirs, ours, rtol=1e-12)


@pytest.mark.slow
def test_autograd_gives_the_same_losses():
    pytest.importorskip("torch", reason="torch is not installed: 00_moons_torch.py is not compared")
    twin = load("00_moons_torch")

    def losses(module):
        rng = np.random.default_rng(4)
        return list(module.train(module.init(rng), 200, rng))

    np.testing.assert_allclose(losses(moons), losses(twin), rtol=1e-6)


def test_a_short_run_draws_its_picture(tmp_path, capsys):
    losses, samples = moons.main(steps=20, n=200, out=tmp_path / "new")
    assert losses.shape == (20,) and samples.shape == (200, 2) and np.isfinite(samples).all()
    picture = imread(tmp_path / "new" / "00_moons.png")
    assert picture.shape[:2] == (672, 1080) and picture.std() > 0.05
    assert capsys.readouterr().out.strip() == str(tmp_path / "new" / "00_moons.png")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_whole_run_draws_moons(seed, tmp_path):
    _, samples = moons.main(seed=seed, out=tmp_path)
    assert off_arcs(samples) < 0.01


@pytest.mark.slow
def test_it_runs_as_a_command(tmp_path):
    """Without arguments, in a folder of its own. -I leaves PYTHONPATH and the script's own folder out."""
    result = subprocess.run(
        [sys.executable, "-I", SCRIPTS["00_moons"]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    path = Path("runs/examples/00_moons.png")
    assert result.stdout.splitlines()[-1] == str(path) and (tmp_path / path).is_file()
    assert re.search(r"step 6,000: mean loss of the last 1,000 steps 0\.\d{4}\n", result.stdout)
