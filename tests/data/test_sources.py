import gzip
import json
import lzma
import sys
import tracemalloc
import types

import pytest
from made_up_facts import make_record

from gnm.data import sources
from gnm.data.sources import read_file, read_json, read_records
from gnm.errors import DataError

TRAIN = [make_record(case_id=1), make_record(case_id=2)]
TEST = [make_record(case_id=10)]


def write(path, records) -> None:
    """Write records in the kind that the path's name says."""
    if path.suffix == ".parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
        return
    lines = ".jsonl" in path.suffixes
    text = "".join(json.dumps(record) + "\n" for record in records) if lines else json.dumps(records)
    path.write_bytes(packed(path.name, text.encode()))


def packed(name: str, data: bytes) -> bytes:
    """What a file of this name holds so that it reads as `data`."""
    pack = {"gz": gzip.compress, "xz": lzma.compress}.get(name.rpartition(".")[2], bytes)
    return pack(data)


def ids(splits) -> dict[str, list[int]]:
    return {split: [record["case_id"] for _, record in records] for split, records in splits.items()}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.xz", ".jsonl.xz", ".parquet"])
def test_folders_of_every_kind_give_the_same_records(tmp_path, suffix):
    write(tmp_path / f"train-00000-of-00001{suffix}", TRAIN)
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / f"test{suffix}", TEST)
    (tmp_path / "README.md").write_text("train and test")
    (tmp_path / "train-test-card.json").write_text("{}")
    splits = read_records(str(tmp_path))
    assert [record for _, record in splits["train"]] == TRAIN
    assert [record for _, record in splits["test"]] == TEST
    assert "train-00000-of-00001" in splits["train"][1][0]


def test_a_saved_arrow_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    whole = datasets.DatasetDict({"train": datasets.Dataset.from_list(TRAIN), "test": datasets.Dataset.from_list(TEST)})
    whole.save_to_disk(str(tmp_path / "both"))
    assert [record for _, record in read_records(str(tmp_path / "both"))["train"]] == TRAIN
    datasets.Dataset.from_list(TRAIN + TEST).save_to_disk(str(tmp_path / "one"))
    assert ids(read_records(str(tmp_path / "one"))) == {"train": [1, 2], "test": [10]}
    (tmp_path / "both" / "dataset_dict.json").write_text("{")
    with pytest.raises(DataError, match="both"):
        read_records(str(tmp_path / "both"))
    datasets.DatasetDict({"train": whole["train"]}).save_to_disk(str(tmp_path / "half"))
    with pytest.raises(DataError, match="no test split"):
        read_records(str(tmp_path / "half"))


def test_a_single_file_is_split_by_id(tmp_path):
    write(tmp_path / "counterfact.json", TRAIN + TEST)
    assert ids(read_records("counterfact.json", base=tmp_path)) == {"train": [1, 2], "test": [10]}


def test_json_lines_may_hold_any_line_separator_but_the_newline(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"a": "one\u2028two\x85three"}\n\n{"a": 2}\n', encoding="utf-8")
    assert [record["a"] for _, record in read_file(path)] == ["one\u2028two\x85three", 2]


def test_a_hub_source_needs_a_revision():
    with pytest.raises(DataError, match="pin its `revision`"):
        read_records("azhx/counterfact")


def test_a_hub_source_is_loaded_at_its_revision(monkeypatch):
    asked = []
    hub = types.ModuleType("datasets")
    hub.load_dataset = lambda name, revision: asked.append((name, revision)) or {"train": TRAIN, "test": TEST}
    monkeypatch.setitem(sys.modules, "datasets", hub)
    splits = read_records("azhx/counterfact", "abc")
    assert asked == [("azhx/counterfact", "abc")]
    assert ids(splits) == {"train": [1, 2], "test": [10]}
    assert splits["train"][0][0] == "azhx/counterfact@abc, train, record 0"


def test_an_unreachable_hub_is_an_error_that_says_what_to_do(monkeypatch):
    hub = types.ModuleType("datasets")

    def fail(name, revision):
        raise ConnectionError("no route")

    hub.load_dataset = fail
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(DataError, match="no route.*local copy"):
        read_records("azhx/counterfact", "abc")


