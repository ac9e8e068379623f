"""`gnm serve`: memories behind an HTTP service with a page, on this machine unless told otherwise."""

import argparse
import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_data_path

from gnm.errors import ConfigError, exit_on_error
from gnm.extras import optional_imports
from gnm.serve.keys import Keys, add_user, is_loopback
from gnm.serve.settings import ServeSettings, serve_settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the model, listen, answer until interrupted."""
    options = _parser().parse_args(arguments)
    with exit_on_error():
        if options.add_user is not None:
            if options.keys is None:
                raise ConfigError("--add-user needs --keys FILE, in which the key is remembered")
            print(add_user(options.keys, options.add_user))
            return
        settings, keys = serve_settings(options.params), Keys.read(options.keys)
        if not keys.needed and not is_loopback(options.host):
            raise ConfigError(
                f"{options.host} can be reached from other machines, and no keys are asked for: make one "
                "(gnm serve --keys keys.yaml --add-user NAME) and give --keys keys.yaml"
            )
        with optional_imports():
            _serve(options, settings, keys)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gnm serve", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--memories", type=Path, default=user_data_path("gnm", appauthor=False) / "memories",
        help="folder of the memory files (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8321, help="port to listen on (default: %(default)s)")
    parser.add_argument("--keys", type=Path, help="file of users and what their keys are recognised by")
    parser.add_argument("--add-user", metavar="NAME", help="give NAME a new key, remember it in --keys, print it, end")
    parser.add_argument("--params", type=Path, help="settings file: limits, batches, streams (docs/serve.md)")
    parser.add_argument("--adapter", help="adapter folder; default: the shipped one")
    parser.add_argument("--backbone", help="backbone, untrained unless --adapter is given too")
    parser.add_argument("--capacity", type=int, help="slots of a memory; default: as many as the model can read")
    parser.add_argument(
        "--store", type=int, metavar="SEGMENTS",
        help="keep what a full pool evicts in a long-term store; a question reads so many segments of it",
    )  # fmt: skip
    return parser


def _serve(options: argparse.Namespace, settings: ServeSettings, keys: Keys) -> None:
    from gnm.api import DEFAULT_ADAPTER, load
    from gnm.serve.server import server
    from gnm.serve.service import Service

    if options.store is not None and options.capacity is None and options.adapter is None:
        raise ConfigError("--store keeps what a full pool drops; give the pool's size too: --capacity SLOTS")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("gnm.serve").setLevel(logging.INFO)
    options.memories.mkdir(parents=True, exist_ok=True, mode=0o700)
    listening = _listening(options.host, options.port)  # before the model is loaded: who calls already waits
    adapter = options.adapter or (None if options.backbone else DEFAULT_ADAPTER)
    store = None if options.store is None else {"k": options.store}
    model = load(adapter, backbone=options.backbone, capacity=options.capacity, store=store)
    service = Service(model, options.memories, keys, settings)
    asyncio.run(service.warm_up())
    host, port = listening.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    print(f"http://{address}:{port}/ (memories in {options.memories}; end with Ctrl+C)", flush=True)
    server(service).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigError if there can be none at this address."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}, port {port}: {error}; give --host and --port others") from error


if __name__ == "__main__":
    main()
