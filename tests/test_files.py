"""Files are written whole or not at all."""

import json
import os
import signal
import stat

import pytest

from gnm.files import (
    atomic_folder,
    atomic_path,
    recover_folder,
    recover_folders,
    remove_leftovers,
    write_json,
    write_text,
)
from processes import exit_code


def listing(folder):
    return sorted(p.name for p in folder.iterdir())


def test_text_and_json_are_written_into_new_folders(tmp_path):
    write_text(tmp_path / "a" / "b" / "t.txt", "grün\n")
    assert (tmp_path / "a" / "b" / "t.txt").read_bytes() == "grün\n".encode()
    write_json(tmp_path / "v.json", {"ä": [1, None, 0.5]})
    assert (tmp_path / "v.json").read_text(encoding="utf-8") == '{\n  "ä": [1, null, 0.5]\n}\n'
    write_json(tmp_path / "v.json", [1], indent=None)
    assert (tmp_path / "v.json").read_text() == "[1]\n"
    assert listing(tmp_path) == ["a", "v.json"]


def test_a_matrix_of_json_has_a_line_for_each_row_and_texts_stay_as_they_are(tmp_path):
    value = {"matrix": [[0.5, None], [-1e-9, True]], "texts": ["a [ 1,  2 ]", "[\n 3\n]"], "one": [{"a": [1], "b": []}]}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == value
    assert '"matrix": [\n    [0.5, null],\n    [-1e-09, true]\n  ]' in text and '"a": [1]' in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, {"a": object()}])
def test_what_is_no_json_leaves_the_old_file(tmp_path, value):
    write_json(tmp_path / "v.json", "old")
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "v.json", {"deep": [value]})
    assert json.loads((tmp_path / "v.json").read_text()) == "old"
    assert listing(tmp_path) == ["v.json"]


def test_a_failure_while_writing_leaves_the_old_file_or_none(tmp_path):
    (tmp_path / "f").write_text("old")
    for name in ("f", "g"):
        with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / name) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt
    assert listing(tmp_path) == ["f"] and (tmp_path / "f").read_text() == "old"


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "f"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path and temporary != target  # one file system: renaming is atomic
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and listing(tmp_path) == ["f"]


def test_a_folder_in_the_place_of_a_file_is_left_alone(tmp_path):
    (tmp_path / "f" / "inner").mkdir(parents=True)
    with pytest.raises(OSError):
        write_text(tmp_path / "f", "text")
    assert listing(tmp_path) == ["f"] and listing(tmp_path / "f") == ["inner"]


def test_files_and_folders_have_ordinary_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "f", "text")
        with atomic_folder(tmp_path / "d") as temporary:
            write_text(temporary / "inner", "text")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("f", "d", "d/inner")]
    assert modes == [0o640, 0o750, 0o640]


def test_a_private_file_is_its_owners_alone_from_the_start_and_a_mode_and_a_link_are_kept(tmp_path):
    (tmp_path / "link").symlink_to("f")
    with atomic_path(tmp_path / "link", private=True) as temporary:
        temporary.write_text("text")
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    (tmp_path / "f").chmod(0o604)
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "f").read_text() == "new" and (tmp_path / "link").is_symlink()
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o604


def test_what_is_written_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda handle: done.append("sync") or fsync(handle))
    monkeypatch.setattr("os.replace", lambda *names: done.append("rename") or rename(*names))
    write_text(tmp_path / "f", "text")
    assert done == ["sync", "rename", "sync"]


def test_a_folder_with_all_that_is_in_it_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda handle: done.append(os.fstat(handle).st_ino) or fsync(handle))
    monkeypatch.setattr("os.replace", lambda *names: done.append("rename") or rename(*names))
    with atomic_folder(tmp_path / "d") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "f").write_text("text")
    inside = {(tmp_path / name).stat().st_ino for name in ("d", "d/inner", "d/inner/f")}
    assert {*done[:3]} == inside and done[3:] == ["rename", tmp_path.stat().st_ino]


def test_what_a_kill_left_of_a_file_is_removed_and_nothing_else(tmp_path):
    for name in (".f[1].abcd1234.part", ".f1.abcd1234.part", ".f[1].lock", "f[1]"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "f[1]")
    assert listing(tmp_path) == [".f1.abcd1234.part", ".f[1].lock", "f[1]"]


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    for number in (1, 2):
        with atomic_folder(tmp_path / "deep" / "d") as temporary:
            (temporary / f"file{number}").write_text("x")
            if number == 2:
                assert listing(tmp_path / "deep" / "d") == ["file1"]
    assert listing(tmp_path / "deep" / "d") == ["file2"] and listing(tmp_path / "deep") == ["d"]


