"""Generalized Neural Memory: a language model with a latent memory that people control in plain English."""

import os

__version__ = "0.1.0"
__all__ = ["load"]

# threads that wait give their core to other work instead of spinning; read when torch's OpenMP is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str):
    # the model's libraries take seconds to import: they load with the first use
    if name == "load":
        from gnm.api import load

        return load
    raise AttributeError(f"module 'gnm' has no attribute {name!r}")
