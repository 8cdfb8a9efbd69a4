"""Configurations: what YAML 1.2 says, what a reader is told, and the laws of resolving."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from pipelines.config import (
    Config,
    ConfigError,
    MemorySize,
    Walltime,
    digest,
    dump_yaml,
    load,
    preset_names,
)
from pipelines.config.loader import parse_yaml

FILES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Training(Config):
    learning_rate: float = 2e-4
    epochs: int = 10
    ema: float | None = None
    schedule: Literal["linear", "constant"] = "linear"


class Stage(Config):
    name: str
    weight: float = 1.0


class Job(Config):
    title: str = "flow"
    output: Path = Path("runs")
    shuffle: bool = False
    channels: tuple[int, ...] = (96, 192)
    training: Training = Training()
    stages: tuple[Stage, ...] = ()
    sweep: dict[str, float] = Field(default_factory=dict)
    walltime: Walltime = Walltime(3600)
    memory: MemorySize = MemorySize(1024)


def write(directory: Path, text: str) -> Path:
    path = directory / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path, *overrides: str, preset: str | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(Job, path, preset, overrides)
    return caught.value.problems


# --- YAML 1.2 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("y", "y"),
        ("True", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("1e-3", 1e-3),
        ("1.", 1.0),
        (".5", 0.5),
        ("+3", 3),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("12:00:00", "12:00:00"),
        ("24:00", "24:00"),
        ("2026-01-01", "2026-01-01"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("inf", "inf"),
        ("~", None),
        ("", None),
        ("NULL", None),
        ("'010'", "010"),
        ("!!str 010", "010"),
        ("!!float 1", 1.0),
        ("[1, [no, 2.0]]", [1, ["no", 2.0]]),
        ("{<<: {a: 1, b: 2}, b: 3}", {"a": 1, "b": 3}),
        ("[&x {a: 1}, {<<: *x}]", [{"a": 1}, {"a": 1}]),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: Any) -> None:
    found = parse_yaml(text, "text").plain()
    assert found == value
    assert type(found) is type(value)


def test_nan_is_read() -> None:
    assert math.isnan(parse_yaml(".nan", "text").plain())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "job.yaml:3: the key 'a' is already given in line 1"),
        ("a:\n  b: 1\n  b: 1", "job.yaml:3: the key 'b' is already given in line 2"),
        ("a: &x [*x]", "job.yaml:1: .*an anchor holds itself"),
        ("a: 1\nb: [2", "job.yaml:2: not valid YAML"),
        ("a: *b", "job.yaml:1: .*undefined alias"),
        ("a: 1\n---\nb: 1", "job.yaml:2: .*single document"),
        ("a: !!python/name:os.system x", "job.yaml:1: .*cannot be read"),
        ("a: !!set {x}", "job.yaml:1: .*not part of YAML's core schema"),
        ("? [a]\n: 1", "job.yaml:1: expected a plain key"),
        ("a: \x07", "job.yaml: not valid YAML"),
        ("- 1", r"job.yaml:1: expected a mapping, found \[1\]"),
        ("presets: 3", "job.yaml:1: presets: expected a mapping, found 3"),
        ("presets:\n  paper: [1]", "job.yaml:2: presets.paper: expected a mapping"),
    ],
)
def test_a_broken_file_is_refused_at_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(Job, write(tmp_path, text))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such file"):
        load(Job, tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Job, tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes("title: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Job, path)


# --- Problems -------------------------------------------------------------------------------------


def test_all_problems_of_a_file_come_together_and_in_order(tmp_path: Path) -> None:
    text = """\
titel: flow
shuffle: no
channels: [1, two]
training:
  epochs: many
  ema: x
  schedule: linaer