def test_a_failure_leaves_the_old_folder_or_none(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()
    for name in ("d", "e"):
        with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / name) as temporary:
            (temporary / "half").touch()
            raise KeyboardInterrupt
    assert listing(tmp_path) == ["d"] and listing(tmp_path / "d") == ["old"]


def test_a_failure_while_the_folders_change_places_brings_the_old_one_back(tmp_path, monkeypatch):
    target = tmp_path / "d"
    target.mkdir()
    (target / "old").touch()
    replace = os.replace

    def refuse_the_new(source, destination):
        if destination == target and not (source / "old").exists():
            raise OSError("device busy")
        replace(source, destination)

    monkeypatch.setattr("os.replace", refuse_the_new)
    with pytest.raises(OSError, match="device busy"), atomic_folder(target) as temporary:
        (temporary / "new").touch()
    assert listing(tmp_path) == ["d"] and listing(target) == ["old"]


def test_a_file_in_the_place_of_a_folder_is_left_alone(tmp_path):
    (tmp_path / "d").write_text("a file")
    with pytest.raises(OSError), atomic_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()
    assert listing(tmp_path) == ["d"] and (tmp_path / "d").read_text() == "a file"


def killed_between_renamings(target):
    """Save a folder anew, until its second renaming."""
    replace = os.replace
    os.replace = lambda source, to: os._exit(9) if to == target else replace(source, to)
    with atomic_folder(target) as temporary:
        (temporary / "new").touch()


@pytest.mark.parametrize("one", [True, False])
def test_a_folder_that_a_kill_left_aside_is_brought_back(tmp_path, one):
    """The kill falls between the two renamings: nothing that Python would do after an error is done."""
    target = tmp_path / ".d[1]"
    target.mkdir()
    (target / "old").touch()
    assert exit_code(killed_between_renamings, target) == 9
    assert not target.exists()
    (recover_folder(target) if one else recover_folders(tmp_path))
    assert listing(target) == ["old"]
    with atomic_folder(target) as temporary:
        (temporary / "newer").touch()
    assert listing(tmp_path) == [".d[1]"] and listing(target) == ["newer"]  # nothing is left of the killed one


def test_a_save_after_a_kill_between_the_renamings_keeps_the_old_folder_until_it_is_whole(tmp_path):
    (tmp_path / ".d.abcd1234.old").mkdir()
    (tmp_path / ".d.abcd1234.old" / "old").touch()
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "d"):
        raise KeyboardInterrupt
    assert listing(tmp_path) == ["d"] and listing(tmp_path / "d") == ["old"]


def test_a_save_after_a_kill_behind_the_renamings_removes_what_was_replaced(tmp_path):
    for name in ("d", ".d.abcd1234.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "some").touch()
    with atomic_folder(tmp_path / "d") as temporary:
        (temporary / "new").touch()
    assert listing(tmp_path) == ["d"] and listing(tmp_path / "d") == ["new"]


def killed_half_way(kind, target):
    with kind(target):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("kind", [atomic_path, atomic_folder])
def test_the_next_save_removes_what_a_killed_one_left_and_not_what_another_is_writing(tmp_path, kind):
    assert exit_code(killed_half_way, kind, tmp_path / "d") == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".part"
    with kind(tmp_path / "d") as temporary:
        assert listing(tmp_path) == [temporary.name] and temporary != left
        with kind(tmp_path / "d") as other:
            assert set(listing(tmp_path)) == {temporary.name, other.name}
        assert set(listing(tmp_path)) == {temporary.name, "d"}
    assert listing(tmp_path) == ["d"]


def test_nothing_is_brought_back_where_nothing_is_missing(tmp_path):
    recover_folder(tmp_path / "never")
    for folder in ("d", ".d.abcd1234.old", ".e.abcd1234.old"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".d.abcd1234.old" / "older").touch()
    recover_folder(tmp_path / "d")
    recover_folder(tmp_path / "e")  # what was moved aside is empty: the kill came before the first renaming
    assert listing(tmp_path / "d") == [] and not (tmp_path / "e").exists()
