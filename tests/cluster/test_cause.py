"""Laws of causes: decided from what Slurm says and when the signal came, never from a guess."""

import re
import signal
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.cause import (
    CLOCK_SLACK,
    SIGNAL_SLACK,
    UNKNOWN,
    Budgets,
    Cause,
    JobFacts,
    stop_cause,
)
from cluster.scheduler.slurm import parse_job_facts

limits = st.floats(120.0, 7 * 86_400.0)
delays = st.integers(1, 3600)
signals = st.sampled_from([signal.SIGUSR2, signal.SIGTERM])
START = 1.7e9

# A running array element, as 22.05 writes it.
RUNNING_22 = (
    "JobId=18 ArrayJobId=17 ArrayTaskId=3 JobName=train "
    "UserId=ada(1000) GroupId=ada(1000) MCS_label=N/A Priority=4294901742 Nice=0 Account=lab "
    "QOS=normal WCKey=*submitit JobState=RUNNING Reason=None Dependency=(null) Requeue=1 "
    "Restarts=2 BatchFlag=1 Reboot=0 "
    "ExitCode=0:0 DerivedExitCode=0:0 RunTime=00:01:10 TimeLimit=01:00:00 TimeMin=N/A "
    "SubmitTime=2026-03-02T10:00:00 EligibleTime=2026-03-02T10:00:00 "
    "AccrueTime=2026-03-02T10:00:00 StartTime=2026-03-02T10:00:05 EndTime=2026-03-02T11:00:05 "
    "Deadline=N/A PreemptEligibleTime=2026-03-02T10:00:05 PreemptTime=None SuspendTime=None "
    "SecsPreSuspend=0 LastSchedEval=2026-03-02T10:00:05 Scheduler=Main Partition=long "
    "AllocNode:Sid=login:77 ReqNodeList=(null) ExcNodeList=(null) NodeList=n1 BatchHost=n1 "
    "NumNodes=1 NumCPUs=2 NumTasks=1 CPUs/Task=2 ReqB:S:C:T=0:0:*:* "
    "TRES=cpu=2,mem=2G,node=1,billing=2 Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=* "
    "MinCPUsNode=2 MinMemoryNode=2G MinTmpDiskNode=0 Features=(null) DelayBoot=00:00:00 "
    "OverSubscribe=OK Contiguous=0 Licenses=(null) Network=(null) "
    "Command=/home/ada/a run/scripts/train-000000.sh WorkDir=/home/ada "
    "StdErr=/home/ada/a run/slurm-17_3.log StdIn=/dev/null StdOut=/home/ada/a run/slurm-17_3.log "
    "Power= TresPerNode=gres:gpu:1"
)

# Slurm 24 splits the requested from the allocated and writes a submit line.
RUNNING_24 = (
    "JobId=409 JobName=wrap UserId=ada(1000) GroupId=ada(1000) MCS_label=N/A Priority=1 Nice=0 "
    "Account=lab QOS=normal JobState=RUNNING Reason=None Dependency=(null) Requeue=0 "
    "Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 DerivedExitCode=0:0 RunTime=5-21:51:00 "
    "TimeLimit=7-00:00:00 "
    "TimeMin=N/A SubmitTime=2026-01-21T15:46:41 EligibleTime=2026-01-21T15:46:41 "
    "AccrueTime=2026-01-21T15:46:41 StartTime=2026-01-21T16:47:16 EndTime=2026-01-28T16:47:16 "
    "Deadline=N/A SuspendTime=None SecsPreSuspend=0 LastSchedEval=2026-01-21T16:47:16 "
    "Scheduler=Backfill Partition=gpu AllocNode:Sid=login:4134358 NodeList=n[1-2] "
    "NumNodes=2 NumCPUs=24 NumTasks=1 CPUs/Task=24 ReqTRES=cpu=24,mem=120G,node=1 "
    "AllocTRES=cpu=24,mem=120G,node=1 Command=(null) SubmitLine=sbatch --wrap=sleep 100 "
    "WorkDir=/home/ada MailUser=ada MailType=INVALID_DEPEND,BEGIN,END,FAIL"
)


