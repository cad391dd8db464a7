"""The checks that the networks make of their configs and their input."""


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
