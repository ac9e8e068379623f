"""Packages that only some of the work needs, and the extra of `pip install 'gnm[...]'` that brings each."""

from collections.abc import Iterator
from contextlib import contextmanager

from gnm.errors import ConfigError

EXTRAS = {
    "bm25s": "retrieval",
    "datasets": "experiments",
    "dvc": "experiments",
    "dvclive": "train",
    "matplotlib": "experiments",
    "pandas": "experiments",
    "pyarrow": "experiments",
    "tqdm": "train",
}


@contextmanager
def optional_imports() -> Iterator[None]:
    """Imports in this context raise ConfigError, with what to install, if a package of an extra is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        raise ConfigError(
            f"this needs the package {package}, which is not installed; run: pip install 'gnm[{EXTRAS[package]}]'"
        ) from error
