"""The entry point for programs: `load` makes a Conversation (`conversation.py`), a memory with its model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnm.config import validate
from gnm.conversation import Conversation
from gnm.devices import pick_device
from gnm.errors import CheckpointError, ConfigError
from gnm.learners import LearnerSettings, build_learner
from gnm.learners.memory import MemoryLearner
from gnm.places import default_adapter
from gnm.weights.adapter_info import AdapterInfo, BackboneInfo
from gnm.weights.adapters import read_about
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import STATE, load_model, local_folder, model_digest

DEFAULT_ADAPTER = default_adapter()


def load(
    adapter: str | Path | None = DEFAULT_ADAPTER,
    *,
    backbone: str | None = None,
    dtype: str = "bfloat16",
    device: str = "auto",
    capacity: int | None = None,
    eviction: str | None = None,
    gates: Mapping[str, Any] | None = None,
    store: Mapping[str, Any] | None = None,
    keep_notes: bool = True,
    undo_steps: int = 20,
) -> Conversation:
    """Load a model with its memory adapter, and begin with an empty memory, or with the one that was saved with it.

        memory = load()
        memory.write("Oslo lies on a fjord.", "Learn all facts.")
        memory.ask("Oslo lies on a")

    adapter: the folder of a trained memory adapter or of a saved model, or a repository of the hub ("owner/name").
    None: the backbone without any adapter. The default is the adapter that is shipped.
    backbone: a name of gnm.weights.backbones. None: the backbone that the adapter was trained on.
    dtype: of the backbone's weights. device: "cpu", "cuda", or "auto" for a GPU if there is one.
    capacity: the most slots that the pool holds. eviction: which slots go when it is full ("random", "oldest",
    "weakest"). None: as the model's settings say; without such settings there is no limit.
    gates: settings of the write gates to change, such as {"threshold": 0.95, "reread": True}; all of them are in
    `gnm.models.gates.write.GateSettings`.
    store: settings of a long-term store, where questions find again what the pool evicted, such as {"k": 8}; all of
    them are in `gnm.memory.store.StoreSettings`. It needs write gates and a capacity.
    keep_notes: whether the memory keeps words of its documents (instruction, stored text) for people to read.
    undo_steps: how many changes can be undone.
    Raises BackboneError or CheckpointError if model or adapter cannot be loaded, ConfigError for a setting that makes
    no sense, MemoryFileError if the memory that was saved with the model is damaged.
    """
    if undo_steps < 0:
        raise ConfigError(f"undo_steps: {undo_steps} is below 0; give how many changes are to be undone at most")
    folder = None if adapter is None else local_folder(adapter)
    about: Mapping[str, Any] = {"lora": None, "learner": {"method": "memoryllm"}}
    if folder is not None:
        about = read_about(folder)
    name = backbone or about.get("backbone", {}).get("name")
    if name is None:
        raise CheckpointError("neither an adapter nor a backbone is named; give one of them")
    loaded = load_backbone(name, dtype=dtype, device=pick_device(device))
    if folder is not None:
        about, loaded = load_model(folder, loaded)
    validate(about["learner"], LearnerSettings, f"the settings of {adapter or name}")
    given = {"capacity": capacity, "eviction": eviction, "store": store}
    pool = {name: value for name, value in given.items() if value is not None}
    changed: dict[str, Any] = {"memory": {**about["learner"].get("memory", {}), **pool}}
    if gates is not None:
        write = about["learner"].get("write", {})
        if not write.get("gates"):
            raise ConfigError(f"gates: {adapter or name} has no write gates; load a model that was trained with them")
        changed["write"] = {**write, "gates": {**write["gates"], **gates}}
    settings = validate({**about["learner"], **changed}, LearnerSettings, f"the settings of {adapter or name}")
    learner = build_learner(settings, loaded)
    if not isinstance(learner, MemoryLearner):
        raise CheckpointError(
            f"{adapter} was trained as {settings.method}, which keeps no pool of slots; give a gnm adapter"
        )
    lora = loaded.memory.shape.lora if loaded.memory else None
    own = {
        "backbone": BackboneInfo(name=loaded.name, digest=loaded.config_digest, dtype=dtype),
        "lora": about["lora"] or lora,
        "learner": settings.model_dump(mode="json", exclude={"adapter", "backbone"}, exclude_unset=True),
    }
    about = AdapterInfo(**{**about, **own}).as_json()
    conversation = Conversation(
        learner.eval(), loaded, about, model_digest(loaded), keep_notes=keep_notes, undo_steps=undo_steps
    )
    if folder is not None and (folder / STATE).is_file():
        conversation.load_memory(folder / STATE)
    return conversation
