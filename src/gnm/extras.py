"""Packages that only some of the work needs, and the extra of `pip install 'gnm[...]'` that brings each."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from gnm.errors import ConfigError, exit_on_error

EXTRAS = {
    "bm25s": "retrieval",
    "datasets": "data",
    "dvc": "experiments",
    "dvclive": "train",
    "faiss": "search",
    "lm_eval": "harness",
    "matplotlib": "analysis",
    "pandas": "analysis",
    "prometheus_client": "serve",
    "pyarrow": "analysis",
    "starlette": "serve",
    "tqdm": "train",
    "uvicorn": "serve",
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


@contextmanager
def program_imports(name: str) -> Iterator[None]:
    """`optional_imports` at the head of a program; where that is run, `name` is "__main__", the error ends it in a
    sentence."""
    with exit_on_error() if name == "__main__" else nullcontext(), optional_imports():
        yield
