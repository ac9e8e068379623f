"""The latent memory: a value (`state`), the rules of a full pool (`pool`), and its file (`files`)."""

from gnm.memory.files import load_memory, save_memory
from gnm.memory.pool import PoolSettings, append, merge
from gnm.memory.state import PREAMBLE, MemoryState

__all__ = ["PREAMBLE", "MemoryState", "PoolSettings", "append", "load_memory", "merge", "save_memory"]
