"""The judge: a small classifier of Fashion-MNIST, trained by hand-derived gradients, that samples are later
judged with.

The network is npdiff.evaluation.judge: two convolutions, two linear layers, 161,898 parameters. Every step
takes 64 of the 60,000 training images, moves each by up to a pixel and mirrors about half of them, so that
the network seldom sees the same image twice; Adam lowers the cross-entropy. The rate of it falls along a
cosine to zero, so a run of one epoch is worth more than the first epoch of a long one.

Look at the confusion matrix: shirts, T-shirts, pullovers and coats are taken for one another, at 28 x 28
pixels with reason; little else goes wrong. What to change: --epochs; --full trains the weights that come with
the package (npdiff/judge.safetensors), in about 3 minutes on one free core.
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

BATCH, PEAK, FULL = 64, 4e-3, 6       # images of a step, learning rate at the start, epochs of --full


def augment(images, rng):
    """Each image moved by -1, 0 or 1 pixel along both axes, black coming in, and mirrored with probability
    1/2.   (N, H, W) uint8 -> the same
    """
    N, H, W = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))                             # (N, H + 2, W + 2)
    rows = rng.integers(0, 3, (N, 1, 1)) + np.arange(H)[:, None]                  # (N, H, 1)
    columns = rng.integers(0, 3, (N, 1, 1)) + np.arange(W)                        # (N, 1, W)
    moved = padded[np.arange(N)[:, None, None], rows, columns]                    # (N, H, W)
    mirrored = rng.random(N) < 0.5                                                # (N,)
    return np.where(mirrored[:, None, None], moved[:, :, ::-1], moved)


def batches(images, labels, steps, seed):
    """The training problem, step by step: yields (step, x, labels), x (BATCH, 1, 28, 28) float32.

    Every epoch takes the images in a new order.
    """
    # what is left over has its turn in another epoch
    per_epoch = len(images) // BATCH
    for step in range(1, steps + 1):
        epoch, k = divmod(step - 1, per_epoch)
        if k == 0:
            order = generator(seed, "data", epoch).permutation(len(images))
        rows = order[k * BATCH:(k + 1) * BATCH]
        yield step, to_float(augment(images[rows], generator(seed, "train", step))), labels[rows]


def main(
    epochs: float = 0.3,
    full: bool = False,
    seed: int = 0,
    data: Path | None = None,
    out: Path = Path("runs/examples"),
):
    # (60000, 28, 28) uint8, (60000,)
    images, labels = load_bytes("train", data)
    epochs = FULL if full else epochs
    steps = math.ceil(epochs * (len(images) // BATCH))
    if steps < 1:
        raise ValueError(
            f"epochs is {epochs} with {len(images)} images; training takes more than 0 epochs, and at least "
            f"{BATCH} images"
        )
    config = judge.Config()
    params = {
        name: array.astype(np.float32) for name, array in judge.init(config, generator(seed, "init")).items()
    }
    m, v = ({name: np.zeros_like(array) for name, array in params.items()} for _ in range(2))

    losses, start = [], time.perf_counter()
    for step, x, y in batches(images, labels, steps, seed):
        logits, cache = judge.forward(params, x, config)                          # (BATCH, 10)
        loss, loss_cache = cross_entropy_forward(logits, y)
        _, grads = judge.backward(cross_entropy_backward(loss_cache), cache, judge.Config())
        for name in params:
            adam(
                params[name], grads[name], m[name], v[name], step, learning_rate("cosine", step, steps, PEAK)
            )
        losses.append(float(loss))
        if step == steps or step % (len(images) // BATCH) == 0:
            print(
                f"step {step:5} of {steps}, {time.perf_counter() - start:4.0f} s: training loss "
                f"{np.mean(losses[-100:]):.3f} (last 100 steps)"
            )

    out.mkdir(parents=True, exist_ok=True)
    judge.save_weights(params, out / "09_train_judge.safetensors")
    params = judge.load_weights(out / "09_train_judge.safetensors")               # as others will see them
    # (10000, 1, 28, 28), (10000,)
    images, labels = load("test", data)
    given = judge.classify(images, params).argmax(1)                              # (10000,)
    K = len(CLASS_NAMES)
    # [what it is, what it was taken for]
    confusion = np.bincount(K * labels + given, minlength=K * K).reshape(K, K)
    accuracy = float((given == labels).mean())
    print(f"test accuracy {accuracy:.2%}")
    for name, row, right in zip(CLASS_NAMES, confusion, confusion.diagonal()):
        print(f"  {name:12} {right / row.sum():6.1%}")

    share = 100 * confusion / confusion.sum(1, keepdims=True)                     # percent of each class
    figure = Figure(figsize=(7.4, 6.6), layout="constrained")
    panel = figure.subplots()
    # the root, so that few are seen beside many
    panel.imshow(share ** 0.5, cmap="Blues")
    for i, j in np.ndindex(share.shape):
        panel.text(
            j,
            i,
            f"{share[i, j]:.0f}" if share[i, j] >= 1 else "",
            ha="center",
            va="center",
            color="white" if share[i, j] > 30 else "black",
        )
    panel.set(
        xticks=range(len(CLASS_NAMES)),
        yticks=range(len(CLASS_NAMES)),
        yticklabels=CLASS_NAMES,
        xlabel="taken for",
        ylabel="is",
        title=f"{accuracy:.1%} of the test images are named right (percent of each class)",
    )
    panel.set_xticklabels(CLASS_NAMES, rotation=40, ha="right", rotation_mode="anchor")
    print(save(figure, out / "09_train_judge.png"))
    return {"losses": losses, "accuracy": accuracy, "confusion": confusion}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
