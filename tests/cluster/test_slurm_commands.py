"""What Slurm's commands are asked, and how their answers and refusals read."""

from datetime import datetime
from pathlib import Path

import pytest
from support.commands import RUNNING, Commands

from cluster.cause import JobFacts
from cluster.scheduler import sacct, slurm


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path / "bin", monkeypatch)


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_refusal_carries_what_slurm_said(commands: Commands) -> None:
    commands.add("sbatch", "echo 'error: Invalid partition name specified: gpux' >&2; exit 1")
    with pytest.raises(slurm.SlurmError, match=r"sbatch --parsable .*a\.sh' exited 1: .*gpux"):
        slurm.submit(Path("a.sh"))


@pytest.mark.usefixtures("no_slurm")
def test_a_missing_slurm_is_said_with_the_way_out() -> None:
    assert not slurm.available()
    assert slurm.job_facts("17") is None
    assert sacct.run_state("17", 0) is None
    for ask in (slurm.submit, slurm.test_only):
        with pytest.raises(slurm.SlurmError, match=r"'sbatch' is not installed here.*slurmbox"):
            ask(Path("a.sh"))


def test_a_silent_command_does_not_hang(commands: Commands) -> None:
    commands.add("scontrol", "exec sleep 60")
    with pytest.raises(slurm.SlurmError, match="did not answer within"):
        slurm.run(["scontrol", "ping"], timeout=0.2)


def test_slurm_is_available_when_its_controller_answers(commands: Commands) -> None:
    commands.add("sbatch", "exit 0")
    commands.add("scontrol", "exit 1")
    assert not slurm.available()
    commands.add("scontrol", "exit 0")
    assert slurm.available()


@pytest.mark.parametrize(("said", "job"), [("123", "123"), ("123;cluster2", "123")])
def test_the_job_id_is_read(commands: Commands, said: str, job: str) -> None:
    commands.add("sbatch", f"echo '{said}'")
    assert slurm.submit(Path("/run/a b.sh")) == job
    assert commands.calls() == ["sbatch --parsable /run/a b.sh"]


def test_a_script_is_checked_without_being_submitted(commands: Commands) -> None:
    commands.add("sbatch", "echo 'sbatch: Job 5 to start at 2026-03-02T10:00:00' >&2")
    assert "to start at 2026" in slurm.test_only(Path("a.sh"))
    assert commands.calls() == ["sbatch --test-only a.sh"]
    commands.add("sbatch", "echo 'allocation failure: Requested node' >&2; exit 1")
    with pytest.raises(slurm.SlurmError, match=r"a\.sh.*allocation failure"):
        slurm.test_only(Path("a.sh"))


def test_settings_of_the_cluster_are_read(commands: Commands) -> None:
    commands.add(
        "scontrol", "printf 'Configuration data\\nMaxArraySize   = 4001\\nLicenses = a=3\\n'"
    )
    settings = slurm.configuration()
    assert (settings["MaxArraySize"], settings["Licenses"]) == ("4001", "a=3")
    assert commands.calls() == ["scontrol show config"]


@pytest.mark.parametrize(
    ("body", "busy"),
    [
        (f"echo 'sbatch: error: Batch job submission failed: {said}' >&2; exit 1", busy)
        for said, busy in [
            ("Socket timed out on send/recv operation", True),
            ("Unable to contact slurm controller (connect failure)", True),
            ("Slurm temporarily unable to accept job", True),
            ("Resource temporarily unavailable", True),
            ("Zero Bytes were transmitted or received", True),
            ("Slurm backup controller in standby mode", True),
            ("Invalid partition name specified", False),
            ("Invalid job array specification", False),
            ("Job violates accounting/QOS policy (job submit limit)", False),
            ("Requested node configuration is not available", False),
            ("Access/permission denied", False),
        ]
    ]
    + [
        ("kill -9 $$", True),
        # Neither refused nor accepted, as far as can be seen.
        ("exit 0", True),
        # sbatch tried again by itself, and was then refused.
        ("echo 'Resource temporarily unavailable\nInvalid qos specification' >&2; exit 1", False),
    ],
)
def test_only_what_passes_is_asked_again(commands: Commands, body: str, busy: bool) -> None:
    commands.add("sbatch", body)
    with pytest.raises(slurm.SlurmError) as caught:
        slurm.submit(Path("a.sh"))
    assert isinstance(caught.value, slurm.SlurmBusyError) == busy


def test_a_job_is_described(commands: Commands) -> None:
    commands.add("scontrol", f"echo '{RUNNING}'")
    facts = slurm.job_facts("17_1")
    assert facts is not None
    assert facts.state == "RUNNING"
    assert commands.calls() == ["scontrol show job --details --oneliner 17_1"]


