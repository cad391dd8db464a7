"""Backends: libraries that compute a network, its gradients and its updates, all behind one interface."""

import textwrap
from dataclasses import fields
from importlib.metadata import entry_points


def backend_class(name):
    """The class of the backend called `name`: numpy, or what an installed package offers by an entry point.

    The entry point is in the group `npdiff.backends`. Raises ValueError if there is none, or if it fails.
    """
    if name == "numpy":                     # it needs no entry point: npdiff may be a folder on Python's path
        from npdiff.backends.numpy import NumpyBackend
        return NumpyBackend
    found = {point.name: point for point in entry_points(group="npdiff.backends")}
    if name not in found:
        raise ValueError(f"backend is {name!r}; it must be one of {', '.join(sorted({'numpy', *found}))}. "
                         "Another is found when its package is installed, npdiff's own by: pip install -e .")
    try:
        return found[name].load()
    except ModuleNotFoundError as error:
        hint = f': pip install -e ".[{name}]"' if name in own_extras(found[name]) else ""
        raise ValueError(
            f"backend {name} needs the package {error.name}, which is not installed{hint}") from error
    except Exception as error:              # a library may raise anything while it is loaded
        raise ValueError(f"backend {name} does not load: {in_short(error)}") from error


def own_extras(point):
    """The extras of npdiff if the entry point is npdiff's own, else nothing."""
    metadata = point.dist.metadata if point.dist else {}
    return metadata.get_all("Provides-Extra", []) if metadata.get("Name") == "npdiff" else []


def load_backend(name, device="cpu", dtype="float32", threads=None, **options):
    """The backend called `name`, ready to compute.

    threads is how many it may use; the library's default unless given. options are fields of its own Options.
    Raises ValueError for an unknown backend, device, dtype or option, and for a library that fails.
    """
    backend = backend_class(name)
    known = [field.name for field in fields(backend.Options)] if backend.Options else []
    for option in options:
        if option not in known:
            raise ValueError(f"{option} is no option of backend {name}; it has {', '.join(known) or 'none'}")
    try:
        return backend(device, dtype, threads, backend.Options(**options) if backend.Options else None)
    except ValueError:
        raise
    except Exception as error:              # or while it looks for the device
        raise ValueError(f"backend {name} does not start on {device}: {in_short(error)}") from error


def in_short(error):
    """An error of another library as a part of one line: the first line of its message, not too long."""
    message = str(error).strip() or type(error).__name__
    return textwrap.shorten(message.splitlines()[0], 120, placeholder=" ...")
