"""Where weights come from and how they are kept: backbones, adapters, published checkpoints, tensor files."""
