"""Stores whose entries lie in files beside the memory file: what is kept, what a damaged or missing file says."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gnm.errors import MemoryFileError
from gnm.memory import load_memory, parts, save_memory
from gnm.memory.mapped import Mapped
from gnm.memory.parts import filing, parts_folder, remove_parts
from gnm.memory.state import PREAMBLE, MemoryState
from gnm.memory.store import COLUMNS, LongTermStore

ROW = 6 * 4  # bytes of a slot's entry


def store_of(sources, first=0, dtype=torch.float32):
    """Segments of two slots each, one of each document in `sources`; numbers of its entry tell a segment."""
    count = len(sources)
    columns = {
        "source": torch.tensor(sources), "segment": torch.zeros(count).long(), "stored_at": torch.zeros(count).long(),
        "retrieved": torch.zeros(count).long(), "strength": torch.ones(count), "keys": torch.ones(count, 3),
        "meanings": torch.ones(count, 3),
    }  # fmt: skip
    entries = (first + torch.arange(2 * count)[:, None] // 2 + torch.arange(6) / 10).to(dtype)
    return LongTermStore.cut("a key", columns, entries, [2] * count)


def state_of(store):
    one = torch.ones(1, 1)
    return MemoryState(
        torch.zeros(1, 2, 1, 3), one.bool(), torch.full((1, 1), PREAMBLE), torch.tensor([0]), written=9,
        strength=one, segment=-one.long(), store=(store,),
    )  # fmt: skip


def saved(path, state, model="a", on_disk=True):
    """`state` as it is after it was saved."""
    with filing(path, state, model, on_disk) as filed:
        save_memory(path, filed, model)
    return filed


def names(path):
    return sorted(each.name for each in parts_folder(path).glob("*"))


def part(path, number=0):
    return parts_folder(path) / names(path)[number]


def test_what_is_on_disk_is_what_was_saved_and_is_read_from_there(tmp_path):
    path, store = tmp_path / "m", store_of([0, 1, 2])
    filed = saved(path, state_of(store)).store[0]
    loaded = load_memory(path, "a")[0]
    for own in (filed, loaded.store[0]):
        assert all(isinstance(entry, Mapped) for entry in own.entries)
        assert own.equals(store) and own.bytes == store.bytes and own.lengths.tolist() == [2, 2, 2]
        assert torch.equal(own.slots([2, 0])["entries"], store.slots([2, 0])["entries"])
        assert torch.equal(own.slots([1], 2)["entries"], store.entries[1][:, -2:])
    assert path.stat().st_size < 4000 and len(names(path)) == 1 and part(path).stat().st_mode & 0o777 == 0o600
    assert loaded.equals(state_of(store)) and not loaded.equals(state_of(store_of([0, 1, 2], first=1)))
    other = loaded.store[0].to(torch.bfloat16)
    assert other.slots([1])["entries"].dtype == other.blank.dtype == torch.bfloat16
    again = saved(path, state_of(other)).store[0]
    assert again.equals(store.to(torch.bfloat16)) and load_memory(path, "a")[0].store[0].equals(again)


def test_full_parts_stay_small_ones_grow_and_what_is_dropped_is_in_none(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 4 * ROW)
    path = tmp_path / "m"
    state = saved(path, state_of(store_of([0, 1, 2])))
    first = names(path)
    assert len(first) == 2 and saved(path, state).store[0].equals(state.store[0]) and names(path) == first
    state = saved(path, state_of(state.store[0].add(store_of([3, 4], first=3))))
    full = {entry.part.path.name for entry in state.store[0].entries[:2]}
    assert len(names(path)) == 3 and full == set(first) & set(names(path))
    held = state.store[0].select(state.store[0].source != 1)
    left = saved(path, state_of(held))
    assert left.store[0].equals(held) and state.store[0].equals(store_of([0, 1, 2, 3, 4]))  # undo can read it
    files = b"".join(each.read_bytes() for each in parts_folder(path).glob("*"))
    gone, kept = (store_of([0], first=number).entries[0].numpy().tobytes() for number in (1, 0))
    assert gone not in files and kept in files
    assert load_memory(path, "a")[0].store[0].equals(held)


def test_copies_have_parts_of_their_own_and_one_file_takes_all_in_again(tmp_path):
    state = saved(tmp_path / "m", state_of(store_of([0, 1])))
    copy = saved(tmp_path / "copy", state)
    assert names(tmp_path / "copy") == names(tmp_path / "m")
    whole = saved(tmp_path / "m", state, on_disk=False)
    assert not parts_folder(tmp_path / "m").exists() and all(
        isinstance(each, torch.Tensor) for each in whole.store[0].entries
    )
    save_memory(tmp_path / "alone", copy, "a")  # such as a saved model
    for name in ("m", "copy", "alone"):
        assert load_memory(tmp_path / name, "a")[0].equals(state)
    assert not parts_folder(tmp_path / "alone").exists()
    empty = saved(tmp_path / "copy", state_of(store_of([0]).select(torch.tensor([False]))))
    assert not parts_folder(tmp_path / "copy").exists() and len(empty.store[0]) == 0


@pytest.mark.parametrize("where", ["part", "memory", "killed"])
def test_a_failed_save_leaves_the_old_memory_and_nothing_new(tmp_path, monkeypatch, where):
    path, old = tmp_path / "m", state_of(store_of([0, 1]))
    before = saved(path, old)
    (parts_folder(path) / ".x.safetensors.12345678.part").touch()  # of a killed process
    write, listed = Path.write_bytes, names(path)

    def full(target, data):
        if where == "killed":
            raise KeyboardInterrupt
        if (".parts" in str(target)) == (where == "part"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(target, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    expected, message = (KeyboardInterrupt, "^$") if where == "killed" else (MemoryFileError, "m: No space .*make room")
    with pytest.raises(expected, match=message):
        saved(path, state_of(before.store[0].add(store_of([2]))))
    monkeypatch.undo()
    assert set(names(path)) < set(listed) and len(names(path)) == 1
    assert load_memory(path, "a")[0].equals(old)


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    with open(path, "r+b") as file:  # in place
        file.write(data)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-8])


def other_memorys(path):
    size = path.stat().st_size
    saved(path.parent.parent / "n", state_of(store_of([0, 1])), model="b")
    (part(path.parent.parent / "n")).replace(path)
    assert path.stat().st_size == size


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Path.unlink, r"is missing; copy the folder m\.parts along"),
        (truncated, r"has \d+ bytes instead of \d+; restore it from a copy"),
        (other_memorys, "is a part of another memory; copy the folder m.parts of this memory file"),
    ],
)
def test_parts_that_are_not_what_they_were_are_refused(tmp_path, how, message):
    path = tmp_path / "m"
    saved(path, state_of(store_of([0, 1])))
    place = part(path)
    how(place)
    with pytest.raises(MemoryFileError, match=f"{place} {message}"):
        load_memory(path, "a")


def test_a_damaged_segment_is_refused_when_it_is_read_and_no_other(tmp_path):
    path = tmp_path / "m"
    store = saved(path, state_of(store_of([0, 1]))).store[0]
    flipped(part(path))
    for own in (store, load_memory(path, "a")[0].store[0]):
        assert torch.equal(own.slots([0])["entries"], store_of([0]).entries[0])
        with pytest.raises(MemoryFileError, match="is damaged .*checksum is another.*restore it from a copy"):
            own.slots([1])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("part", 1, "outside"), ("part", -1, "outside"), ("start", 3, "outside"), ("lengths", 0, "outside")],
)
def test_references_that_no_save_makes_are_refused(tmp_path, monkeypatch, column, value, message):
    path = tmp_path / "m"
    filed = saved(path, state_of(store_of([0, 1]))).store[0]
    listed, (own,) = parts.references(path, [filed])
    tensors = {**filed.columns(), **own}
    found = parts.referred(path, listed, "a", tensors, filed.blank)
    assert filed.with_entries(found).equals(store_of([0, 1]))
    wrong = {**tensors, column: torch.tensor([0 if column != "lengths" else 2, value])}
    with pytest.raises(ValueError, match=message):
        parts.referred(path, listed, "a", wrong, filed.blank)
    with pytest.raises(ValueError, match="another size"):
        parts.referred(path, listed, "a", tensors, filed.blank[:, :5])
    with pytest.raises(ValueError, match="a name that none can have"):
        parts.referred(path, [["../m", 5]], "a", tensors, filed.blank)
    assert parts.references(tmp_path / "other", [filed]) is None
    assert parts.references(path, [filed.add(store_of([2]))]) is None


def test_a_segment_of_one_slot_is_read_from_its_part(tmp_path):
    path, columns = tmp_path / "m", store_of([0, 1]).columns()
    short = LongTermStore.cut("a key", {n: columns[n] for n in COLUMNS if n != "words"}, torch.randn(3, 6), [1, 2])
    saved(path, state_of(short))
    assert load_memory(path, "a")[0].store[0].equals(short)


def test_what_was_read_stays_where_the_part_is_written_over_in_place(tmp_path):
    path, store = tmp_path / "m", store_of([0, 1])
    entry = saved(path, state_of(store)).store[0].entries[1]
    whole, end = entry.read(), entry.last(2)
    with part(path).open("r+b") as file:
        file.write(bytes(part(path).stat().st_size))
    assert torch.equal(whole, store.entries[1]) and torch.equal(end, store.entries[1][:, -2:])


def test_a_save_writes_no_part_again_that_is_as_it_was(tmp_path):
    path = tmp_path / "m"
    state = saved(path, state_of(store_of([0, 1])))
    before = part(path).stat().st_ino
    saved(path, state)
    assert part(path).stat().st_ino == before


def test_a_removed_memorys_parts_go_with_it_if_it_has_any(tmp_path):
    saved(tmp_path / "m", state_of(store_of([0, 1])))
    for _ in range(2):
        remove_parts(tmp_path / "m")
        assert not parts_folder(tmp_path / "m").exists()


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    path = tmp_path / "m"
    parts_folder(path).mkdir()
    (parts_folder(path) / "mine.safetensors").touch()
    state = saved(path, state_of(store_of([0])))
    saved(path, replace(state, store=(store_of([0]),)), on_disk=False)
    assert names(path) == ["mine.safetensors"]
