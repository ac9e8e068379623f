"""Fetching from the hub what the paper's scale needs, and checking it: `python download_models.py [--list]`.

- Backbones go where they are loaded from (`models/`, or the hub client's cache), the paper's checkpoints into
  `models/NAME/`, its data set into `data/counterfact_gnm/`.
- A download that was cut off goes on where it stopped. Each file is compared with the checksum that the hub gives for
  it; `source.json` is written beside the files when all of them are right, and says which commit they are.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import DryRunFileInfo, HfApi, snapshot_download
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import DryRunError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from gnm.errors import BackboneError, ConfigError, exit_on_error
from gnm.files import write_json
from gnm.places import default_models_dir
from gnm.weights.backbones import REGISTRY
from gnm.weights.published import DATA_SET, SOURCE, Published
from gnm.weights.sources import LOADED, Hub, Wheel, converted_wheel, hub_errors, require_space, sha256

_TORCH = (".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Item:
    """Something to fetch. folder: where to, None: the hub client's cache; newer: its other name on the hub."""

    name: str
    origin: Hub | Wheel
    folder: Path | None
    kind: str = "model"
    newer: str | None = None

    @property
    def repo(self) -> str:
        return self.origin.repo if isinstance(self.origin, Hub) else self.origin.requirement

    def present(self) -> bool:
        """Whether it is there, as far as can be told without reading it all."""
        if self.folder is None:
            return _cached(self.origin)
        try:
            files = json.loads((self.folder / SOURCE).read_text(encoding="utf-8"))["files"]
            return all((self.folder / name).is_file() for name in files)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False


def items(models_dir: Path, data_dir: Path) -> dict[str, Item]:
    """All that can be fetched, by name."""
    found = {}
    for name, sources in REGISTRY.items():
        origin = next(iter(sources.values()))
        if isinstance(origin, Published):
            found[name] = Item(name, origin.hub, models_dir / name, newer=origin.newer)
        elif isinstance(origin, Wheel):
            found[name] = Item(name, origin, models_dir / name / "backbone")
        elif isinstance(origin, Hub):
            found[name] = Item(name, origin, None)
    found["counterfact_gnm"] = Item("counterfact_gnm", DATA_SET, data_dir / "counterfact_gnm", kind="dataset")
    return found


def fetch(item: Item) -> Path:
    """Fetch `item`, as far as it is not there yet, and compare every file with the hub's checksums.

    Raises BackboneError if the hub is out of reach, the disk too small, or a file is not what the hub says.
    """
    if isinstance(item.origin, Wheel):
        return converted_wheel(item.name, item.origin, item.folder.parent.parent)
    target = item.folder or Path(hub_constants.HF_HUB_CACHE)
    with hub_errors(item.name, item.origin, target):
        repo, planned = _planned(item)
        require_space(item.name, target, sum(file.file_size for file in planned if file.will_download))
        commit, names = planned[0].commit_hash, [file.filename for file in planned]
        revision = commit if item.folder else item.origin.revision  # by which the cache is asked for it
        place = {"revision": revision, "repo_type": item.kind, "local_dir": item.folder}
        folder = Path(snapshot_download(repo, allow_patterns=names, **place))
        checksums = _checksums(item, folder, repo, commit, names)
    if item.folder is not None:
        write_json(item.folder / SOURCE, {"repo": repo, "commit": commit, "files": checksums})
    return folder


def verify(item: Item) -> None:
    """Read everything again and compare it with the checksums of when it was fetched (the hub's, for its cache).

    Raises BackboneError naming the first file that is not what it was.
    """
    if isinstance(item.origin, Wheel):
        converted_wheel(item.name, item.origin, item.folder.parent.parent)
    elif item.folder is None:
        with hub_errors(item.name, item.origin, Path(hub_constants.HF_HUB_CACHE)):
            held = snapshot_download(
                item.repo, revision=item.origin.revision, allow_patterns=LOADED, local_files_only=True
            )
            _checksums(item, Path(held), item.repo, Path(held).name)
    else:
        for name, expected in json.loads((item.folder / SOURCE).read_text(encoding="utf-8"))["files"].items():
            if sha256(item.folder / name) != expected:
                raise _wrong(item, item.folder / name)