@pytest.mark.parametrize("source", ["nowhere", "./no/where", "a/b/c", "/no/where"])
def test_a_source_that_does_not_exist_is_an_error(source, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_records(source, base=tmp_path)


def test_a_folder_without_a_split_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no train records"):
        read_records(str(tmp_path))
    write(tmp_path / "train.json", TRAIN)
    with pytest.raises(DataError, match="no test records"):
        read_records(str(tmp_path))
    write(tmp_path / "test.json", [])
    with pytest.raises(DataError, match="no test records"):
        read_records(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("e.jsonl", b""),
        ("e.jsonl", b" \n\n  \r\n"),
        ("e.jsonl", b"\xef\xbb\xbf"),
        ("e.jsonl.gz", b""),
        ("e.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("e.jsonl.xz", lzma.compress(b"")),
        ("e.json", b"[]"),
    ],
)
def test_a_file_without_records_is_an_error_that_names_it(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name} holds no records"):
        read_records(name, base=tmp_path)


@pytest.mark.parametrize("data", [b"", b" \n"])
@pytest.mark.parametrize("name", ["e.json", "e.json.gz", "e.json.xz"])
def test_an_empty_json_file_is_an_error_that_names_it(tmp_path, name, data):
    (tmp_path / name).write_bytes(packed(name, data))
    with pytest.raises(DataError, match=f"{name} is not whole JSON"):
        read_records(name, base=tmp_path)


def test_an_empty_split_of_a_data_set_is_an_error(monkeypatch):
    hub = types.ModuleType("datasets")
    hub.load_dataset = lambda name, revision: {"train": TRAIN, "test": []}
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(DataError, match="azhx/counterfact@abc holds no test records"):
        read_records("azhx/counterfact", "abc")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.xz", ".jsonl.xz"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, suffix):
    plain = tmp_path / "plain"
    lines = "".join(json.dumps(record) + "\n" for record in TRAIN) if ".jsonl" in suffix else json.dumps(TRAIN)
    plain.write_text(lines, encoding="utf-8-sig")
    path = tmp_path / f"train{suffix}"
    path.write_bytes(packed(suffix, plain.read_bytes()))
    assert [record for _, record in read_file(path)] == TRAIN


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_packed_file_is_unpacked_up_to_the_limit(tmp_path, monkeypatch, suffix, pack):
    path = tmp_path / f"train.jsonl{suffix}"
    line = b'{"case_id": 1}\n'
    monkeypatch.setattr(sources, "UNPACKED_LIMIT", 100 * len(line))
    path.write_bytes(pack(line * 100))
    assert len(list(read_file(path))) == 100
    path.write_bytes(pack(line * 60) + pack(line * 41))
    with pytest.raises(DataError, match=f"train.jsonl{suffix} unpacks to more than 1,500 bytes"):
        list(read_file(path))


def test_unpacking_stops_at_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "train.json.gz"
    path.write_bytes(gzip.compress(bytes(10**8)))
    monkeypatch.setattr(sources, "UNPACKED_LIMIT", 10**6)
    tracemalloc.start()
    with pytest.raises(DataError, match="train.json.gz unpacks to more"):
        read_json(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 10**7


DEEP = b"[" * 100_000 + b"]" * 100_000
LONG = b"1" * 5000


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.xz", ".jsonl.xz"])
@pytest.mark.parametrize(
    ("value", "message"),
    [(rb'"half \ud83d"', "surrogate"), (rb'{"\uDE00": 1}', "surrogate"), (DEEP, "too deeply"), (LONG, "digits")],
)
def test_what_json_allows_and_nobody_can_use_is_an_error_that_names_the_place(tmp_path, suffix, value, message):
    path = tmp_path / f"train{suffix}"
    data = b'{"a": 1}\n{"a": ' + value + b"}\n" if ".jsonl" in suffix else b'[{"a": ' + value + b"}]"
    path.write_bytes(packed(suffix, data))
    place = f"train{suffix}, line 2" if ".jsonl" in suffix else f"train{suffix}"
    with pytest.raises(DataError, match=f"{place} (holds|nests).*{message}"):
        list(read_file(path))


def test_a_whole_surrogate_pair_is_text(tmp_path):
    (tmp_path / "train.json").write_text(r'[{"a": "\ud83d\ude00"}]')
    assert read_json(tmp_path / "train.json") == [{"a": "\U0001f600"}]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train.json", b'[{"case_id": 1', "not whole JSON"),
        ("train.json", b'{"case_id": 1}', "must hold a list"),
        ("train.json", b"\xff\xfe\x00", "not UTF-8"),
        ("train.jsonl", b'{"case_id": 1}\n{"case_', "line 2 is not whole JSON"),
        ("train.json.gz", gzip.compress(b"[1, 2, 3]" * 50, mtime=0)[:-12], "not a whole .gz file"),
        ("train.json.gz", b"[]", "not a whole .gz file"),
        ("train.json.xz", lzma.compress(b"[1, 2, 3]" * 50)[:-12], "not a whole .xz file"),
        ("train.json.xz", b"[]", "not a whole .xz file"),
        ("train.parquet", b"PAR1 and more", "not a whole parquet file"),
        ("train.csv", b"a,b", "no known kind"),
    ],
)
def test_damaged_and_foreign_files_are_errors_that_name_the_file(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        list(read_file(path))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot read .*none.json"):
        read_json(tmp_path / "none.json")


def test_a_single_file_of_something_else_is_an_error(tmp_path):
    (tmp_path / "x.json").write_text('[{"a": 1}]')
    with pytest.raises(DataError, match="x.json, record 0 .*case_id"):
        read_records("x.json", base=tmp_path)