stages: [{weight: 1}]
epochs: 3
walltime: 25:61:00
memory: 16
sweep: 3
"""
    path = write(tmp_path, text)
    place = f"{path}:"
    assert problems(path) == (
        f"{place}1: titel: unknown key; did you mean 'title'?",
        f"{place}2: shuffle: expected true or false, found 'no' (a string)",
        f"{place}3: channels.1: expected an integer, found 'two' (a string)",
        f"{place}5: training.epochs: expected an integer, found 'many' (a string)",
        f"{place}6: training.ema: expected a number, found 'x' (a string)",
        f"{place}7: training.schedule: expected 'linear' or 'constant', found 'linaer' (a string)",
        f"{place}8: stages.0.name: required, but missing",
        f"{place}9: epochs: unknown key here; did you mean 'training.epochs'?",
        f"{place}10: walltime: impossible walltime '25:61:00': minutes must be below 60, found 61",
        f"{place}11: memory: expected a memory size with its unit, as in 16G, found 16",
        f"{place}12: sweep: expected a mapping, found 3 (an integer)",
    )


def test_a_slip_in_another_preset_shows_too(tmp_path: Path) -> None:
    path = write(tmp_path, "presets:\n  smoke: {}\n  paper:\n    training: {epoch: 3}")
    (problem,) = problems(path, preset="smoke")
    assert problem == f"{path}:4: training.epoch: unknown key; did you mean 'epochs'?"


def test_a_key_with_no_neighbor_lists_what_there_is(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, "training: {zzz: 1}"))
    assert problem.endswith("unknown key; expected one of: learning_rate, epochs, ema, schedule")


def test_overrides_and_presets_are_named_in_problems(tmp_path: Path) -> None:
    path = write(tmp_path, "presets: {paper: }")
    found = problems(path, "training.epohcs=1", "title", "=1", "shuffle=", "channels=[1", "title=1")
    assert found == (
        "override '=1': expected key.path=value",
        "override 'channels=[1': not valid YAML: while parsing a flow sequence, "
        "expected ',' or ']', but got '<stream end>'",
        'override \'shuffle=\': expected a value after "="; write null or "" for none',
        "override 'title': expected key.path=value",
        "override 'title=1': title: expected a string, found 1 (an integer)",
        "override 'training.epohcs=1': training.epohcs: unknown key; did you mean 'epochs'?",
    )
    (problem,) = problems(path, preset="papr")
    assert problem.endswith("preset 'papr': unknown preset; did you mean 'paper'?")


@given(
    st.sampled_from(["title", "output", "shuffle", "channels", "training", "walltime", "memory"]),
    st.integers(0, 20),
)
@FILES
def test_two_swapped_letters_still_find_the_key(tmp_path: Path, key: str, at: int) -> None:
    at = at % (len(key) - 1)
    slip = key[:at] + key[at + 1] + key[at] + key[at + 2 :]
    if slip != key:
        (problem,) = problems(write(tmp_path, f"{slip}: 1"))
        assert problem.endswith(f"{slip}: unknown key; did you mean {key!r}?")


def test_a_mutable_collection_is_refused_in_a_class() -> None:
    with pytest.raises(TypeError, match=r"Loose\.steps is a mutable collection"):

        class Loose(Config):
            steps: tuple[list[int], ...] = ()


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Job().title = "other"


# --- Resolving ------------------------------------------------------------------------------------

LAYERS = """\
title: file
training:
  epochs: 100
  ema: 0.9
presets:
  small:
  paper:
    title: paper
    training:
      ema: 0.999
    channels: [1]