def _planned(item: Item) -> tuple[str, list[DryRunFileInfo]]:
    """The repository's name as the hub knows it, and the files that are wanted of it."""
    plan = {"revision": item.origin.revision, "repo_type": item.kind, "local_dir": item.folder, "dry_run": True}
    patterns = None if item.folder else LOADED
    try:
        repo, files = item.repo, snapshot_download(item.repo, allow_patterns=patterns, **plan)
    except DryRunError as error:
        if item.newer is None or not isinstance(error.__cause__, RepositoryNotFoundError):
            raise
        repo, files = item.newer, snapshot_download(item.newer, allow_patterns=patterns, **plan)
    if any(file.filename.endswith(".safetensors") for file in files):  # the same weights once more
        files = [file for file in files if not file.filename.endswith(_TORCH)]
    if not files:
        raise BackboneError(f"{item.name!r}: the hub's repository {repo} holds no files; nothing was fetched")
    return repo, files


def _checksums(item: Item, folder: Path, repo: str, commit: str, names: Sequence[str] | None = None) -> dict[str, str]:
    """The checksums of the files `names` (None: those that are there), all as the hub has them for `commit`."""
    checksums = {}
    for file in HfApi().list_repo_tree(repo, recursive=True, revision=commit, repo_type=item.kind):
        wanted = (folder / file.path).is_file() if names is None else file.path in names
        if isinstance(file, RepoFile) and wanted:
            checksums[file.path] = sha256(folder / file.path)
            _compare(item, folder / file.path, file, checksums[file.path])
    return checksums


def _compare(item: Item, path: Path, file: RepoFile, found: str) -> None:
    if file.lfs is not None:
        right = found == file.lfs.sha256
    else:
        content = path.read_bytes()
        right = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest() == file.blob_id
    if not right:
        raise _wrong(item, path)


def _wrong(item: Item, path: Path) -> BackboneError:
    return BackboneError(f"{item.name!r}: {path} fails its checksum; delete that file and fetch {item.name} again")


def _cached(hub: Hub) -> bool:
    try:
        snapshot_download(hub.repo, revision=hub.revision, allow_patterns=LOADED, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """List, fetch or verify."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="show names, sizes and what is there; fetch nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="fetch these instead of everything")
    parser.add_argument("--verify", action="store_true", help="read what is there again and compare checksums")
    parser.add_argument("--models", type=Path, default=default_models_dir(), help="folder of models")
    parser.add_argument("--data", type=Path, default=default_models_dir().parent / "data", help="folder of data sets")
    options = parser.parse_args(arguments)
    with exit_on_error():
        known = items(options.models, options.data)
        if unknown := sorted(set(options.only or ()) - known.keys()):
            raise ConfigError(f"there is no {', '.join(unknown)} to fetch; known: {', '.join(known)}")
        chosen = [known[name] for name in options.only or known]
        there = {item.name: item.present() for item in chosen}
        for item in chosen if options.list else ():
            state = "there" if there[item.name] else "not there"
            print(f"{item.name:20} {item.origin.space / 1e9:6.1f} GB  {state:9}  {item.repo}")
        for item in () if options.list else chosen:
            if there[item.name] and options.verify:
                verify(item)
                print(f"{item.name} is as it was fetched", flush=True)
            elif not there[item.name] and not options.verify:
                print(f"{item.name}: fetching {item.repo}", file=sys.stderr, flush=True)
                print(f"{item.name} is in {fetch(item)}", flush=True)
            else:
                print(f"{item.name} is {'already' if there[item.name] else 'not'} there", flush=True)
