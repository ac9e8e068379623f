"""Where adapter and backbones lie: in the checkout, if there is one, else in the package and in the user's cache."""

import os
from pathlib import Path

from platformdirs import user_cache_path

_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The project's root if this package is imported out of a checkout of it, None if it was installed as a wheel."""
    project = _PACKAGE.parent.parent
    return project if _PACKAGE.parent.name == "src" and (project / "pyproject.toml").is_file() else None


def default_adapter() -> Path:
    """The folder of the adapter that is shipped: `models/smollm2-135m/gnm` of the checkout, `adapter` of the wheel."""
    project = checkout()
    return _PACKAGE / "adapter" if project is None else project / "models" / "smollm2-135m" / "gnm"


def default_models_dir() -> Path:
    """The folder of backbones: $GNM_MODELS if set, else `models` of the checkout or of the user's cache."""
    if os.environ.get("GNM_MODELS"):
        return Path(os.environ["GNM_MODELS"])
    return (checkout() or user_cache_path("gnm", appauthor=False)) / "models"
