"""The judge: a small classifier of Fashion-MNIST, trained with gradients derived by hand. It judges samples.

The network is npdiff.evaluation.judge: two convolutions and two linear layers, 161,898 parameters. Each step
takes 64 of the 60,000 training images, moves each by at most one pixel and mirrors about half of them. So the
network hardly ever sees the same image twice. Adam lowers the cross-entropy. The learning rate falls along a
cosine to zero, so one epoch alone is better than the first epoch of a long run.

Look at the table of mistakes: shirts, T-shirts, pullovers and coats are confused with one another. At 28x28
pixels they look alike. Few other mistakes happen.

What to change: --epochs. --full trains the weights that come with the package (npdiff/evaluation/
judge.safetensors), in about 3 minutes on one free core.

The data is from [Xiao et al. 2017](https://arxiv.org/abs/1708.07747), Adam from [Kingma and Ba
2015](https://arxiv.org/abs/1412.6980).
"""

import math
import time
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.figures import save
from npdiff.data.fashion_mnist import CLASS_NAMES, load, load_bytes, to_float
from npdiff.evaluation import judge
from npdiff.nn import cross_entropy_backward, cross_entropy_forward
from npdiff.optim import adam, learning_rate
from npdiff.rng import generator

BATCH = 64          # images in a step
PEAK = 4e-3         # learning rate at the start
FULL = 6            # epochs of --full


def augment(images, rng):
    """Each image moved by -1, 0 or 1 pixel along both axes, and mirrored with probability 1/2.

    Pixels that come in at the edge are black. (N, H, W) uint8 -> the same.
    """
    N, H, W = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))                             # (N, H + 2, W + 2)
    rows = rng.integers(0, 3, (N, 1, 1)) + np.arange(H)[:, None]                  # (N, H, 1)
    columns = rng.integers(0, 3, (N, 1, 1)) + np.arange(W)                        # (N, 1, W)
    moved = padded[np.arange(N)[:, None, None], rows, columns]                    # (N, H, W)
    mirrored = rng.random(N) < 0.5                                                # (N,)
    return np.where(mirrored[:, None, None], moved[:, :, ::-1], moved)


def batches(images, labels, steps, seed):
    """Yields (step, x, labels) for each step, x (BATCH, 1, 28, 28) float32.

    Each epoch takes the images in a new order. Images that do not fill a batch are left out of that epoch.
    """
    per_epoch = len(images) // BATCH
    for step in range(1, steps + 1):
        epoch, k = divmod(step - 1, per_epoch)
        if k == 0:
            order = generator(seed, "data", epoch).permutation(len(images))
        rows = order[k * BATCH:(k + 1) * BATCH]
        yield step, to_float(augment(images[rows], generator(seed, "train", step))), labels[rows]


def train(images, labels, epochs, seed):
    """Train the classifier and print its progress. -> its parameters, the loss of each step

    Raises ValueError where there is less than one step to train.
    """
    per_epoch = len(images) // BATCH
    steps = math.ceil(epochs * per_epoch)
    if steps < 1:
        raise ValueError(f"epochs is {epochs} with {len(images)} images; "
                         f"training takes more than 0 epochs, and at least {BATCH} images")
    config = judge.Config()
    fresh = judge.init(config, generator(seed, "init"))
    params = {name: array.astype(np.float32) for name, array in fresh.items()}
    m, v = ({name: np.zeros_like(array) for name, array in params.items()} for _ in range(2))
    losses, start = [], time.perf_counter()
    for step, x, y in batches(images, labels, steps, seed):
        logits, cache = judge.forward(params, x, config)                          # (BATCH, 10)
        loss, loss_cache = cross_entropy_forward(logits, y)
        _, grads = judge.backward(cross_entropy_backward(loss_cache), cache, config)
        lr = learning_rate("cosine", step, steps, PEAK)
        for name in params:
            adam(params[name], grads[name], m[name], v[name], step, lr)
        losses.append(float(loss))
        if step == steps or step % per_epoch == 0:
            seconds, recent = time.perf_counter() - start, np.mean(losses[-100:])
            print(f"step {step:5} of {steps}, {seconds:4.0f} s: training loss {recent:.3f} (last 100 steps)")
    return params, losses


def main(
    epochs: float = 0.3,
    full: bool = False,
    seed: int = 0,
    data: Path | None = None,
    out: Path = Path("runs/examples"),
):
    images, labels = load_bytes("train", data)                          # (60000, 28, 28) uint8, (60000,)
    params, losses = train(images, labels, FULL if full else epochs, seed)

    out.mkdir(parents=True, exist_ok=True)
    judge.save_weights(params, out / "09_train_judge.safetensors")
    params = judge.load_weights(out / "09_train_judge.safetensors")               # as others will load them
    images, labels = load("test", data)                                 # (10000, 1, 28, 28), (10000,)
    given = judge.classify(images, params).argmax(1)                    # (10000,)
    K = len(CLASS_NAMES)
    confusion = np.bincount(K * labels + given, minlength=K * K).reshape(K, K)    # [true class, class given]
    accuracy = float((given == labels).mean())
    print(f"test accuracy {accuracy:.2%}")
    for name, row, right in zip(CLASS_NAMES, confusion, confusion.diagonal()):
        print(f"  {name:12} {right / row.sum():6.1%}")

    figure = draw(confusion, accuracy)
    print(save(figure, out / "09_train_judge.png"))
    return {"losses": losses, "accuracy": accuracy, "confusion": confusion, "figure": figure}


def draw(confusion, accuracy):
    """The table of mistakes, in percent of each true class."""
    share = 100 * confusion / confusion.sum(1, keepdims=True)
    figure = Figure(figsize=(8, 7), layout="constrained")
    panel = figure.subplots()
    panel.imshow(share ** 0.5, cmap="Blues")            # the root makes small numbers visible
    for i, j in np.ndindex(share.shape):
        text, colour = f"{share[i, j]:.0f}", "white" if share[i, j] > 30 else "black"
        if share[i, j] >= 1:
            panel.text(j, i, text, ha="center", va="center", color=colour)
    places = range(len(CLASS_NAMES))
    panel.set(xticks=places, yticks=places, yticklabels=CLASS_NAMES)
    panel.set_xticklabels(CLASS_NAMES, rotation=40, ha="right", rotation_mode="anchor")
    panel.set(xlabel="class that the judge names", ylabel="true class")
    panel.set_title(f"{accuracy:.1%} of the test images are named correctly\n"
                    "numbers: percent of the images of the true class")
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
