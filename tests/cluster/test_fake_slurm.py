"""The fake does to scripts what Slurm does; the other tests lean on that."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_slurm import FakeSlurm
from support.waiting import wait

from cluster.scheduler import sacct, slurm

#: Tells what it sees, and goes on until it is asked to stop.
_STUBBORN = "trap 'echo term' TERM; echo run $SLURM_RESTART_COUNT; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeSlurm]:
    directory = tmp_path_factory.mktemp("fake") / "bin"
    fake = FakeSlurm(directory, executes=True, minute=1.5, kill_wait=0.4, lag=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(fake.directory), prepend=":")
        yield fake
    fake.close()


class Sent:
    """An array of jobs in bash."""

    def __init__(self, folder: Path, name: str, body: str, **options: Any) -> None:
        given = {"array": "0", "time": 100, "output": f"{folder}/{name}-%a.log", **options}
        lines = [f"#SBATCH --{key.replace('_', '-')}={value}" for key, value in given.items()]
        path = folder / f"{name}.sh"
        path.write_text("\n".join(["#!/bin/bash", *lines, "#SBATCH --requeue", body, ""]))
        self.folder, self.name, self.id = folder, name, slurm.submit(path)

    def states(self) -> list[str]:
        return list(slurm.queued_states([self.id]).values())

    def is_in(self, *states: str) -> None:
        wait(lambda: self.states() == list(states), f"{self.name} to be {states}")

    def log(self, element: int = 0) -> str:
        path = self.folder / f"{self.name}-{element}.log"
        return path.read_text() if path.exists() else ""

    def says(self, text: str) -> None:
        wait(lambda: text in self.log(), f"{self.name} to say {text!r}")


def test_what_slurm_does_to_scripts(fake: FakeSlurm, tmp_path: Path) -> None:
    told = f"srun bash -c \"trap 'echo usr2; exit 3' USR2; {_STUBBORN}\""
    limited = Sent(
        tmp_path,
        "limited",
        told,
        time=1,
        signal="USR2@100",
    )
    over = Sent(tmp_path, "over", _STUBBORN, time=1)
    cancelled, preempted, lost = (
        Sent(tmp_path, name, _STUBBORN, exclude="n0,n1,n2" if name == "lost" else "")
        for name in ("cancelled", "preempted", "lost")
    )
    failed = Sent(tmp_path, "failed", "exit $SLURM_ARRAY_TASK_ID", array="0-1")
    pair = Sent(tmp_path, "pair", "true", array="0-1", dependency=f"aftercorr:{failed.id}")
    after = Sent(tmp_path, "after", "true", dependency=f"afterany:{failed.id}")
    throttled = Sent(tmp_path, "throttled", "sleep 0.3", array="0-2%1")
    for sent in (cancelled, preempted, lost):
        sent.says("run")
    slurm.cancel([cancelled.id])
    fake.preempt(f"{preempted.id}_0")
    fake.lose("n3")
    most = 0
    while set(throttled.states()) != {"COMPLETED"}:
        most = max(most, throttled.states().count("RUNNING"))
    assert most == 1
    limited.is_in("FAILED")
    assert "usr2" in limited.log()
    over.is_in("TIMEOUT")
    cancelled.is_in("CANCELLED")
    assert cancelled.log().endswith("term\n")
    preempted.says("run 1")
    assert "term" not in lost.log()
    lost.is_in("PENDING")
    fake.restore("n3")
    lost.says("run 1")
    failed.is_in("COMPLETED", "FAILED")
    pair.is_in("COMPLETED", "PENDING")
    after.is_in("COMPLETED")
    job = f"{lost.id}_0"
    wait(lambda: sacct.run_state(job, 0) == "NODE_FAIL", "accounting to hear of it")
    _requeued(fake, failed)


def _requeued(fake: FakeSlurm, failed: Sent) -> None:
    """A job that has ended can be had back, and one that waits can not."""
    job, nodes = f"{failed.id}_1", ("n0", "n1", "n2", "n3")
    for node in nodes:
        fake.lose(node)
    slurm.requeue(job)
    facts = slurm.job_facts(job)
    assert facts is not None
    assert (facts.state, facts.requeued) == ("PENDING", True)
    with pytest.raises(slurm.SlurmError, match="pending execution"):
        slurm.requeue(job)
    for node in nodes:
        fake.restore(node)
    failed.is_in("COMPLETED", "FAILED")
    assert slurm.job_facts("9") is None
