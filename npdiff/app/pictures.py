"""The pictures of a run: what each shows of it, and its title in words."""

from npdiff.app import figures
from npdiff.app.progress import progress
from npdiff.evaluation.metrics import loss_by_t
from npdiff.models import is_image
from npdiff.sampling import Sampling
from npdiff.verify.floor import lowest_loss, recipe_floor

SHOWN = (1, 2 / 3, 0.4, 0.2, 1 / 15, 0)                 # times in a filmstrip, as fractions of T


def draw_pictures(run, quiet):
    """Sample the trained run and write its pictures into its directory. Yields the path of each.

    Every run: loss.png, loss_by_t.png, schedule.png. Points: samples.png, filmstrip.png, samples.gif. Images:
    diffusion_samples.png, denoising_filmstrip.png, samples.gif, and samples_by_class.png with labels.
    """
    yield figures.save(loss_figure(run), run.path / "loss.png")
    yield figures.save(loss_by_t_figure(run), run.path / "loss_by_t.png")
    yield figures.save(schedule_figure(run), run.path / "schedule.png")
    draw = draw_images if is_image(run.recipe.model) else draw_points
    yield from draw(run, Sampling.of(run.recipe), quiet)


def draw_points(run, sampling, quiet, n=2000):
    """The pictures of n points."""
    title, chain = sampling_in_words(run.recipe, sampling, n), stops(run, n, sampling, 0, quiet)
    data = background(run)
    _, x = chain[-1]                                                            # (n, D)
    yield figures.save(figures.samples_over_data(x, data, title), run.path / "samples.png")
    panels = figures.filmstrip(strip(chain), data, title)
    yield figures.save(panels, run.path / "filmstrip.png")
    yield figures.save_points_gif(chain, data, run.path / "samples.gif", title)


def draw_images(run, sampling, quiet):
    """The pictures of images."""
    recipe, names = run.recipe, class_names(run)
    n = 8 * recipe.model.classes if recipe.conditional else 64
    chain = stops(run, n, sampling, 0, quiet)
    _, x = chain[-1]                                                            # (n, C, H, W)

    def title(n):
        return sampling_in_words(recipe, sampling, n)

    grid = figures.image_grid(x[:64], 8, title(min(n, 64)))
    yield figures.save(grid, run.path / "diffusion_samples.png")
    few = [(t, x[:4]) for t, x in strip(chain)]
    yield figures.save(figures.image_filmstrip(few, title(4)), run.path / "denoising_filmstrip.png")
    if recipe.conditional:
        by_class = figures.images_by_class(x, run.labels(n), names, title(n))
        yield figures.save(by_class, run.path / "samples_by_class.png")
    some = [(t, x[:16]) for t, x in chain]
    yield figures.save_images_gif(some, run.path / "samples.gif", title(16))


def loss_figure(run):
    """The training loss against the step."""
    recipe = run.recipe
    title = f"{recipe_in_words(recipe)}: training loss"
    return figures.loss_curve(run.steps, run.loss, recipe.log_every, title, lowest_loss(recipe),
                              loss_in_words(recipe))


def loss_by_t_figure(run):
    """The loss of the sampling weights by timestep."""
    edges, losses = loss_by_t(run.sampler(), run.backend, run.recipe, run.seed, run.data)
    title = f"{recipe_in_words(run.recipe)}: loss by timestep"
    return figures.loss_buckets(edges, losses, title, recipe_floor(run.recipe), loss_in_words(run.recipe))


def schedule_figure(run):
    """The noise schedule."""
    schedule = run.recipe.make_schedule()
    return figures.schedule_curves(schedule, f"{run.recipe.schedule} schedule, T = {schedule.T}")


def samples_figure(run, x, sampling, label=None):
    """Samples x: points (n, D) over the data, or a grid of images (n, C, H, W)."""
    title = sampling_in_words(run.recipe, sampling, len(x))
    if label is not None:
        title += f", class {class_names(run)[label]}"
    if is_image(run.recipe.model):
        return figures.image_grid(x, 8, title)
    return figures.samples_over_data(x, background(run), title)


def filmstrip(run, n, sampling, seed, quiet):
    """The way from noise to n samples (2,000 points or 4 images unless given)."""
    image = is_image(run.recipe.model)
    n = n if n is not None else 4 if image else 2000
    chain, title = strip(stops(run, n, sampling, seed, quiet)), sampling_in_words(run.recipe, sampling, n)
    if image:
        return figures.image_filmstrip(chain, title)
    return figures.filmstrip(chain, background(run), title)


def stops(run, n, sampling, seed, quiet):
    """The chain of n samples from noise to data: a list of (t, x), in the data's own units.

    It has at most 400 stops, all of them where there are less than 400, and always the last.
    """
    count = run.stops(sampling)
    every = max(1, count // 200)
    walk = progress(run.chain(n, run.labels(n), sampling, seed), count, "sampling", quiet)
    return [(t, run.in_units(x)) for k, (t, x) in enumerate(walk) if k % every == 0 or t == 0]


def strip(chain):
    """The stops of a chain that a filmstrip shows: those nearest to the fractions SHOWN of its start."""
    start, _ = chain[0]
    return [min(chain, key=lambda stop, share=share: abs(stop[0] - share * start)) for share in SHOWN]


def background(run, n=2000):
    """n points of the run's data to draw samples over, or None where its file is no longer there."""
    try:
        return run.in_units(run.fresh_data(n, run.seed))
    except (FileNotFoundError, ValueError):
        return None


def class_names(run):
    """What the labels of a run mean: the data's own words, else the numbers."""
    names = run.config.data.get("class_names")              # runs of older versions have none
    return names or tuple(map(str, range(getattr(run.recipe.model, "classes", 0))))


def recipe_in_words(recipe):
    """What a picture's title says of a recipe."""
    return f"{recipe.name}, {recipe.schedule} schedule, T = {recipe.num_train_timesteps}"


def sampling_in_words(recipe, sampling, n):
    """What a picture's title says of n samples."""
    steps = len(sampling.jumps(recipe))
    return f"{recipe_in_words(recipe)}\n{n:,} samples, {sampling.sampler} sampler, {steps:,} steps"


def loss_in_words(recipe):
    """What a picture's axis says of a loss."""
    weight = "" if recipe.loss_weight == "simple" else f"{recipe.loss_weight} weighted "
    return f"loss ({weight}mean squared error of {recipe.prediction_type})"