def _local(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


def test_a_running_job_is_read_on_old_and_new_slurm() -> None:
    old, new = _local("2026-03-02T11:00:05"), _local("2026-01-28T16:47:16")
    assert parse_job_facts(RUNNING_22, restarts=2) == JobFacts("RUNNING", end_time=old)
    assert parse_job_facts(RUNNING_24) == JobFacts("RUNNING", end_time=new)


@pytest.mark.parametrize("text", [RUNNING_22, RUNNING_24])
def test_a_running_job_is_ended_by_no_one(text: str) -> None:
    facts = parse_job_facts(text, restarts=2)
    assert facts.running
    assert facts.ended_by() is None


def _completing(**changes: str) -> str:
    """What Slurm says of a job while it ends: its end is now, whoever ends it."""
    fields = {"JobState": "COMPLETING", "EndTime": "2026-03-02T10:31:00", **changes}
    text = RUNNING_22
    for name, value in fields.items():
        text = re.sub(rf"\b{name}=\S*", f"{name}={value}", text)
    return text


@pytest.mark.parametrize("signum", [signal.SIGUSR2, signal.SIGTERM])
@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (_completing(), Cause.CANCELLED),
        (_completing(Reason="TimeLimit"), Cause.TIMEOUT),
        # The batch script was killed, or left while its step went on.
        (_completing(Reason="JobLaunchFailure"), Cause.KILLED),
        (_completing(Reason="NonZeroExitCode"), Cause.KILLED),
        (_completing(Reason="RaisedSignal:9(Killed)"), Cause.KILLED),
        (_completing(Reason="NodeDown"), Cause.NODE_FAILURE),
        (_completing(Restarts="3"), Cause.PREEMPTION),
        (_completing(PreemptTime="2026-03-02T10:31:00"), Cause.PREEMPTION),
        (_completing(JobState="PENDING", Restarts="3", Reason="BeginTime"), Cause.PREEMPTION),
        (_completing(JobState="CANCELLED"), Cause.CANCELLED),
        (_completing(JobState="TIMEOUT", Reason="TimeLimit"), Cause.TIMEOUT),
        (_completing(JobState="PREEMPTED"), Cause.PREEMPTION),
        (_completing(JobState="NODE_FAIL", Reason="NodeDown"), Cause.NODE_FAILURE),
        (_completing(JobState="OUT_OF_MEMORY", Reason="OutOfMemory"), Cause.HOST_OOM),
    ],
)
def test_who_ends_a_job_is_read_from_what_slurm_says(text: str, cause: Cause, signum: int) -> None:
    facts = parse_job_facts(text, restarts=2)
    assert facts.ended_by() is cause
    assert stop_cause(signum, _local("2026-03-02T10:31:00"), facts, 90.0) is cause


def test_a_step_killed_for_its_memory_is_seen() -> None:
    assert parse_job_facts(_completing(DerivedExitCode="0:125")).out_of_memory
    assert not parse_job_facts(_completing(DerivedExitCode="125:0")).out_of_memory


@pytest.mark.parametrize("unknown", ["Unknown", "N/A", "None", "NONE", "(null)", ""])
def test_a_job_without_limit_has_no_end(unknown: str) -> None:
    text = RUNNING_24.replace("EndTime=2026-01-28T16:47:16", f"EndTime={unknown}")
    assert parse_job_facts(text) == JobFacts("RUNNING")


@pytest.mark.parametrize("zone", ["UTC", "America/St_Johns", "Asia/Kathmandu", "Europe/Berlin"])
@given(moment=st.integers(1_577_836_800, 2_000_000_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_end_time_is_read_in_the_zone_that_slurm_writes_it_in(
    monkeypatch: pytest.MonkeyPatch, zone: str, moment: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        try:
            written = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment))
            read = parse_job_facts(f"JobState=RUNNING EndTime={written}").end_time
            assert read is not None
            # Where clocks are put back an hour is written twice, and means either.
            assert time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(read)) == written
            assert abs(read - moment) in (0, 3600)
        finally:
            patch.undo()
            time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        RUNNING_22.replace("JobName=train", "JobName=a JobState=FAILED Reason=TimeLimit b"),
        f"{RUNNING_22} Comment=JobState=FAILED EndTime=2020-01-01T00:00:00 Restarts=9",
        RUNNING_22.replace("/a run/", "/a JobState=CANCELLED/"),
    ],
)
def test_names_paths_and_comments_of_users_are_no_facts(text: str) -> None:
    assert parse_job_facts(text, restarts=2) == parse_job_facts(RUNNING_22, restarts=2)


