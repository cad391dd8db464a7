"""What is asked of every network's config, and the checks of configs and input."""


def check_at_least(config, smallest, *names):
    """Raise ValueError unless these fields of a config are at least `smallest`."""
    for name in names:
        if getattr(config, name) < smallest:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {smallest}")


def check_time_dim(config):
    """Raise ValueError unless a config's time_dim is even."""
    if config.time_dim % 2:
        raise ValueError(f"time_dim is {config.time_dim}; it must be even: half sines, half cosines")


def check_image(x, config):
    """Raise ValueError unless x is a batch of images of the config's shape."""
    if x.shape[1:] != config.data_shape:
        raise ValueError(f"the images have shape {x.shape[1:]}; this network takes {config.data_shape}")


def is_image(config):
    """Whether the network is for images (N, C, H, W). Otherwise it is for points (N, D)."""
    return len(config.data_shape) == 3


def label_count(config):
    """How many labels the network knows: its classes and "no label", or 0 if it takes no labels."""
    classes = getattr(config, "classes", 0)
    return classes + 1 if classes else 0
