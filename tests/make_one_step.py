"""Makes tests/one_step.npz: every number of one small training step, computed by torch. Run it by hand.

.venv/bin/python tests/make_one_step.py

Two networks: `mlp/...`, the MLP of the moons with few units, and `unet/...`, a U-Net with every kind of
layer. Their sizes are those of SMALL in npdiff/models/mlp.py and npdiff/models/unet.py. For each
    x_t, t, target, labels, lr          what goes in (the MLP has no labels); images (N, C, H, W)
    params/NAME                         the parameters: W (inputs, outputs), W of a convolution
                                        (kernel height, kernel width, inputs, outputs)
    activation/LAYER                    each layer's output, in the order of forward; images (N, H, W, C)
    prediction, loss                    the network's answer, and its mean squared error; images (N, C, H, W)
    grads/NAME                          the gradient of the loss
    adam_m/NAME, adam_v/NAME            Adam's running means after its first step (the means start at 0)
    updated/NAME                        the parameters after that step
Adam has beta1 = 0.9, beta2 = 0.999 and eps = 1e-8; EPS of the group normalisations is 1e-5.
"""

from pathlib import Path

import numpy as np

from npdiff.backends import load_backend
from npdiff.models import MODELS
from npdiff.training import Batch

LR = 0.01
FILE = Path(__file__).with_name("one_step.npz")


def one_step(model, seed):
    """The names and arrays of one step of MODELS[model].SMALL, float64."""
    rng, config = np.random.default_rng(seed), MODELS[model].SMALL
    params = {name: array + 0.1 * rng.standard_normal(array.shape)                  # also what starts at zero
              for name, array in MODELS[model].init(config, rng).items()}
    x_t, target = rng.standard_normal((2, 3, *config.data_shape))
    t = rng.integers(1, 1001, 3)
    labels = rng.integers(0, config.classes + 1, 3) if model == "unet" else None

    backend = load_backend("torch", dtype="float64")
    denoiser = backend.make_denoiser(config, params)
    x = backend.asarray(x_t)
    numbers = {"x_t": x_t, "t": t, "target": target, "lr": LR}
    if labels is not None:
        numbers["labels"] = labels
    numbers |= {f"params/{name}": array for name, array in params.items()}
    numbers |= {f"activation/{name}": y.numpy() for name, y in denoiser.operations(x, t, labels).items()}
    numbers["prediction"] = denoiser.predict(x, t, labels).numpy()
    loss, grads = denoiser.loss_and_grads(Batch(1, x, t, backend.asarray(target), labels))
    numbers["loss"] = loss
    numbers |= {f"grads/{name}": g.numpy() for name, g in grads.items()}
    denoiser.update(grads, LR)
    for name, array in denoiser.export().items():
        if name != "step":
            numbers[name.replace("params/", "updated/")] = array
    return {f"{model}/{name}": np.array(array, order="C") for name, array in numbers.items()}


def main(file=FILE):
    """Write the file."""
    np.savez_compressed(file, **one_step("mlp", 0), **one_step("unet", 1))


if __name__ == "__main__":
    main()
