"""Reports: what was measured, printed as tables of plain text."""

import numpy as np

from npdiff.evaluation import metrics
from npdiff.models import model_name
from npdiff.recipes import EPOCH
from npdiff.verify.floor import lowest_loss
from npdiff.verify.gradcheck import ELEMENT, TENSOR
from npdiff.verify.pairs import SHAPES


def row(name, *cells, note=""):
    """One line of a table: a name, cells of 18 characters, and a note behind."""
    print(f"  {name:34}{''.join(f'{cell:>18}' for cell in cells)}{'   ' + note if note else ''}")


def print_evaluation(numbers):
    """The tables of what Run.evaluate returns."""
    if "energy_distance" in numbers:
        print_points(numbers)
    if "within_class" in numbers:
        print_classes(numbers)
    if "frechet" in numbers:
        print_quality(numbers)
    if "no_judge" in numbers:
        print(f"  {numbers['no_judge']}")
    if "loss" in numbers:
        row = loss_in_words(numbers["loss"], numbers["loss_floor"])
        print(f"  {'expected loss of these weights':34}{row}")
    edges, by_t = numbers["loss_by_t_edges"], numbers["loss_by_t"]
    print(f"  loss by timestep (0, {edges[1]}] .. ({edges[-2]}, {edges[-1]}]: {in_words(by_t)}")
    if "bound_terms" in numbers:
        print_likelihood(numbers["log_likelihood"], numbers["log_likelihood_data"], numbers["bound_terms"])


def print_points(numbers):
    """The table of npdiff.evaluation.metrics.points_report or moons_report."""
    low, typical, high = numbers["energy_distance_data"]
    row("", "samples", "data")
    if "off_arcs" in numbers:
        off = (f"{numbers[name]:.2%}" for name in ("off_arcs", "off_arcs_data"))
        row(f"farther than {metrics.OFF_ARCS} from the arcs", *off)
    row("energy distance to fresh data", f"{numbers['energy_distance']:.2e}", f"{typical:.2e}",
        note=f"95% of fresh data: {low:.1e} to {high:.1e}")
    for d, means in enumerate(zip(numbers["mean"], numbers["mean_data"], strict=True), start=1):
        row(f"mean of coordinate {d}", *(f"{mean:.3f}" for mean in means))


def print_classes(numbers):
    """How often the judge names the class that was asked for, and the mean distance within a class."""
    row("", "samples", "data")
    if "as_asked" in numbers:
        row("classified as asked", *(f"{numbers[name]:.1%}" for name in ("as_asked", "as_asked_data")))
    within, within_data = numbers["within_class"], numbers["within_class_data"]
    row("mean distance within a class", f"{within:.2f}", f"{within_data:.2f}",
        note=f"samples divided by data {within / within_data:.2f}")


def print_quality(report):
    """The table of npdiff.evaluation.metrics.quality."""
    row("", "samples", "data")
    notes = "on this project's classifier features"
    if report["n"] < metrics.ENOUGH:
        notes += f"; these three are rough with n = {report['n']}, take {metrics.ENOUGH:,} or more"
    row("Frechet distance", *(f"{report[key]:.2f}" for key in ("frechet", "frechet_data")), note=notes)
    for name in ("precision", "recall"):
        row(name, *(f"{report[key]:.1%}" for key in (name, f"{name}_data")))


def print_likelihood(log_p, exact, terms):
    """How probable fresh data is under the model, along its flow, and by the variational bound in three
    parts.

    log_p and exact are mean nats over points, None for images. exact is that of the data's own distribution,
    None where it is not known. terms (T + 1,) are bits per dimension.
    """
    if log_p is not None:
        known = "not known" if exact is None else f"{exact:.4f}"
        row("log-likelihood of fresh data, nats", f"{log_p:.4f}", known,
            note="(the model's flow, the data's own distribution)")
    decoder, jumps, prior = terms[0], terms[1:-1], terms[-1]
    print(f"  variational bound, bits/dim: {terms.sum():.3f} = decoder {decoder:.3f} "
          f"+ {len(jumps)} jumps {jumps.sum():.3f} + prior {prior:.4f}")


def in_words(losses):
    """Losses with three digits."""
    return " ".join(f"{loss:.3f}" for loss in losses)


