"""Token lists of different lengths as tensors."""

import torch
from torch import Tensor


def pad(rows: list[list[list[int]]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token lists as ids [B, n, T] long and mask [B, n, T] bool, padded on the right."""
    width = max((len(row) for row in rows), default=0)
    length = max((len(tokens) for row in rows for tokens in row), default=0)
    ids = torch.zeros(len(rows), width, length, dtype=torch.long)
    mask = torch.zeros(len(rows), width, length, dtype=torch.bool)
    for r, row in enumerate(rows):
        for c, tokens in enumerate(row):
            ids[r, c, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            mask[r, c, : len(tokens)] = True
    return ids.to(device), mask.to(device)
