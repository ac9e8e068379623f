"""Strict settings: every mistake is named with its place, and with the nearest known key."""

import argparse
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from gnm.config import StrictModel, add_params_arguments, load_params, validate
from gnm.errors import ConfigError, GNMError


class Pool(StrictModel):
    capacity: int | None = Field(None, gt=0)
    eviction: Literal["random", "oldest"] = "random"


class Method(StrictModel):
    name: str
    memory: Pool = Pool()
    order: Literal["first", "last"] | None = None
    reads: Literal["nothing", "all"] | int = "nothing"


class Settings(StrictModel):
    seed: int
    learning_rate: float = 0.1
    method: Method
    others: dict[str, Method] = {}
    pools: list[Pool] = []
    data: list[Path] = []
    length: int | tuple[int, int] = 2
    optional: Annotated[Pool, Field()] | None = None

    @model_validator(mode="after")
    def _even(self):
        if self.seed == 13:
            raise ValueError("seed 13 brings bad luck")
        return self


GOOD = "seed: 1\nmethod:\n  name: gnm\n"


@pytest.fixture
def params(tmp_path):
    def write(text=GOOD):
        path = tmp_path / "params.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def load(path, overrides=(), block=None):
    return load_params(path, Settings, overrides, block)


def refused(path, overrides=(), block=None):
    with pytest.raises(ConfigError) as error:
        load(path, overrides, block)
    return str(error.value)


# --- what is right


def test_settings_are_read_with_their_defaults(params):
    text = "seed: 3\nlearning_rate: 1.0e-3\nmethod: {name: gnm, memory: {capacity: 5}}\ndata: [a/b.json]\n"
    text += "length: [2, 4]\n"
    settings = load(params(text))
    assert (settings.seed, settings.learning_rate, settings.length) == (3, 1e-3, (2, 4))
    assert settings.method == Method(name="gnm", memory=Pool(capacity=5))
    assert settings.data == [Path("a/b.json")] and settings.optional is None


def test_settings_do_not_change_after_loading(params):
    settings = load(params())
    with pytest.raises(ValidationError, match="frozen"):
        settings.seed = 2


def test_a_block_of_a_file_can_be_read_alone(params):
    text = "other: {a: 1}\ntrain:\n  seed: 5\n  method: {name: x}\n"
    assert load(params(text), ["seed=6"], block="train").seed == 6


def test_a_file_of_blocks_is_told_from_one_of_settings(params):
    blocks = "other: {a: 1}\ntrain:\n  seed: 5\n  method: {name: x}\nreport: {seed: 2}\n"
    assert refused(params(blocks), ["length=[1, 2]"]).endswith("has its settings in blocks; read one: --block train")
    assert refused(params("seed: 3\nother: {a: 1}\n")).count("--block") == 0


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=7", ("seed", 7)),
        ("learning_rate=2.5e-4", ("learning_rate", 2.5e-4)),
        ("learning_rate=2", ("learning_rate", 2.0)),
        ("length=[1, 3]", ("length", (1, 3))),
        ("data=[x.json]", ("data", [Path("x.json")])),
        ("optional=null", ("optional", None)),
        ("method={name: other}", ("method", Method(name="other"))),
    ],
)
def test_an_override_replaces_a_value(params, override, value):
    assert getattr(load(params(), [override]), value[0]) == value[1]


def test_overrides_reach_into_blocks_and_make_them(params):
    overrides = ["method.memory.capacity=9", "method.name=a=b", "optional.eviction=oldest", "others.x.name=y"]
    settings = load(params(), overrides)
    assert settings.method == Method(name="a=b", memory=Pool(capacity=9))
    assert settings.optional == Pool(eviction="oldest") and settings.others == {"x": Method(name="y")}


@pytest.mark.parametrize("empty", ["optional:\n", "optional: null\n", "optional: {}\n"])
def test_an_override_fills_an_empty_block(params, empty):
    assert load(params(GOOD + empty), ["optional.capacity=4"]).optional == Pool(capacity=4)