"""


def test_layers_lie_over_each_other_and_are_remembered(tmp_path: Path) -> None:
    path = write(tmp_path, LAYERS)
    resolved = load(Job, path, "paper", ["training.epochs=7", "training.epochs=8"])
    assert resolved.config == Job(
        title="paper", channels=(1,), training=Training(epochs=8, ema=0.999)
    )
    told = {key: str(source) for key, source in resolved.provenance.items()}
    assert told["title"] == f"preset paper, {path}:8"
    assert told["training.ema"] == f"preset paper, {path}:10"
    assert told["channels"] == f"preset paper, {path}:11"
    assert told["training.epochs"] == "override 'training.epochs=8'"
    assert told["training.learning_rate"] == "default"
    lines = [" ".join(line.split()) for line in resolved.explain().splitlines()]
    assert f"training.ema = 0.999 # preset paper, {path}:10" in lines


def test_an_empty_preset_is_the_file_itself(tmp_path: Path) -> None:
    path = write(tmp_path, LAYERS)
    assert load(Job, path, "small").config == load(Job, path).config
    assert str(load(Job, path).provenance["training.ema"]) == f"{path}:4"
    assert preset_names(path) == ("small", "paper")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    resolved = load(Job, write(tmp_path, "# nothing\n"))
    assert resolved.config == Job()
    assert {str(source) for source in resolved.provenance.values()} == {"default"}


def test_an_unquoted_walltime_means_what_slurm_means(tmp_path: Path) -> None:
    path = write(tmp_path, "walltime: 12:00:00\nmemory: 16GB")
    config = load(Job, path).config
    assert (config.walltime.seconds, str(config.memory)) == (43_200, "16384M")
    assert load(Job, path, overrides=["walltime=1-06"]).config.walltime.seconds == 108_000


TEXT = st.text(max_size=12)
FLOATS = st.floats(allow_nan=False)
CONFIGS = st.builds(
    Job,
    title=TEXT | st.sampled_from(["no", "1e-3", "0o7", "12:00:00", "~", "<<", "=", "#", "a: b"]),
    output=st.sampled_from([Path("runs"), Path("/tmp/日本"), Path("a b")]),
    shuffle=st.booleans(),
    channels=st.lists(st.integers(), max_size=5).map(tuple),
    training=st.builds(
        Training,
        learning_rate=FLOATS,
        epochs=st.integers(),
        ema=st.none() | FLOATS,
        schedule=st.sampled_from(["linear", "constant"]),
    ),
    stages=st.lists(st.builds(Stage, name=TEXT, weight=FLOATS), max_size=3).map(tuple),
    sweep=st.dictionaries(TEXT, FLOATS, max_size=3),
    walltime=st.integers(1, 10**7).map(Walltime),
    memory=st.integers(1, 10**7).map(MemorySize),
)


@given(CONFIGS)
@FILES
def test_a_configuration_survives_its_own_yaml(tmp_path: Path, config: Job) -> None:
    path = write(tmp_path, dump_yaml(config))
    again = load(Job, path).config
    assert again == config
    assert digest(again) == digest(config)


@given(CONFIGS, CONFIGS)
@FILES
def test_an_override_equals_editing_the_file(tmp_path: Path, base: Job, wanted: Job) -> None:
    quoted = yaml.dump(wanted.title, default_style='"', width=10**6).strip()
    overrides = [
        f"title={quoted}",
        f"shuffle={str(wanted.shuffle).lower()}",
        f"channels={list(wanted.channels)}",
        f"training.epochs={wanted.training.epochs}",
        f"walltime={wanted.walltime}",
    ]
    names = ("title", "shuffle", "channels", "walltime")
    training = base.training.model_copy(update={"epochs": wanted.training.epochs})
    edited = base.model_copy(
        update={name: getattr(wanted, name) for name in names} | {"training": training}
    )
    by_override = load(Job, write(tmp_path, dump_yaml(base)), None, overrides).config
    by_editing = load(Job, write(tmp_path, dump_yaml(edited))).config
    assert by_override == by_editing
    assert dump_yaml(by_override) == dump_yaml(by_editing)


# --- Digest ---------------------------------------------------------------------------------------


def test_the_digest_sees_values_and_not_their_order(tmp_path: Path) -> None:
    one = load(Job, write(tmp_path, "title: a\ntraining: {epochs: 1, ema: 0.5}")).config
    two = load(Job, write(tmp_path, "training: {ema: 5e-1, epochs: 0x1}\ntitle: a")).config
    assert digest(one) == digest(two)
    assert len(digest(one)) == 64


@given(FLOATS)
def test_the_digest_sees_the_last_bit_of_a_float(value: float) -> None:
    neighbor = math.nextafter(value, 0.0 if value else 1.0)
    one, two = (digest(Training(learning_rate=each)) for each in (value, neighbor))
    assert one != two


def test_equal_configurations_have_equal_digests() -> None:
    assert Training(learning_rate=-0.0) == Training(learning_rate=0.0)
    assert digest(Training(learning_rate=-0.0)) == digest(Training(learning_rate=0.0))
    assert digest(Training(learning_rate=math.nan)) == digest(Training(learning_rate=math.nan))


def test_configuration_imports_nothing_heavy() -> None:
    code = (
        "import sys, pipelines.config as c\n"
        "sys.exit(bool({'torch', 'zarr', 'wandb', 'numpy', 'h5py'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
