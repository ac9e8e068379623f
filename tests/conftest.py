"""What all tests share: no network, fixed seeds, small thread counts, tiny backbones, the optional shared data.

- The environment is set before any library reads it; child processes inherit it.
- Models are made anew for each test (20 ms): peft changes a model in place.
"""

import os
import random
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PIP_NO_INDEX": "1", "DVC_NO_ANALYTICS": "1"}
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "Agg"}

import hypothesis
import pytest
import torch

from gnm.learners import LearnerSettings, build_learner
from gnm.models.lora import LoraSettings, add_lora
from gnm.places import default_models_dir
from gnm.weights.backbones import Backbone, load_backbone
from gnm.weights.pretrained import save_pretrained

PROJECT = Path(__file__).resolve().parents[1]
TINY = ("tiny", "tiny-qwen2", "tiny-qwen3", "tiny-mistral")

torch.set_num_threads(1)  # tiny tensors lose more to threads than they win
hypothesis.settings.register_profile("project", deadline=None, derandomize=True, max_examples=50, database=None)
hypothesis.settings.load_profile("project")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's root."""
    return PROJECT


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The golden cases: what the published implementation gave."""
    return PROJECT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of the published summaries beside the project; the test skips where it is absent."""
    folder = PROJECT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder of published summaries beside the project")
    return folder


@pytest.fixture
def as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones compute in the dtype that is asked for, also on a CPU that emulates it."""
    monkeypatch.setattr("gnm.weights.backbones.computed_in", lambda dtype, device: dtype)


@pytest.fixture
def tiny() -> Backbone:
    """A random Llama with a byte tokenizer, float32."""
    return load_backbone("tiny", dtype="float32")


@pytest.fixture(scope="session")
def open_gates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved tiny memory model whose gates let everything through."""
    settings = {"method": "gnm", "write": {"gates": {"threshold": 0.0}}}
    backbone = load_backbone("tiny", dtype="float32")
    add_lora(backbone.model, LoraSettings(r=2, alpha=4), 0)
    lm = build_learner(LearnerSettings(**settings), backbone, training=True).lm
    about = {"backbone": {"name": "tiny", "digest": backbone.config_digest}, "lora": {"r": 2, "alpha": 4}}
    folder = tmp_path_factory.mktemp("model") / "gated"
    save_pretrained(folder, backbone, lm, {**about, "learner": settings})
    return folder


@pytest.fixture(params=TINY)
def tiny_family(request: pytest.FixtureRequest) -> Backbone:
    """Each of the tiny families in turn, float32."""
    return load_backbone(request.param, dtype="float32")


@pytest.fixture(scope="module")
def smollm2() -> Backbone:
    """The real small backbone in float32; the test skips where it was not fetched yet."""
    if not (default_models_dir() / "smollm2-135m" / "backbone" / "source.json").is_file():
        pytest.skip("needs the backbone smollm2-135m; `make quickstart` fetches it")
    return load_backbone("smollm2-135m", dtype="float32")
