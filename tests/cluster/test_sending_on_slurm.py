"""Arrays beyond the limits of a real Slurm, whose answers get lost on the way."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from cluster import Attempt, Cause, RobustExecutor, RobustJob
from cluster import executor as executor_module
from cluster.scheduler import limits
from cluster.scheduler.limits import SubmitLimitError
from cluster.scheduler.patience import Patience
from cluster.slurmbox import SlurmBox

cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

ARRAY_SIZE, MOST_JOBS, AT_ONCE = 4, 12, 2

#: Submits, and every other time the answer is lost on the way.
LOSES_ANSWERS = """#!/bin/bash
answer=$({sbatch} "$@") || exit
calls="$(dirname "$0")/calls"
echo >> "$calls"
if (( $(wc -l < "$calls") % 2 )); then
  echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
  exit 1
fi
echo "$answer"
"""


@pytest.fixture(scope="module")
def narrow(slurmbox: SlurmBox) -> Iterator[None]:
    """The box with small limits, enforced."""
    path = Path(slurmbox.environment["SLURM_CONF"])
    before = path.read_text()
    lines = [line for line in before.splitlines() if not line.startswith("MaxArraySize=")]
    lines += [f"MaxArraySize={ARRAY_SIZE}", "AccountingStorageEnforce=limits"]
    path.write_text("\n".join(lines) + "\n")
    _limit_jobs(MOST_JOBS)
    slurmbox.restart_controller()
    yield
    path.write_text(before)
    _limit_jobs(-1)
    slurmbox.restart_controller()


def _limit_jobs(count: int) -> None:
    command = f"sacctmgr --immediate modify user root set maxsubmitjobs={count}"
    subprocess.run(command.split(), check=True, capture_output=True)


def _executor(run: Path) -> RobustExecutor:
    executor = RobustExecutor(run, "slurm")
    executor.update_parameters(
        cpus_per_task=1, mem_gb=0.5, timeout_min=5, slurm_array_parallelism=AT_ONCE
    )
    return executor


@pytest.mark.usefixtures("narrow")
def test_more_than_slurm_takes_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    (limit,) = limits.ask().submit
    assert limit.jobs == MOST_JOBS
    with pytest.raises(SubmitLimitError, match=rf"for 13 members.* 'root' is {MOST_JOBS}, of"):
        _executor(tmp_path / "run").map_array(divmod, range(13), range(13))
    assert not (tmp_path / "run" / "scripts").exists()


@pytest.mark.usefixtures("narrow")
def test_every_member_runs_once_though_answers_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(LOSES_ANSWERS.format(sbatch=shutil.which("sbatch")))
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=":")
    monkeypatch.setattr(executor_module, "PATIENCE", Patience(first=0.2))
    jobs = _executor(tmp_path / "run").map_array(_index_of, range(10))
    assert [job.result() for job in jobs] == [(n, n) for n in range(10)]
    assert [a.cause for job in jobs for a in job.member.ledger.attempts()] == [Cause.FINISHED] * 10
    arrays = [job.job_id.split("_")[0] for job in jobs]
    assert [arrays.count(array) for array in dict.fromkeys(arrays)] == [4, 4, 2]
    assert _most_at_once(jobs) <= AT_ONCE


def _index_of(argument: int, attempt: Attempt) -> tuple[int, int]:
    return argument, attempt.member.index


def _most_at_once(jobs: list[RobustJob]) -> int:
    spans = [a for job in jobs for a in job.member.ledger.attempts()]
    return max(sum(b.started <= a.started < (b.ended or 0) for b in spans) for a in spans)
