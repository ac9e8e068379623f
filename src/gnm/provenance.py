"""Where a result came from: versions, git commit, device, command. Goes into run_config.json and gnm.json."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

import gnm
from gnm.devices import computed_in
from gnm.places import checkout

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy")


def provenance(device: torch.device | str) -> dict[str, str]:
    """Versions, commit and device of this process, as text."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    device = torch.device(device)
    threads = torch.get_num_threads()
    hardware = f"CPU, {threads} thread{'s' * (threads != 1)}"
    if device.type == "cpu" and computed_in(torch.bfloat16, device) != torch.bfloat16:
        hardware += ", bfloat16 computed in float32"
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    return {
        "python": platform.python_version(),
        "versions": versions,
        "commit": git_commit(),
        "device": hardware,
    }


def git_commit() -> str:
    """The commit of the project's working tree, with "+changes" if it has any; "unknown" outside git.

    An installed package has no commit (a repository around it is another project's), so its version stands there.
    """
    if checkout() is None:
        return f"gnm {gnm.__version__}"
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", here) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