def test_a_users_time_format_does_not_hide_the_end_time(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    # scontrol writes times as SLURM_TIME_FORMAT says, e.g. "Tomr 11:00" for "relative".
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    commands.add(
        "scontrol",
        '[ "${SLURM_TIME_FORMAT:-standard}" = standard ] && end=2099-01-01T00:00:00\n'
        'echo "JobId=18 JobState=RUNNING EndTime=${end:-Tomr 11:00} PreemptTime=None"',
    )
    facts = slurm.job_facts("18")
    assert facts is not None
    assert facts.end_time is not None


def test_a_job_that_cannot_be_asked_about_has_no_facts(commands: Commands) -> None:
    commands.add("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    commands.add("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm.job_facts("17") is None


def test_states_of_many_jobs_cost_one_query(commands: Commands) -> None:
    commands.add("squeue", "printf '17_0|RUNNING\\n17_1|PENDING\\n18|COMPLETING\\n'")
    states = slurm.queued_states(["17_0", "18", "17_1", "18"])
    assert states == {"17_0": "RUNNING", "17_1": "PENDING", "18": "COMPLETING"}
    (call,) = commands.calls()
    assert call.endswith("--jobs=17_0,17_1,18")


def test_a_forgotten_job_is_absent_and_a_dead_controller_an_error(commands: Commands) -> None:
    assert slurm.queued_states([]) == {}
    commands.add("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm.queued_states(["17"]) == {}
    commands.add("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(slurm.SlurmError, match="Unable to contact"):
        slurm.queued_states(["17"])


def test_nothing_to_cancel_asks_nothing(commands: Commands) -> None:
    commands.add("scancel", "exit 0")
    slurm.cancel([])
    assert commands.calls() == []
    slurm.cancel(["17_0", "17_1"])
    assert commands.calls() == ["scancel 17_0 17_1"]


def test_a_requeue_that_is_refused_is_an_error(commands: Commands) -> None:
    commands.add("scontrol", "exit 0")
    slurm.requeue("17_1")
    assert commands.calls() == ["scontrol requeue 17_1"]
    commands.add("scontrol", "echo 'Job is pending execution' >&2; exit 1")
    with pytest.raises(slurm.SlurmError, match="pending execution"):
        slurm.requeue("17_1")


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "18"}, "18"),
        (
            {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "0"},
            "17_0",
        ),
    ],
)
def test_the_own_job_is_named_as_scontrol_takes_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], job: str | None
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert slurm.own_job_id() == job


@pytest.mark.parametrize(
    ("rows", "number", "state"),
    [
        ("", 0, None),
        ("17_1|RUNNING", 0, None),
        ("17_1|NODE_FAIL\\n17_1|RUNNING", 0, "NODE_FAIL"),
        ("17_1|NODE_FAIL\\n17_1|RUNNING", 1, None),
        # The row of the newest run has not come yet: an earlier run does not speak for it.
        ("17_1|PREEMPTED", 1, None),
        ("17_1|PREEMPTED\\n17_1|NODE_FAIL\\n17_1|PENDING", 1, "NODE_FAIL"),
        ("17_1|CANCELLED by 1000\\n17_1|RUNNING", 0, "CANCELLED"),
        # Steps speak of memory where the job does not, each of its own run.
        ("17_1|FAILED\\n17_1.batch|FAILED\\n17_1.0|OUT_OF_MEMORY", 0, "OUT_OF_MEMORY"),
        (
            "17_1|REQUEUED\\n17_1.0|OUT_OF_MEMORY\\n17_2|FAILED\\n17_1|FAILED\\n17_1.0|FAILED",
            1,
            "FAILED",
        ),
    ],
)
def test_accounting_tells_how_a_run_ended(
    commands: Commands, rows: str, number: int, state: str | None
) -> None:
    commands.add("sacct", f"printf '{rows}\\n'")
    assert sacct.run_state("17_1", number) == state


def test_accounting_is_asked_once_for_many_jobs(commands: Commands) -> None:
    commands.add("sacct", "printf '17_0|FAILED\\n17_1|TIMEOUT\\n'")
    runs = sacct.run_states(["17_0", "17_1", "18_0"])
    assert {job: [run.outcome for run in rows] for job, rows in runs.items()} == {
        "17_0": ["FAILED"],
        "17_1": ["TIMEOUT"],
        "18_0": [],
    }
    assert len(commands.calls("sacct")) == 1


def _squeue_row(*values: str) -> str:
    return "".join(f"{value:<60}" for value in values)


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        (
            ("COMPLETING", "TimeLimit", "2026-11-22T13:00:00", "N/A", "0"),
            JobFacts("COMPLETING", "TimeLimit", datetime(2026, 11, 22, 13).timestamp()),
        ),
        (("COMPLETING", "None", "N/A", "N/A", "1"), JobFacts("COMPLETING", requeued=True)),
        (
            ("RUNNING", "None", "Unknown", "2026-11-22T13:00:00", "0"),
            JobFacts("RUNNING", preempted=True),
        ),
    ],
)
def test_where_scontrol_refuses_squeue_tells(
    commands: Commands, row: tuple[str, ...], facts: JobFacts
) -> None:
    commands.add("scontrol", "echo 'Access/permission denied' >&2; exit 1")
    commands.add("squeue", f"echo '{_squeue_row(*row)}'")
    assert slurm.job_facts("17_1") == facts


def test_an_end_of_the_limit_in_the_environment_is_the_last_resort(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.add("scontrol", "exit 1")
    commands.add("squeue", "exit 1")
    assert slurm.own_facts("17_1") is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1795352400")
    assert slurm.own_facts("17_1") == JobFacts("UNKNOWN", end_time=1795352400.0)
