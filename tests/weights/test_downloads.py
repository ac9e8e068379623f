"""Fetching from a stand-in of the hub: what arrives, what goes on, what is refused."""

import json

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

from gnm.errors import BackboneError
from gnm.weights import downloads
from gnm.weights import sources as weights
from gnm.weights.downloads import fetch, items, main, verify
from hub import COMMIT, stand_in

PREFIX = "maxbennett/generalized-neural-memory-"
SHARD = save({"x": torch.arange(200_000.0)})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    repositories = {
        ("model", PREFIX + "gnm-facts"): {"model.safetensors": SHARD, "old.pth": b"again", "README.md": b"# a card"},
        ("model", PREFIX + "gnm-counterfact"): {"model.safetensors": SHARD},
        ("model", PREFIX + "icl-facts"): {"icl.pth": b"weights"},
        ("model", PREFIX + "rag-facts"): {"model.safetensors": bytes(30 * 2**20)},
        ("model", "YuWangX/memoryllm-8b-chat"): {"model.safetensors": SHARD, "config.json": b"{}", "notes.txt": b"n"},
        ("dataset", "maxbennett/counterfact-gnm"): {"data/train/train_0.json": b"[]"},
    }
    with stand_in(repositories) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield served


@pytest.fixture
def known(tmp_path):
    return items(tmp_path / "models", tmp_path / "data")


def test_a_checkpoint_arrives_whole_with_its_commit(hub, known, tmp_path):
    item = known["gnm_facts"]
    assert not item.present()
    folder = fetch(item)
    assert folder == tmp_path / "models" / "gnm_facts" and item.present()
    assert (folder / "model.safetensors").read_bytes() == SHARD and not (folder / "old.pth").exists()
    source = json.loads((folder / "source.json").read_text())
    assert (source["repo"], source["commit"]) == (PREFIX + "gnm-facts", COMMIT)
    assert set(source["files"]) == {"model.safetensors", "README.md"}
    served = len(hub.served)
    fetch(item)
    assert len(hub.served) == served  # nothing is fetched twice


def test_torch_weights_are_fetched_where_there_are_no_others(hub, known):
    assert (fetch(known["icl_facts"]) / "icl.pth").read_bytes() == b"weights"


def test_a_checkpoint_is_found_under_its_newer_name(hub, known):
    folder = fetch(known["gnm_all"])
    assert json.loads((folder / "source.json").read_text())["repo"] == PREFIX + "gnm-counterfact"
    with pytest.raises(BackboneError, match="rag-all at revision main is neither in the local cache nor reachable"):
        fetch(known["rag_all"])


def test_a_backbone_goes_where_it_is_loaded_from(hub, known, tmp_path):
    item = known["memoryllm-8b-chat"]
    assert not item.present()
    folder = fetch(item)
    assert item.present() and tmp_path / "cache" in folder.parents
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}
    verify(item)
    (folder / "config.json").resolve().write_text("{ }")
    with pytest.raises(BackboneError, match="config.json fails its checksum"):
        verify(item)


def test_the_data_set_has_its_own_folder(hub, known, tmp_path):
    fetch(known["counterfact_gnm"])
    assert (tmp_path / "data/counterfact_gnm/data/train/train_0.json").read_text() == "[]"


def test_a_download_that_was_cut_off_goes_on(hub, known):
    hub.cut.add("model.safetensors")
    folder = fetch(known["rag_facts"])
    assert (folder / "model.safetensors").read_bytes() == bytes(30 * 2**20)
    starts = [start for name, start in hub.served if name == "model.safetensors"]
    assert starts[0] == 0 and starts[-1] > 0


def test_a_file_that_is_not_what_the_hub_says_is_refused(hub, known, monkeypatch):
    monkeypatch.setattr(downloads, "sha256", lambda path: "0" * 64)
    with pytest.raises(BackboneError, match=r"model.safetensors fails its checksum; delete that file"):
        fetch(known["gnm_facts"])
    assert not known["gnm_facts"].present()


def test_what_has_no_list_of_its_files_is_not_there(known, tmp_path):
    (tmp_path / "models" / "gnm_facts").mkdir(parents=True)
    for text in ("{", "[]", 100_000 * "["):
        (tmp_path / "models" / "gnm_facts" / "source.json").write_text(text)
        assert not known["gnm_facts"].present()


def test_the_disk_is_looked_at_before_anything_is_fetched(hub, known, monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BackboneError, match="'gnm_facts' needs 0.0 GB of disk in .* are free"):
        fetch(known["gnm_facts"])
    assert not any(name == "model.safetensors" for name, _ in hub.served)


def test_the_hub_out_of_reach_is_one_sentence(known, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BackboneError, match="check the network, HF_HUB_OFFLINE and HF_ENDPOINT"):
        fetch(known["gnm_facts"])


def run(tmp_path, *arguments):
    main([*arguments, "--models", str(tmp_path / "models"), "--data", str(tmp_path / "data")])


def test_the_list_shows_names_sizes_and_what_is_there(hub, known, tmp_path, capsys):
    fetch(known["gnm_facts"])
    run(tmp_path, "--list")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == set(known) >= {"gnm_all", "gnm_all_ablation", "icl_facts", "rag_facts", "counterfact_gnm"}
    assert "not there" not in lines["gnm_facts"] and "not there" in lines["gnm_all"]
    assert "20.0 GB" in lines["gnm_all"] and PREFIX + "gnm-all" in lines["gnm_all"]


def test_only_what_is_named_is_fetched_and_verified(hub, tmp_path, capsys):
    run(tmp_path, "--only", "gnm_facts")
    assert "gnm_facts is in" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["gnm_facts"]
    run(tmp_path, "--only", "gnm_facts", "gnm_all", "--verify")
    assert capsys.readouterr().out.splitlines() == ["gnm_facts is as it was fetched", "gnm_all is not there"]
    (tmp_path / "models/gnm_facts/model.safetensors").write_bytes(SHARD[:-1] + b"?")
    with pytest.raises(SystemExit, match="fails its checksum"):
        run(tmp_path, "--only", "gnm_facts", "--verify")


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(SystemExit, match="there is no gnm_everything to fetch; known: .*gnm_all"):
        run(tmp_path, "--only", "gnm_everything")
