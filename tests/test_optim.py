"""Adam, compared with the formula of its paper and with torch; the moving average; the learning rates."""

import numpy as np
import pytest
import torch

from npdiff.optim import adam, ema, learning_rate


def test_adam_is_the_papers_and_torchs():
    """[Kingma and Ba 2015](https://arxiv.org/abs/1412.6980), algorithm 1, on gradients of many sizes."""
    rng = np.random.default_rng(0)
    p = rng.standard_normal(50)
    m, v = np.zeros(50), np.zeros(50)
    paper_p, paper_m, paper_v = p.copy(), m.copy(), v.copy()
    theirs = torch.nn.Parameter(torch.tensor(p))
    optimiser = torch.optim.Adam([theirs], lr=1e-2)
    for step in range(1, 101):
        g = rng.standard_normal(50) * 10.0 ** rng.integers(-8, 3, 50)
        adam(p, g, m, v, step, 1e-2)
        paper_m = 0.9 * paper_m + 0.1 * g
        paper_v = 0.999 * paper_v + 0.001 * g ** 2
        m_hat, v_hat = paper_m / (1 - 0.9 ** step), paper_v / (1 - 0.999 ** step)
        paper_p = paper_p - 1e-2 * m_hat / (np.sqrt(v_hat) + 1e-8)
        theirs.grad = torch.tensor(g)
        optimiser.step()
        np.testing.assert_allclose(p, paper_p, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(p, theirs.detach().numpy(), rtol=1e-11, atol=1e-13)


def test_ema():
    average = np.array([1.0, 2.0])
    ema(average, np.array([3.0, 2.0]), 0.9)
    np.testing.assert_allclose(average, [1.2, 2.0])


def test_learning_rate():
    assert learning_rate("constant", 7, 10, 0.1) == 0.1
    assert learning_rate("cosine", 1, 10, 0.1) == 0.1
    assert learning_rate("cosine", 6, 10, 0.1) == pytest.approx(0.05)
    assert 0 < learning_rate("cosine", 10, 10, 0.1) < 0.003
    with pytest.raises(ValueError, match="lr_schedule is 'step'"):
        learning_rate("step", 1, 10, 0.1)