def training_loss(recipe, steps, losses):
    """One line: the mean loss of each epoch where a log row is an epoch, else of the last 500 steps.

    steps and losses are the rows of metrics.csv.
    """
    if recipe.log_every == EPOCH and steps[0] == EPOCH:
        whole = [loss for step, loss in zip(steps, losses, strict=True) if step % EPOCH == 0]
        return f"training loss, mean of each epoch: {in_words(whole)}"
    rows = [(step, loss) for step, loss in zip(steps, losses, strict=True) if step > steps[-1] - 500]
    before = max([step for step in steps if step <= steps[-1] - 500], default=0)
    count = steps[-1] - before
    label = f"training loss, last {count} steps" if count > 1 else "training loss, 1 step"
    return f"{label:34}{loss_in_words(float(np.mean([loss for _, loss in rows])), lowest_loss(recipe))}"


def loss_in_words(loss, floor):
    """A loss beside the floor, the smallest that any network can have (None where it is not known)."""
    if floor is None:
        return f"{loss:.4f}"
    side = "above" if loss >= floor else "below"
    return f"{loss:.4f}, {abs(loss / floor - 1):.1%} {side} the floor {floor:.4f}"


def print_gradients(title, checked, worst_only):
    """A part of the table of gradcheck: the error of each gradient, or the worst error of all, in one line.

    checked is {name: (shape, (tensor_error, element_error))}.
    """
    if worst_only:
        tensor, element = (max(errors[k] for _, errors in checked.values()) for k in (0, 1))
        print(f"  {title:50}{f'{len(checked)} gradients':>14}{tensor:12.1e} tensor{element:12.1e} element")
        return
    print(f"{title:32}{'shape':>16}{'tensor':>12}{'worst element':>16}")
    for name, (shape, (tensor, element)) in checked.items():
        print(f"  {name:30}{' x '.join(map(str, shape)):>16}{tensor:12.1e}{element:16.1e}")


def in_short(config):
    """A network's name, and what decides of which functions it is made."""
    parts = {"labels": "classes", "attention": "attention_levels"}
    blocks = [f"{config.block_kind} blocks"] if hasattr(config, "block_kind") else []
    has = [part for part, field in parts.items() if getattr(config, field, 0)]
    return ", ".join([model_name(config), *blocks, *has])


def gradients_checked(pairs, configs):
    """The last line of gradcheck, when nothing is wrong: what was checked."""
    checked = []
    if pairs:
        checked.append(f"{pairs} pairs in {SHAPES} random shapes each" if pairs > 1
                       else f"1 pair in {SHAPES} random shapes")
    if configs:
        s = "s" if len(configs) > 1 else ""
        checked.append(f"{len(configs)} network{s} ({'; '.join(map(in_short, configs))})")
    return (f"every gradient is right, to {TENSOR:.0e} (tensor) and {ELEMENT:.0e} (element); "
            f"checked: {', '.join(checked)}, every element of every gradient")


def print_first_step(names, operations, gradients):
    """The table of where two backends differ in their first training step.

    operations and gradients are what compare_operations and compare_gradients of npdiff.verify.compare
    return.
    """
    print(f"the first training step, {names[1]} against {names[0]}")
    print(f"  {'layer':32}{'elements that differ':>22}{'at most, in ULPs':>18}")
    for name, (differing, size, ulps) in operations.items():
        print(f"  {name:32}{f'{differing:,} of {size:,}':>22}{ulps:18,.1f}")
    first = next((name for name, (differing, *_) in operations.items() if differing), "none")
    print(f"  the first layer whose outputs differ: {first}")
    print(f"  {'gradient':32}{'relative difference':>22}")
    for name, difference in gradients.items():
        print(f"  {name:32}{difference:22.1e}")


def print_speed(specs, speeds):
    """The table of speed and memory. speeds are npdiff.verify.compare.Speed, one for each recipe."""
    over_first = f"over {specs[0]}"
    print(f"{'':30}{'training step':>15}{'over the floor':>16}{over_first:>13}{'sampling step':>15}"
          f"{over_first:>13}{'samples/s':>11}{'peak memory':>13}")
    for speed in speeds:
        name = speed.recipe.name
        for k, spec in enumerate(specs):
            training, sampling = speed.training[k], speed.sampling[k]
            samples = speed.recipe.batch_size / (sampling / 1000 * speed.recipe.num_train_timesteps)
            digits = 0 if samples >= 10 else 2
            print(f"{f'{name}, {spec}':30}{training:12.3f} ms{training / speed.floor:15.2f}x"
                  f"{training / speed.training[0]:12.2f}x"
                  f"{sampling:12.3f} ms{sampling / speed.sampling[0]:12.2f}x"
                  f"{samples:11,.{digits}f}{speed.memory[k] / 2**20:10,.0f} MB")
        print(f"{f'{name}, the floor':30}{speed.floor:12.3f} ms: "
              "the step's matrix products and exponentials alone, in NumPy")
