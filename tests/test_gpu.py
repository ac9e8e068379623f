"""On a GPU: the same answers and the same training as on a CPU. All of it skips where torch finds none."""

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from gnm.config import validate
from gnm.evaluate import evaluate
from gnm.metrics.records import read_records
from gnm.params import EvaluateParams, TrainParams
from gnm.train import Trainer
from small_runs import evaluate_settings, train_settings, write_small_documents

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
# of a logit: rounding of sums in another order, by dtype; bfloat16 has three digits
CLOSE = {"float32": 1e-3, "bfloat16": 0.25}


def on(settings: dict, device: str, dtype: str = "float32") -> dict:
    """`settings` with the tiny backbone on `device`, which accelerate is to choose anew."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    return settings | {"backbone": {"name": "tiny", "dtype": dtype, "device": device}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_documents(tmp_path_factory.mktemp("documents"))


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("method", ["memoryllm", "in_context"])
def test_an_evaluation_gives_the_scores_of_a_cpu(data, tmp_path, as_asked, method, dtype):
    found = {}
    for device in ("cpu", DEVICE):
        settings = evaluate_settings(data, tmp_path / device) | {"methods": {method: {"method": method}}}
        params = validate(on(settings, device, dtype), EvaluateParams, "test")
        found[device] = read_records(evaluate(params, method, "a test") / "records.parquet")
    cpu, gpu = found["cpu"], found[DEVICE]
    assert cpu["input"].equals(gpu["input"])
    for score in ("logit_target", "logit_non_target"):
        assert (cpu[score] - gpu[score]).abs().max() < CLOSE[dtype]


@pytest.mark.parametrize("method", ["gnm", "in_context_ft"])
def test_steps_of_a_training_have_the_losses_of_a_cpu(data, tmp_path, method):
    """Within what TF32 rounds."""
    losses = {}
    for device in ("cpu", DEVICE):
        params = validate(on(train_settings(data, tmp_path / device), device), TrainParams, "test")
        run = Trainer(params, method, "a test")
        losses[device] = [run.step(step)["loss"] for step in range(3)]
    assert losses[DEVICE] == pytest.approx(losses["cpu"], rel=1e-2)


def test_a_training_is_carried_through(data, tmp_path):
    params = validate(on(train_settings(data, tmp_path), DEVICE, "bfloat16"), TrainParams, "test")
    Trainer(params, "gnm", "a test").fit()
    assert (tmp_path / "gnm" / "adapter_model.safetensors").is_file()
    assert torch.cuda.max_memory_allocated() > 0