def test_nothing_readable_is_unknown() -> None:
    assert parse_job_facts("") == JobFacts("UNKNOWN")


@given(limits, delays, st.floats(0.0, 1.0))
def test_usr2_in_time_before_the_limit_is_a_timeout(limit: float, delay: int, early: float) -> None:
    facts = JobFacts("RUNNING", end_time=START + limit)
    received = START + limit - early * (delay + SIGNAL_SLACK)
    assert stop_cause(signal.SIGUSR2, received, facts, delay) is Cause.TIMEOUT


@given(limits, delays, st.floats(0.0, 1.0))
def test_usr2_well_before_the_limit_is_a_preemption(limit: float, delay: int, share: float) -> None:
    facts = JobFacts("RUNNING", end_time=START + limit)
    received = START + share * limit - delay - SIGNAL_SLACK - 1.0
    assert stop_cause(signal.SIGUSR2, received, facts, delay) is Cause.PREEMPTION


@given(limits, delays, st.floats(-1e6, 1e6))
def test_term_to_a_job_that_goes_on_is_a_preemption(limit: float, delay: int, away: float) -> None:
    facts = JobFacts("RUNNING", end_time=START + limit)
    assert stop_cause(signal.SIGTERM, START + limit + away, facts, delay) is Cause.PREEMPTION


@given(limits, delays, st.floats(-CLOCK_SLACK, 3600.0))
def test_where_only_the_environment_tells_term_at_the_limit_is_a_timeout(
    limit: float, delay: int, late: float
) -> None:
    facts = JobFacts(UNKNOWN, end_time=START + limit)
    assert stop_cause(signal.SIGTERM, START + limit + late, facts, delay) is Cause.TIMEOUT
    early = START + limit - CLOCK_SLACK - 1.0
    assert stop_cause(signal.SIGTERM, early, facts, delay) is Cause.PREEMPTION


@given(limits, delays, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_time_that_has_passed_decides_nothing(
    limit: float, delay: int, share: float, other: float
) -> None:
    # A job of two minutes and one of seven days, told at the same distance from their end, and
    # with the same facts, were told for the same reason.
    away = share * limit
    causes = {
        stop_cause(signal.SIGUSR2, end - away, JobFacts("RUNNING", end_time=end), delay)
        for end in (START + limit, START + away + other * (7 * 86_400.0))
    }
    assert len(causes) == 1 or abs(away - delay - SIGNAL_SLACK) < 1e-3


@given(signals, st.floats(0.0, 2e9), delays)
def test_a_signal_that_no_fact_explains_wants_the_member_back(
    signum: int, received: float, delay: int
) -> None:
    assert stop_cause(signum, received, None, delay) is Cause.PREEMPTION
    assert stop_cause(signum, received, JobFacts("RUNNING"), delay) is Cause.PREEMPTION


@given(st.sampled_from(list(Cause)), st.integers(0, 5), st.integers(0, 8))
def test_a_budget_allows_as_many_starts_as_it_says(cause: Cause, budget: int, spent: int) -> None:
    budgets = Budgets(**{cause.value: budget}) if hasattr(Budgets(), cause.value) else Budgets()
    endless = cause in (Cause.FINISHED, Cause.CANCELLED)
    assert budgets.allows(cause, {cause: spent}) == (not endless and spent < budget)


@pytest.mark.parametrize("value", [-1, 1.5, "3"])
def test_a_budget_that_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="budget 'killed': expected a whole number >= 0"):
        Budgets(killed=value)
