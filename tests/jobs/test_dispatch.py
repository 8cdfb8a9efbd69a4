"""The command line imports what the command needs, and finds every command and every error."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.scheduler.slurm import SlurmBusyError
from cluster.stage import RunError, Stage
from jobs.commands.dispatch import _COMMANDS, parser
from jobs.commands.exits import FAILED, IO_ERROR, UNAVAILABLE, USAGE, exit_code
from jobs.commands.results import score_lines
from jobs.launch import StageFailedError
from pipelines.config import ConfigError

#: What takes longer to import than the status of hundreds of members takes.
_SLOW = ("pydantic", "yaml", "rich", "submitit", "psutil", "torch", "zarr", "numpy", "jobs.catalog")


def _loaded_by(*arguments: str) -> set[str]:
    code = (
        "import sys; from jobs.cli import main; code = main(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_status_off_a_terminal_loads_nothing_slow(tmp_path: Path, options: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    Stage(run, "train", members=3).save()
    (run / "plan.yaml").write_text("job: none\n")
    loaded = _loaded_by("status", str(run), *options)
    assert "cluster.status" in loaded
    assert loaded & set(_SLOW) == set()


def _help(of: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        of.parse_args([*words, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [verb for verbs in _COMMANDS.values() for verb in verbs])
def test_a_command_alone_is_the_same_as_among_all(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"\n    {command} " in _help(parser(), capsys)
    alone = _help(parser([command]), capsys, command)
    assert alone.startswith("usage: ")
    assert alone == _help(parser(), capsys, command)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["--version"])
    assert caught.value.code in (0, None)
    assert capsys.readouterr().out.startswith("yaoki 0")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SlurmBusyError("away"), UNAVAILABLE),
        (RunError("none"), USAGE),
        (ConfigError("typo"), USAGE),
        (StageFailedError("train"), FAILED),
        (PermissionError("no"), IO_ERROR),
        (ValueError("ours"), None),
    ],
)
def test_an_expected_error_has_its_exit_code(error: Exception, code: int | None) -> None:
    assert exit_code(error) == code


def test_scores_stand_in_a_column_however_long_their_names() -> None:
    lines = score_lines({"mse": 1.0, "an_lstm_with_a_rather_long_name_mse": 0.25})
    assert lines == [f"{'mse':<37}1.0000", "an lstm with a rather long name mse  0.2500"]
