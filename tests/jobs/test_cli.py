"""Commands that run no member: what they say, write, import, and exit with."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.commandline import run_of, tree, yaoki
from support.commands import Commands

from cluster.cause import Cause
from cluster.records.ledger import here
from cluster.stage import load_stages
from cluster.status import State, run_status
from jobs.catalog import WORKLOADS
from jobs.cli import main
from jobs.launch import Launcher
from jobs.solitude import alone, is_launched

SMOKE = ("diffusion", "--preset", "smoke")


def laid_out(runs: Path, *overrides: str) -> Path:
    """A run directory in which nothing has run yet."""
    workload = WORKLOADS["diffusion"]
    plan = workload.plan(workload.resolve("smoke", overrides).config, runs)
    Launcher(plan, "local").lay_out()
    return plan.directory


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """A Slurm that keeps what it is sent in ``sent/`` and starts nothing; ids count from 100."""
    commands = Commands(tmp_path / "bin", monkeypatch)
    sent = tmp_path / "sent"
    sent.mkdir()
    commands.add(
        "sbatch",
        '[ "$1" = --test-only ] && { echo "would start at once" >&2; exit 0; }\n'
        f'id=$((100 + $(ls "{sent}" | wc -l)))\ncp "${{@: -1}}" "{sent}/$id.sh"\necho $id',
    )
    commands.add("scontrol", "echo MaxArraySize = 1001")
    queue = 'while read i; do printf "%s_0|PENDING\\n%s_1|PENDING\\n" "$i" "$i"; done'
    commands.add("squeue", f'ls "{sent}" | sed "s/.sh//" | {queue}')
    commands.add("scancel", "exit 0")
    return commands


@pytest.mark.parametrize("arguments", [["--help"], ["plan", *SMOKE], ["status"], ["report"]])
def test_light_commands_import_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    laid_out(tmp_path / "runs")
    code = (
        "import contextlib, sys\n"
        "from jobs.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    assert main({arguments}) == 0\n"
        "heavy = {'torch', 'wandb', 'zarr', 'h5py', 'matplotlib', 'rich'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_command_and_exit_code() -> None:
    text = yaoki("--help").out
    commands = (
        "plan run submit status report compare logs cancel retry collect verify repack doctor "
        "slurmbox"
    )
    assert all(f"    {command} " in text for command in commands.split())
    codes = " ".join(text[text.index("exit codes") :].split())
    assert all(f"; {code} " in codes for code in (1, 2, 69, 74, 130))


@pytest.mark.parametrize("options", [[], ["--scripts"], ["--explain"], ["--json"], ["--smoke"]])
def test_plan_writes_nothing(tmp_path: Path, options: list[str]) -> None:
    laid_out(tmp_path / "runs", "seed=7")
    before = tree(tmp_path)
    assert yaoki("plan", *SMOKE, *options, cwd=tmp_path).code == 0
    assert tree(tmp_path) == before


def test_plan_can_take_one_step_of_the_first_member(tmp_path: Path) -> None:
    smoke = yaoki("plan", *SMOKE, "--smoke", "--json", cwd=tmp_path).record["smoke"]
    assert smoke["member"] == "simulate/0000"
    assert smoke["seconds"] > 0


def test_overrides_may_stand_anywhere(tmp_path: Path) -> None:
    orders = [
        ["diffusion", "seed=1", "members=4", "--preset", "smoke", "--json"],
        ["diffusion", "--preset", "smoke", "seed=1", "--json", "members=4"],
    ]
    first, second = (yaoki("plan", *order, cwd=tmp_path).record for order in orders)
    for script in [*first["scripts"], *second["scripts"]]:
        del script["slurm"]  # when it would start, which Slurm reckons anew each time
    assert first == second
    assert (first["config"]["seed"], first["config"]["members"]) == (1, 4)


def test_plan_tells_how_stages_wait(tmp_path: Path) -> None:
    out = yaoki("plan", *SMOKE, cwd=tmp_path).out
    assert "  all of simulate\n" in out
    assert "  its own member of train\n" in out
    assert "  assimilate to end\n" in out


def test_submit_sends_the_plan_byte_for_byte(tmp_path: Path, fake_slurm: Commands) -> None:
    runs = tmp_path / "runs"
    planned = yaoki("plan", *SMOKE, "--runs", runs, "--json").record["scripts"]
    sent = yaoki("submit", *SMOKE, "--runs", runs, "--json").record["jobs"]
    assert list(sent) == ["simulate", "train", "assimilate", "collect"]
    for script in planned:
        assert hashlib.sha256(script["text"].encode()).hexdigest() == script["sha256"]
        (number,) = sent[script["stage"]]
        text = script["text"]
        for stage, ids in sent.items():
            text = text.replace(f"=afterok:id-of-{stage}\n", f"=afterok:{ids[0]}\n")
            text = text.replace(f"=aftercorr:id-of-{stage}\n", f"=aftercorr:{ids[0]}\n")
            text = text.replace(f"=afterany:id-of-{stage}\n", f"=afterany:{ids[0]}\n")
        assert (tmp_path / "sent" / f"{number}.sh").read_text() == text
        assert Path(script["path"]).read_text() == text
    assert planned[0]["text"] == (tmp_path / "sent" / "100.sh").read_text()


def test_plan_tells_what_slurm_would_refuse(tmp_path: Path, fake_slurm: Commands) -> None:
    fake_slurm.add("sbatch", 'echo "allocation failure: no such partition" >&2; exit 1')
    done = yaoki("plan", *SMOKE, "--runs", tmp_path)
    assert done.code == 1
    assert "no such partition" in done.out


def test_a_refused_stage_withdraws_those_before_it(tmp_path: Path, fake_slurm: Commands) -> None:
    fake_slurm.add("sbatch", 'grep -q "job-name=.*-train" "${@: -1}" && exit 1; echo 100')
    done = yaoki("submit", *SMOKE, "--runs", tmp_path / "runs")
    assert done.code == 69
    assert fake_slurm.calls("scancel") == ["scancel 100"]
    states = {m.state for m in run_status(run_of(tmp_path / "runs"))}
    assert states == {State.PLANNED}


def test_a_second_submit_sends_nothing(tmp_path: Path, fake_slurm: Commands) -> None:
    submit = ("submit", *SMOKE, "--runs", tmp_path / "runs")
    assert yaoki(*submit).code == 0
    again = yaoki(*submit)
    assert again.code == 0
    assert "nothing to submit" in again.err
    assert len(list((tmp_path / "sent").iterdir())) == 4


def test_what_waits_is_called_back_from_the_end(tmp_path: Path, fake_slurm: Commands) -> None:
    assert yaoki("submit", *SMOKE, "--runs", tmp_path / "runs").code == 0
    member = load_stages(run_of(tmp_path / "runs"))[1].member(0)
    member.ledger.end(member.ledger.start(here()), Cause.CANCELLED)
    fake_slurm.add("squeue", "printf '%s|PENDING\\n' 100_0 100_1 101_1 102_0 102_1 103_0")
    again = yaoki("retry", "--runs", tmp_path / "runs", "--json")
    assert list(again.record["jobs"]) == ["train", "assimilate", "collect"]
    assert fake_slurm.calls("scancel") == ["scancel 103_0", "scancel 102_0 102_1"]


def test_run_keeps_its_hands_off_members_that_slurm_holds(
    tmp_path: Path, fake_slurm: Commands
) -> None:
    yaoki("submit", *SMOKE, "--runs", tmp_path / "runs")
    done = yaoki("run", *SMOKE, "--runs", tmp_path / "runs")
    assert done.code == 2
    assert "100_0" in done.err
    assert "yaoki cancel" in done.err


def test_two_launchers_do_not_share_a_run(tmp_path: Path) -> None:
    run = laid_out(tmp_path)
    with alone(run):
        assert is_launched(run)
        done = yaoki("run", *SMOKE, "--runs", tmp_path)
    assert done.code == 2
    assert "found another one at work" in done.err
    assert not is_launched(run)


def test_what_waits_for_a_launcher_that_is_gone_is_lost(tmp_path: Path) -> None:
    run = laid_out(tmp_path)
    first = next(iter(load_stages(run)[0]))
    first.ledger.queued()
    with alone(run):
        members = yaoki("status", "--runs", tmp_path, "--json").record["members"]
        assert members[0]["state"] == "queued"
    done = yaoki("status", "--watch", "--runs", tmp_path)
    assert done.code == 1
    assert "simulate/0000\tlost" in done.out


def test_cancel_asks_a_running_member_to_leave(tmp_path: Path) -> None:
    run = laid_out(tmp_path)
    first = next(iter(load_stages(run)[0]))
    command = [sys.executable, "-c", "import time; time.sleep(100)", str(run)]
    child = subprocess.Popen(command)
    first.ledger.queued()
    first.ledger._append("start", attempt=1, where=here(child.pid))
    record = yaoki("cancel", "--runs", tmp_path, "--json").record
    assert child.wait(timeout=10) == -15
    assert record["cancelled"] == ["simulate/0000"]
    assert "nothing to cancel" in yaoki("cancel", "--runs", tmp_path).out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["plan", "diffusion", "--preset", "papr"], 2, "'papr': unknown preset"),
        (["plan", "diffusion", "traning.epochs=1"], 2, "did you mean 'training'?"),
        (["plan", "diffusion", "training.epochs"], 2, "expected key.path=value"),
        (["plan", "diffusion", "training.epochs=many"], 2, "expected an integer, found 'many'"),
        (["plan", "diffusion", "resources.train.time=00:99:00"], 2, "impossible walltime"),
        (["run", "diffusion", "resources.train.time=00:00"], 2, "walltime"),
        (["plan", "diffusion", "--json", "traning.epochs=1"], 2, "did you mean 'training'?"),
        (["plan", "diffusion", "--preset", "smoke", "more"], 2, "unrecognized arguments: more"),
        (["status", "--json", "a=b", "c=d"], 2, "unrecognized arguments: c=d"),
        (["plan", "difusion"], 2, "invalid choice: 'difusion'"),
        (["run", "diffusion", "--workers", "0"], 2, "expected a number of at least 1"),
        (["status"], 2, "found none"),
        (["status", "nowhere"], 2, "starts with 'nowhere'"),
        (["verify"], 2, "found none"),
        ([], 2, "COMMAND"),
    ],
)
def test_bad_commands_end_with_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        sys.exit(main(arguments))
    printed = capsys.readouterr()
    assert end.value.code == code
    assert told in printed.err
    assert printed.out == ""
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("member", ["trian", "train/9", "train/x", "train/-1"])
def test_members_that_are_none_are_named(tmp_path: Path, member: str) -> None:
    laid_out(tmp_path)
    done = yaoki("logs", "--member", member, "--runs", tmp_path)
    assert done.code == 2
    assert "expected a stage" in done.err or "has members 0 to 1, found 9" in done.err


def test_each_rank_has_a_log_of_its_own(tmp_path: Path) -> None:
    logs = laid_out(tmp_path) / "members/train/0000/logs"
    logs.mkdir(parents=True)
    for name in ("0001.log", "0001-rank1.log", "0002.log"):
        (logs / name).write_text(f"in {name}\n")
    last = yaoki("logs", "--member", "train/0", "--runs", tmp_path)
    assert "train/0000, attempt 2 <==\nin 0002.log" in last.out
    assert "0001" not in last.out
    first = yaoki("logs", "--member", "train/0", "--attempt", "1", "--runs", tmp_path)
    assert "train/0000, attempt 1 <==\nin 0001.log" in first.out
    assert "train/0000, attempt 1, rank 1 <==\nin 0001-rank1.log" in first.out


def test_an_ambiguous_run_is_not_guessed(tmp_path: Path) -> None:
    names = sorted(laid_out(tmp_path, f"seed={seed}").name for seed in (1, 2))
    done = yaoki("status", "diffusion", "--runs", tmp_path)
    assert done.code == 2
    assert ", ".join(names) in done.err
    assert yaoki("status", names[0], "--runs", tmp_path).code == 0
    assert yaoki("status", tmp_path / names[1]).code == 0


def test_a_run_directory_of_another_job_is_left_alone(tmp_path: Path) -> None:
    run = laid_out(tmp_path)
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    (run / "plan.yaml").write_text(yaml.safe_dump(plan | {"job": "other", "digest": "0" * 64}))
    before = tree(tmp_path)
    done = yaoki("run", *SMOKE, "--runs", tmp_path)
    assert done.code == 2
    assert "job 'other', plan 0000000000" in done.err
    assert "--runs" in done.err
    assert tree(tmp_path) == before


def test_a_retry_takes_over_other_resources(tmp_path: Path, fake_slurm: Commands) -> None:
    run = laid_out(tmp_path / "runs")
    other = ("resources.train.memory=3G", "resources.train.budgets.error=1")
    told = [word for text in other for word in ("--set", text)]
    assert yaoki("retry", run, "--backend", "slurm", *told).code == 0
    script = (run / "scripts" / "train-000000.sh").read_text()
    assert "#SBATCH --mem=3GB\n" in script
    rules = {stage.name: stage.budgets.error for stage in load_stages(run)}
    assert rules == {"simulate": 0, "train": 1, "assimilate": 0, "collect": 0}
    plan = yaml.safe_load((run / "plan.yaml").read_text())
    assert plan["config"]["resources"]["train"]["memory"] == "3072M"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed=1", "expected values of resources or tracking"),
        ("resources.train.cpus=none", "resources.train.cpus: expected an integer, found 'none'"),
        ("resources", "override 'resources': expected key.path=value"),
    ],
)
def test_a_retry_that_asks_for_the_impossible_changes_nothing(
    tmp_path: Path, text: str, said: str
) -> None:
    run = laid_out(tmp_path / "runs")
    before = tree(run)
    done = yaoki("retry", run, "--set", text)
    assert done.code == 2
    assert said in done.err
    assert tree(run) == before


def test_retry_makes_no_second_directory_for_a_renamed_run(tmp_path: Path) -> None:
    run = laid_out(tmp_path)
    renamed = run.rename(tmp_path / "mine")
    before = tree(tmp_path)
    done = yaoki("retry", renamed)
    assert done.code == 2
    assert run.name in done.err
    assert tree(tmp_path) == before


def test_without_slurm_submit_says_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = yaoki("submit", *SMOKE, cwd=tmp_path)
    assert done.code == 69
    assert len(done.err.splitlines()) == 1
    assert "yaoki run" in done.err
    assert tree(tmp_path) == {}


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    done = yaoki("run", *SMOKE, cwd=tmp_path)
    assert done.code == 74
    assert str(tmp_path / "runs") in done.err


def test_doctor_is_content_here(tmp_path: Path) -> None:
    done = yaoki("doctor", "--json", cwd=tmp_path)
    verdicts = {finding["subject"]: finding["verdict"] for finding in done.record}
    assert done.code == 0
    assert {verdicts[name] for name in ("jobs", "pipelines", "cluster", "kernels")} == {"ok"}


@pytest.mark.parametrize("name", ["pipelines", "cluster", "kernels"])
def test_doctor_names_a_folder_that_shadows_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = yaoki("doctor")
    assert done.code == 1
    assert str(tmp_path / name) in done.err


def test_doctor_names_a_distribution_that_claims_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "impostor-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: impostor\nVersion: 1.0\n")
    (information / "top_level.txt").write_text("jobs\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = yaoki("doctor", "--json")
    assert done.code == 1
    (bad,) = (finding for finding in done.record if finding["verdict"] == "bad")
    assert bad["subject"] == "jobs"
    assert "impostor" in bad["text"]


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -P -m jobs.cli plan diffusion --preset smoke --scripts | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("diffusion, preset smoke, plan ")


def test_json_of_status_has_a_row_for_every_member(tmp_path: Path) -> None:
    run = laid_out(tmp_path)
    record = json.loads(yaoki("status", "--json", "--runs", tmp_path).out)
    assert record["run"] == str(run)
    assert [(m["stage"], m["index"]) for m in record["members"]] == [
        *[(stage, index) for stage in ("simulate", "train", "assimilate") for index in (0, 1)],
        ("collect", 0),
    ]
    assert {m["state"] for m in record["members"]} == {"planned"}
