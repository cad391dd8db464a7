"""Backends: libraries that compute a network, its gradients and its updates, all behind one interface."""

from dataclasses import fields
from importlib.metadata import entry_points


def backend_class(name):
    """The class of the backend called `name`: numpy, or what an installed package offers by an entry point.

    The entry point is in the group `npdiff.backends`. Raises ValueError if there is none.
    """
    found = {point.name: point for point in entry_points(group="npdiff.backends")}
    if name not in found:
        raise ValueError(f"backend is {name!r}; it must be one of {', '.join(sorted(found))}")
    try:
        return found[name].load()
    except ModuleNotFoundError as error:
        raise ValueError(f"backend {name} needs the package {error.name}, which is not installed: "
                         f"pip install \"npdiff[{name}]\"") from None


def load_backend(name, device="cpu", dtype="float32", threads=None, **options):
    """The backend called `name`, ready to compute.

    threads is how many it may use; the library's default unless given. options are fields of its own Options.
    Raises ValueError for an unknown backend, device, dtype or option.
    """
    backend = backend_class(name)
    known = [field.name for field in fields(backend.Options)] if backend.Options else []
    for option in options:
        if option not in known:
            raise ValueError(f"{option} is no option of backend {name}; it has {', '.join(known) or 'none'}")
    return backend(device, dtype, threads, backend.Options(**options) if backend.Options else None)
