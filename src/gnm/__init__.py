"""Generalized Neural Memory: a latent memory for language models that follows instructions on what to keep."""

__version__ = "0.1.0"