def test_the_last_of_equal_overrides_counts(params):
    assert load(params(), ["seed=1", "seed=2"]).seed == 2


def test_programs_take_params_block_and_overrides():
    parser = argparse.ArgumentParser()
    add_params_arguments(parser)
    assert vars(parser.parse_args([])) == {"params": Path("params.yaml"), "block": None, "overrides": []}
    options = parser.parse_args(["--params", "p.yaml", "--block", "b", "a=1", "c.d=2"])
    assert vars(options) == {"params": Path("p.yaml"), "block": "b", "overrides": ["a=1", "c.d=2"]}


# --- unknown and missing keys


@pytest.mark.parametrize(
    ("text", "place", "nearest"),
    [
        (GOOD + "sede: 1\n", "sede", "seed"),
        (GOOD + "learningrate: 1\n", "learningrate", "learning_rate"),
        (GOOD + "  ordre: first\n", "method.ordre", "order"),
        (GOOD + "  memory: {capcity: 3}\n", "method.memory.capcity", "capacity"),
        (GOOD + "others: {one: {name: x, memroy: {}}}\n", "others.one.memroy", "memory"),
        (GOOD + "others: {one: {name: x, memory: {evction: oldest}}}\n", "others.one.memory.evction", "eviction"),
        (GOOD + "others: {memory: {name: x, ordr: first}}\n", "others.memory.ordr", "order"),
        (GOOD + "pools: [{}, {capacities: 3}]\n", "pools.1.capacities", "capacity"),
        (GOOD + "optional: {evict: oldest}\n", "optional.evict", "eviction"),
    ],
)
def test_an_unknown_key_is_named_with_its_place_and_the_nearest_key(params, text, place, nearest):
    path = params(text)
    assert refused(path) == f"{path}: unknown key '{place}' (did you mean '{nearest}'?)"


def test_an_unknown_key_that_resembles_none_lists_what_is_known(params):
    assert "unknown key 'method.zzz' (known here: memory, name, order, reads)" in refused(params(GOOD + "  zzz: 1\n"))
    assert "(known here: capacity, eviction)" in refused(params(GOOD + "pools: [{zzz: 1}]\n"))


def test_a_key_that_is_no_text_is_refused(params):
    assert "1" in refused(params(GOOD + "1: 2\n"))


def test_a_misspelt_override_is_an_unknown_key(params):
    assert "unknown key 'method.memory.capacty' (did you mean 'capacity'?)" in refused(
        params(), ["method.memory.capacty=3"]
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [("method: {name: x}\n", "seed"), ("seed: 1\n", "method"), ("seed: 1\nmethod: {}\n", "method.name")],
)
def test_a_missing_key_is_named(params, text, place):
    path = params(text)
    assert refused(path) == f"{path}: missing key '{place}'"


def test_all_problems_are_told_at_once_each_with_its_place(params):
    text = "sede: 1\nlearning_rate: fast\nmethod: {name: 3, memory: {eviction: newest, capacity: 0}}\n"
    message = refused(params(text))
    for part in ("missing key 'seed'", "unknown key 'sede'", "learning_rate: ", "'fast'", "method.name: ",
                 "method.memory.eviction: ", "'newest'", "method.memory.capacity: "):  # fmt: skip
        assert part in message


def test_a_rule_over_several_settings_is_told_without_repeating_them_all(params):
    path = params("seed: 13\nmethod: {name: gnm}\nothers: {long: {name: a-very-long-name}}\n")
    message = refused(path)
    assert "seed 13 brings bad luck" in message and "a-very-long-name" not in message


def test_a_value_that_fits_none_of_its_types_is_told_by_its_place(params):
    message = refused(params(GOOD + "  reads: some\n"))
    assert "method.reads" in message and "'some'" in message


