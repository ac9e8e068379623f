"""A memory in long use: `python benchmarks/long_use.py`; hundreds of documents, then thousands of questions.

- Printed for every fifth part: ms of CPU time a write, slots, megabytes of the memory, of the history for `undo`, and
  of the process; then, for two rounds of questions, ms a question and by how much the process grew. What is
  needed once and kept, such as buffers of torch, comes with the first round.
- Ends with 1 if the last fifth of the writes took more than twice as long as the second (the first fills the pool), the
  history is larger than `--undo-steps` memories, or the process grew by more than 1 MB over the second round.
"""

import argparse
import ctypes
import resource
import statistics
import sys
import time
from collections.abc import Sequence

from gnm.api import Conversation, load

_GROWTH = 1e6  # bytes; one more state or answer kept for each question would be far more
_PARTS, _AT_ONCE = 5, 50


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--capacity", type=int, default=1000, help="slots of the pool (default: 1000)")
    parser.add_argument("--backbone", default="tiny", help="untrained (default: tiny, a random one)")
    parser.add_argument("--undo-steps", type=int, default=20)
    options = parser.parse_args(arguments)
    memory = load(
        None, backbone=options.backbone, dtype="float32", capacity=options.capacity, eviction="oldest",
        undo_steps=options.undo_steps,
    )  # fmt: skip
    times, part = [], max(options.documents // _PARTS, 1)
    for number in range(options.documents):
        started = time.process_time()
        memory.write(f"Town {number} is in Asia, and {number} people live there.", "Learn it all.")
        times.append(time.process_time() - started)
        if (number + 1) % part == 0:
            held = (bytes_of([memory.state]), history_bytes(memory), process())
            memory_size, history, whole = (f"{size / 1e6:.1f} MB" for size in held)
            print(
                f"{number + 1:6d} documents: {1e3 * statistics.median(times[-part:]):6.1f} ms a write, "
                f"{int(memory.state.used().sum())} slots, memory {memory_size}, history {history}, process {whole}"
            )
    second, last = (statistics.median(times[start : start + part]) for start in (part, len(times) - part))
    for lap in ("first", "second"):
        before, started = process(), time.process_time()
        for first in range(0, options.questions, _AT_ONCE):
            memory.ask_all([f"Town {first + each} is in" for each in range(_AT_ONCE)], max_new_tokens=1)
        taken, grown = time.process_time() - started, process() - before
        print(
            f"{options.questions:6d} questions, {lap} round: {1e3 * taken / max(options.questions, 1):6.1f} ms each, "
            f"the process grew by {grown / 1e6:.1f} MB"
        )
    bound = (options.undo_steps + 1) * bytes_of([memory.state])
    sys.exit(last > 2 * second or history_bytes(memory) > bound or grown > _GROWTH)


def bytes_of(states: Sequence) -> int:
    """Bytes that the tensors of the states hold; what they share counts once."""
    held = {}
    for state in states:
        for tensor in state.tensors().values():
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(held.values())


def history_bytes(memory: Conversation) -> int:
    """Bytes that the states for `undo` hold."""
    return bytes_of([state for state, _ in memory._before._kept])


def process() -> int:
    """Bytes of host memory that the process has now, without what glibc's allocator holds though it was freed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other allocators have no such function
    if trim:
        trim(0)
    with open("/proc/self/statm") as sizes:
        return int(sizes.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
