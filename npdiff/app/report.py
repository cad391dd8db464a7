"""Reports: what the command prints of what was measured, as tables of plain text."""

import numpy as np

from npdiff.evaluation import judge, metrics
from npdiff.recipes import EPOCH


def print_moons(report):
    """The table of npdiff.evaluation.metrics.moons_report."""
    (x, y), (data_x, data_y) = report["mean"], report["mean_data"]
    energy, (low, typical, high) = report["energy_distance"], report["energy_distance_data"]
    print(f"  {'':34}{'samples':>18}{'data':>18}")
    print(
        f"  {f'farther than {metrics.OFF_ARCS} from the arcs':34}{report['off_arcs']:18.2%}{report['off_arcs_data']:18.2%}"
    )
    print(
        f"  {'energy distance to fresh data':34}{energy:18.2e}{typical:18.2e}   95% of fresh data: {low:.1e} "
        f"to {high:.1e}"
    )
    print(f"  {'mean':34}{f'({x:.3f}, {y:.3f})':>18}{f'({data_x:.3f}, {data_y:.3f})':>18}")


def print_classes(recipe, samples, labels, data, data_labels):
    """How often the judge finds the class that was asked for, and how much samples of one class differ;
    beside real images.
    """
    print(f"  {'':34}{'samples':>18}{'data':>18}")
    if recipe.data == "fashion-mnist":
        print(
            f"  {'classified as asked':34}{judge.class_accuracy(samples, labels):18.1%}{judge.class_accuracy(data, data_labels):18.1%}"
        )
    spread, spread_data = metrics.diversity(samples, labels), metrics.diversity(data, data_labels)
    print(
        f"  {'distance of two of one class':34}{spread:18.2f}{spread_data:18.2f}   ratio "
        f"{spread / spread_data:.2f}"
    )


def print_likelihood(log_p, exact, terms):
    """How probable the model finds fresh data: exactly along its flow, beside the data's own law, and as the
    variational bound, in its three parts.

    log_p and exact are nats, means over points, None for images; terms (T + 1,) bits per dimension.
    """
    if log_p is not None:
        print(
            f"  {'log-likelihood of fresh data, nats':34}{log_p:18.4f}{exact:18.4f}   (model's flow, data's "
            f"own law)"
        )
    print(
        f"  variational bound, bits/dim: {terms.sum():.3f} = decoder {terms[0]:.3f} + {len(terms) - 2} jumps "
        f"{terms[1:-1].sum():.3f} + prior {terms[-1]:.4f}"
    )


def print_losses(recipe, steps, losses, buckets, of_weights):
    """The loss at the end of training, of each epoch where a row is one, of the weights that samples are
    drawn with, and by timestep; beside the floor.

    of_weights is what npdiff.evaluation.metrics.loss_above_floor says, None where it cannot.
    """
    if steps:
        print(f"  {training_loss(recipe, steps, losses)}")
    if of_weights:
        print(f"  {'expected loss of these weights':34}{loss_in_words(*of_weights)}")
    edges, by_t = buckets
    print(
        f"  loss by timestep (0, {edges[1]}] .. ({edges[-2]}, {edges[-1]}]: "
        f"{' '.join(f'{loss:.3f}' for loss in by_t)}"
    )


def training_loss(recipe, steps, losses):
    """One line: the mean loss of each epoch where a row of the log is one, else of the last 500 steps, beside
    the floor.
    """
    if recipe.log_every == EPOCH:
        return f"training loss, mean of each epoch: {' '.join(f'{loss:.3f}' for loss in losses)}"
    last = float(np.mean([loss for step, loss in zip(steps, losses) if step > steps[-1] - 500]))
    return f"{'training loss, last 500 steps':34}{loss_in_words(last, metrics.lowest_loss(recipe))}"


def loss_in_words(loss, floor):
    """A loss beside the smallest that any network can have, floor, which is None where that is not known."""
    if floor is None:
        return f"{loss:.4f}"
    return f"{loss:.4f}, {abs(loss / floor - 1):.1%} {'above' if loss >= floor else 'below'} the floor {floor:.4f}"


def print_gradients(shapes, exact, finite):
    """The table of gradcheck: for each tensor its error against the complex step and the finite difference.

    exact and finite are what npdiff.verify.gradcheck.check_model returns.
    """
    print("relative error of each gradient against derivatives of the forward (float64)")
    print(f"  {'':30}{'shape':>14}{'complex step':>16}{'largest element':>18}{'finite difference':>20}")
    for name, (tensor, element) in exact.items():
        shape = " x ".join(map(str, shapes[name]))
        print(f"  {name:30}{shape:>14}{tensor:16.1e}{element:18.1e}{finite[name][0]:20.1e}")


def print_first_step(names, operations, gradients):
    """The table of where two backends part in their first training step."""
    print(f"the first training step, {names[1]} against {names[0]}")
    print(f"  {'layer':32}{'elements that differ':>22}{'at most, in ULPs':>18}")
    for name, (differing, size, ulps) in operations.items():
        print(f"  {name:32}{f'{differing:,} of {size:,}':>22}{ulps:18,.1f}")
    parting = next((name for name, (differing, *_) in operations.items() if differing), "none")
    print(f"  the first layer whose outputs differ: {parting}")
    print(f"  {'gradient':32}{'relative difference':>22}")
    for name, difference in gradients.items():
        print(f"  {name:32}{difference:22.1e}")


def print_speed(specs, speeds):
    """The table of speed and memory: for each of npdiff.verify.compare.speed's answers a row for each
    backend, and the floor.
    """
    print(
        f"{'':30}{'training step':>15}{'over the floor':>16}{'over ' + specs[0]:>13}{'sampling step':>15}{'over ' + specs[0]:>13}{'samples/s':>11}{'peak memory':>13}"
    )
    for speed in speeds:
        for k, spec in enumerate(specs):
            training, sampling = speed.training[k], speed.sampling[k]
            samples = speed.recipe.batch_size / (sampling / 1000 * speed.recipe.num_train_timesteps)
            print(
                f"{speed.recipe.name + ', ' + spec:30}{training:12.3f} "
                f"ms{training / speed.floor:15.2f}x{training / speed.training[0]:12.2f}x{sampling:12.3f} ms"
                f"{sampling / speed.sampling[0]:12.2f}x{samples:11,.{0 if samples >= 10 else 2}f}{speed.memory[k] / 2**20:10,.0f} MB"
            )
        print(
            f"{speed.recipe.name + ', the floor':30}{speed.floor:12.3f} ms: the step's matrix products and "
            f"exponentials alone, in NumPy"
        )