def test_blocks_share_what_stands_at_the_top_of_the_file(params):
    text = "seed: 5\nmethod: {name: gnm}\nunrelated: 3\none: {}\ntwo: {seed: 6}\n"
    assert load(params(text), block="one").seed == 5
    assert load(params(text), block="two").seed == 6
    assert load(params(text), ["seed=7"], block="one").seed == 7
    assert "unknown key 'sede'" in refused(params(text + "three: {sede: 1}\n"), block="three")


# --- files that cannot be read


def test_a_missing_file_is_named(tmp_path):
    assert f"cannot read settings from {tmp_path / 'none.yaml'}" in refused(tmp_path / "none.yaml")
    assert f"cannot read settings from {tmp_path}" in refused(tmp_path)


@pytest.mark.parametrize("text", ["seed: [1\n", "a: b: c\n", "\tseed: 1\n", "%%%\n--- {", "a: \x07\n"])
def test_what_is_no_yaml_is_refused(params, text):
    path = params(text)
    assert f"{path} is not valid YAML" in refused(path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    assert f"{path} is not valid YAML" in refused(path)


def test_a_key_that_stands_twice_is_refused(params):
    """YAML would quietly take the last."""
    path = params(GOOD + "seed: 2\n")
    message = refused(path)
    assert "seed" in message and "twice" in message and "line 4" in message
    assert "twice" in refused(params(GOOD + "others: {a: {name: x, name: y}}\n"))
    merged = "base: &base {seed: 1}\ntrain:\n  <<: *base\n  seed: 2\n  method: {name: x}\n"
    assert load(params(merged), block="train").seed == 2  # replacing a merged value is what merging is for


@pytest.mark.parametrize(("text", "held"), [("", "NoneType"), ("- 1\n", "list"), ("just words\n", "str")])
def test_a_file_that_holds_no_mapping_is_refused(params, text, held):
    assert f"must hold a mapping of settings, it holds {held}" in refused(params(text))


@pytest.mark.parametrize("text", ["other: 1\n", "train: 3\nother: {}\n"])
def test_a_block_that_is_not_there_is_named_with_those_that_are(params, text):
    message = refused(params(text), block="train")
    assert "no block 'train'; it has: " in message and "other" in message


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("seed", "is not of the form"),
        ("=3", "is not of the form"),
        ("", "is not of the form"),
        ("seed=[1", "not valid YAML"),
        ("seed.deep=3", "'seed' is a value, not a block"),
        ("method.name.deep.er=3", "'name' is a value, not a block"),
        ("method..name=3", "is not of the form"),
        ("method.=3", "is not of the form"),
    ],
)
def test_an_override_that_says_nothing_is_refused(params, override, why):
    message = refused(params(), [override])
    assert repr(override) in message and why in message


def test_checked_dicts_name_their_source():
    assert validate({"seed": 1, "method": {"name": "x"}}, Settings, where="here").seed == 1
    with pytest.raises(GNMError, match="^gnm.json: missing key 'seed'"):
        validate({"method": {"name": "x"}}, Settings, where="gnm.json")


# --- hostile files


def test_aliases_that_unfold_to_millions_of_values_are_refused_at_once(params):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "with its aliases written out it has more than 100,000 values" in refused(params("\n".join(lines)))
    assert "more than 100,000 values" in refused(params("a: &a [*a]\n"))
    assert load(params("seed: 1\nmethod: &x {name: gnm}\nothers: {a: *x, b: {<<: *x}}\n")).others["b"].name == "gnm"


@pytest.mark.parametrize(
    ("value", "told"),
    [("[" * 5000, "nested too deeply"), ("1" * 5000, "not valid YAML"), ("0x" + "f" * 5000, "more than 64 bits")],
)
def test_deep_nesting_and_endless_numbers_are_refused(params, value, told):
    assert told in refused(params(f"method: {{name: gnm}}\nseed: {value}\n"))


@pytest.mark.parametrize("value", ["[" * 5000, "1" * 5000])
def test_overrides_are_held_to_the_same(params, value):
    assert "the value is not valid YAML" in refused(params(), [f"seed={value}"])
