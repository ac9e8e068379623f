"""Runs functions in processes of their own: several that form one group (gloo), as torchrun's would; or one that dies.

They are forks of a server that has imported everything, so that none takes a start, and none the memory of the tests.
Functions and arguments are pickled: functions are those of a module.
"""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch.distributed

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["gnm.train", "gnm.evaluate", "gnm.files"])


def free_port() -> int:
    """A port on which nothing listens just now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `count` processes, by rank; fails if one of them fails."""
    port = free_port()
    queue = _SERVER.Queue()
    ranks = [_SERVER.Process(target=_run, args=(r, count, port, queue, function, arguments)) for r in range(count)]
    for process in ranks:
        process.start()
    results = dict(queue.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(timeout=30)
    if failures := [str(value) for value in results.values() if isinstance(value, _Failure)]:
        raise AssertionError("\n".join(failures))
    return [results[rank] for rank in range(count)]


def exit_code(function: Callable[..., Any], *arguments: Any) -> int:
    """What a process that calls `function(*arguments)` ends with; minus the signal that kills it."""
    process = _SERVER.Process(target=function, args=arguments)
    process.start()
    process.join(timeout=120)
    return process.exitcode


class _Failure(str):
    """A traceback of another process."""


def _run(rank: int, count: int, port: int, queue, function, arguments) -> None:
    torch.set_num_threads(1)  # as in the tests' own process
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_PORT": str(port)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    try:
        queue.put((rank, function(*arguments)))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except BaseException:
        queue.put((rank, _Failure(traceback.format_exc())))
