"""The entry point for programs: `load` makes a Conversation (`conversation.py`), a memory with its model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ConfigDict, Field

from gnm.config import StrictModel, validate
from gnm.conversation import Conversation
from gnm.devices import pick_device
from gnm.errors import CheckpointError, ConfigError
from gnm.learners import LearnerSettings, build_learner, keeps_slots
from gnm.learners.memory import MemoryLearner
from gnm.memory.checks import check_searchable
from gnm.memory.files import SavedMemory, read_memory
from gnm.places import default_adapter
from gnm.weights.adapter_info import AdapterInfo, BackboneInfo
from gnm.weights.adapters import read_about
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import STATE, load_model, local_folder, model_digest

DEFAULT_ADAPTER = default_adapter()


class _Given(StrictModel):
    """The arguments of `load`. Their types are checked strictly: "8" is refused where a number is needed."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)

    adapter: str | Path | None
    backbone: str | None
    dtype: str
    device: str
    capacity: int | None = Field(gt=0)
    eviction: str | None
    gates: Mapping[str, Any] | None
    store: Mapping[str, Any] | None
    keep_notes: bool
    undo_steps: int = Field(ge=0, description="how many changes can be undone at most")
    memory: str | Path | SavedMemory | None


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
    memory: str | Path | SavedMemory | None = None,
) -> Conversation:
    """Load a model with its memory adapter, and return a Conversation that holds one memory.

    The memory is the one that `memory` names, else the one that was saved with the model, else an empty one.

        memory = load()
        memory.write("Oslo lies on a fjord.", "Learn all facts.")
        memory.ask("Oslo lies on a")

    adapter: the folder of a trained memory adapter or of a saved model, or a repository of the hub ("owner/name").
    None: the backbone without any adapter, as method "memoryllm". The default is the adapter that is shipped.
    backbone: a name of gnm.weights.backbones, a folder that holds a decoder, or a repository of the hub ("owner/name").
    None: the backbone that the adapter was trained on.
    dtype: of the backbone's weights. device: "cpu", "cuda", or "auto" for a GPU if there is one.
    capacity: the most slots that the pool holds. eviction: which slots go when it is full ("random", "oldest",
    "weakest"); it needs a capacity. None: as the model's settings say; without such settings there is no limit. A
    memory that is loaded with more slots is trimmed by its next write.
    gates: settings of the write gates to change, such as {"threshold": 0.95, "reread": True}; all of them are in
    `gnm.models.gates.write.GateSettings`.
    store: settings of a long-term store, where questions find again what the pool evicted, such as {"k": 8}; all of
    them are in `gnm.memory.store_settings.StoreSettings`. It needs write gates and a capacity.
    keep_notes: whether the memory keeps words of its documents (instruction, stored text) for people to read.
    undo_steps: how many changes can be undone.
    memory: a memory file, or the SavedMemory that `read_memory` returned for it. A file with a long-term store also
    holds the settings of its pool and store. They replace the model's settings; arguments of this call replace both.
    The model is loaded last, after all checks that do not need it. Raises BackboneError or CheckpointError if model or
    adapter cannot be loaded, ConfigError for a wrong setting, MemoryFileError if the memory is damaged or belongs to
    another model.
    """
    given = {"adapter": adapter, "backbone": backbone, "dtype": dtype, "device": device, "capacity": capacity,
             "eviction": eviction, "gates": gates, "store": store, "keep_notes": keep_notes,
             "undo_steps": undo_steps, "memory": memory}  # fmt: skip
    validate(given, _Given, "load")
    saved = read_memory(memory) if isinstance(memory, str | Path) else memory
    folder = None if adapter is None else local_folder(adapter)
    about: Mapping[str, Any] = {"lora": None, "learner": {"method": "memoryllm"}}
    if folder is not None:
        about = read_about(folder)
        if saved is None and (folder / STATE).is_file():
            saved = read_memory(folder / STATE)
    name = backbone or about.get("backbone", {}).get("name")
    if name is None:
        raise CheckpointError("neither an adapter nor a backbone is named; give one of them")
    where = f"the settings of {adapter or name}"
    validate(about["learner"], LearnerSettings, where)  # the model's own settings first, so that errors name them
    pool = {key: given[key] for key in ("capacity", "eviction") if given[key] is not None}
    changed: dict[str, Any] = {
        "memory": _pool(about["learner"].get("memory", {}), saved, pool, store),
        "adapter": adapter,
    }
    if gates is not None:
        write = about["learner"].get("write", {})
        if not write.get("gates"):
            raise ConfigError(f"gates: {adapter or name} has no write gates; load a model that was trained with them")
        changed["write"] = {**write, "gates": {**write["gates"], **gates}}
    settings = validate({**about["learner"], **changed}, LearnerSettings, where)
    if eviction is not None and settings.memory.capacity is None:
        raise ConfigError(
            f"eviction: {eviction} is what a full pool drops, and a pool without a capacity is never full; give its "
            "size too: capacity, in the shell --capacity SLOTS"
        )
    if not keeps_slots(settings.method):
        raise CheckpointError(
            f"{adapter} was trained as {settings.method}, which keeps no pool of slots; give a gnm adapter"
        )
    if saved is not None:
        store_settings = settings.memory.store
        check_searchable(saved.path, saved.state, store_settings.search_key if store_settings else None)
    loaded = load_backbone(name, dtype=dtype, device=pick_device(device))
    if folder is not None:
        about, loaded = load_model(folder, loaded)
    learner = cast(MemoryLearner, build_learner(settings, loaded))
    lora = loaded.memory.shape.lora if loaded.memory else None  # published MemoryLLM models have adapters of their own
    actual = {  # what was loaded just now; it replaces what the adapter's file says
        "backbone": BackboneInfo(name=loaded.name, digest=loaded.config_digest, dtype=dtype),
        "lora": about["lora"] or lora,
        "learner": settings.model_dump(mode="json", exclude={"adapter", "backbone"}, exclude_unset=True),
    }
    about = AdapterInfo(**{**about, **actual}).as_json()
    digest = model_digest(loaded)
    return Conversation(
        learner.eval(), loaded, about, digest, keep_notes=keep_notes, undo_steps=undo_steps, saved=saved
    )


def _pool(
    own: Mapping[str, Any], saved: SavedMemory | None, given: Mapping[str, Any], store: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Settings of the pool. The arguments `given` to `load` come first, then those of a `saved` memory with a long-term
    store, then the model's `own`.

    Raises ConfigError for a store that would stay empty, because a pool without a capacity evicts nothing.
    """
    from_file = saved.pool if saved is not None and saved.state.store else {}
    if from_file.get("store"):  # files from before there were lexical keys do not say that they have none
        from_file = {**from_file, "store": {"lexical": 0.0, **from_file["store"]}}
    pool = {**own, **from_file, **given}
    if store is not None:
        pool["store"] = {**(from_file.get("store") or {}), **store}
        if pool.get("capacity") is None and pool["store"].get("takes", "evicted") == "evicted":
            raise ConfigError(
                "a store keeps what a full pool drops, and a pool without a capacity drops nothing; give its size too: "
                "capacity, in the shell --capacity SLOTS"
            )
    return pool
