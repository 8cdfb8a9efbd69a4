"""Members that exceed their memory on a real Slurm: killed by the kernel, they get up again."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from cluster import Attempt, Budgets, Cause, HostMemory, RobustExecutor, RobustJob
from cluster.memory.hostmemory import Order, Sizes, attempt_sizes, limited
from cluster.slurmbox import SlurmBox

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]

# Workers cannot import the tests: send this module along with what is pickled from it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

#: A worker with torch takes about 280 MiB; eight samples more than is left, four do not.
MEMORY, SAMPLE, BATCH, STEPS, GREEDY_FROM = 700, 80 << 20, 8, 6, 2

#: In the place of the attempt that is killed.
IN_CHILD = -1


class Eater:
    """Sums samples that take much memory, as many at once as its microbatch says."""

    def __init__(self) -> None:
        self.microbatch, self.steps_done, self.steps_total = BATCH, 0, STEPS
        self.sums: list[float] = []

    def limit_microbatch(self, limit: int) -> None:
        self.microbatch, _ = limited(self.microbatch, 1, limit)

    def step(self) -> None:
        size = SAMPLE if self.steps_done >= GREEDY_FROM else 1 << 10
        total = 0.0
        for start in range(0, BATCH, self.microbatch):
            stop = min(start + self.microbatch, BATCH)
            value = 0.1 * self.steps_done
            samples = [np.full(size // 8, value + i) for i in range(start, stop)]
            for sample in samples:
                total += float(sample[-1])
            del samples
        self.sums.append(total)
        self.steps_done += 1

    def state_dict(self) -> Mapping[str, Any]:
        return {"sums": self.sums, "steps_done": self.steps_done, "microbatch": self.microbatch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums, self.steps_done = list(state["sums"]), state["steps_done"]
        self.microbatch = state["microbatch"]


class ChildEater(Eater):
    """Takes the memory in a child, as a data loader's worker does."""

    def step(self) -> None:
        child = multiprocessing.get_context("fork").Process(target=super().step)
        child.start()
        child.join()
        if child.exitcode != 0:
            raise RuntimeError(f"the child ended with {child.exitcode}")
        self.sums.append(float(self.steps_done))
        self.steps_done += 1


def eat(killed_in_attempt: int, attempt: Attempt) -> list[float]:
    eater = ChildEater() if killed_in_attempt == IN_CHILD else Eater()
    attempt.restore(eater)
    for step in attempt.steps(eater):
        if attempt.number == killed_in_attempt and step == STEPS - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        eater.step()
    return eater.sums


def _submit(folder: Path, order: Order, kills: list[int], cap: float = 4.0) -> list[RobustJob]:
    rules = HostMemory(order, memory_cap=cap)
    executor = RobustExecutor(
        folder, "slurm", checkpoint_seconds=0.0, host_memory=rules, budgets=Budgets(host_oom=3)
    )
    executor.update_parameters(mem_gb=MEMORY / 1024, timeout_min=10, slurm_partition="gpu")
    return executor.map_array(eat, kills)


@pytest.fixture(scope="module")
def jobs(slurmbox: SlurmBox, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RobustJob]:
    folder = tmp_path_factory.mktemp("host memory")
    kills = [0, 2, IN_CHILD]
    halving, told_apart, child = _submit(folder / "halving", Order.MICROBATCH_FIRST, kills)
    # The second of an array: one element alone is given more.
    _, raising = _submit(folder / "raising", Order.MEMORY_ONLY, [0, 0])
    (hopeless,) = _submit(folder / "hopeless", Order.MEMORY_ONLY, [0], cap=1.1)
    return {
        "halving": halving,
        "told_apart": told_apart,
        "child": child,
        "raising": raising,
        "hopeless": hopeless,
    }


@pytest.fixture(scope="module")
def twin() -> list[float]:
    """What a member comes to that has memory enough."""
    eater = Eater()
    eater.limit_microbatch(1)
    while eater.steps_done < eater.steps_total:
        eater.step()
    return eater.sums


def _story(job: RobustJob) -> list[tuple[Cause | None, Sizes]]:
    ledger = job.member.ledger
    return [(a.cause, attempt_sizes(ledger, a.number)) for a in ledger.attempts()]


def test_half_the_microbatch_is_tried_first(jobs: dict[str, RobustJob], twin: list[float]) -> None:
    assert jobs["halving"].result() == twin
    assert _story(jobs["halving"]) == [
        (Cause.HOST_OOM, Sizes(MEMORY, BATCH)),
        (Cause.FINISHED, Sizes(MEMORY, BATCH // 2)),
    ]


def test_a_sigkill_is_told_apart_though_slurm_still_speaks_of_the_memory(
    jobs: dict[str, RobustJob], twin: list[float]
) -> None:
    assert jobs["told_apart"].result() == twin
    assert _story(jobs["told_apart"]) == [
        (Cause.HOST_OOM, Sizes(MEMORY, BATCH)),
        (Cause.KILLED, Sizes(MEMORY, BATCH // 2)),
        (Cause.FINISHED, Sizes(MEMORY, BATCH // 2)),
    ]


def test_more_memory_is_had_where_the_microbatch_stays(
    jobs: dict[str, RobustJob], twin: list[float]
) -> None:
    assert jobs["raising"].result() == twin
    assert _story(jobs["raising"]) == [
        (Cause.HOST_OOM, Sizes(MEMORY, BATCH)),
        (Cause.FINISHED, Sizes(MEMORY * 3 // 2, BATCH)),
    ]


def test_a_child_killed_for_memory_is_no_error_of_the_member(jobs: dict[str, RobustJob]) -> None:
    assert jobs["child"].result() == list(range(STEPS))
    assert _story(jobs["child"]) == [
        (Cause.HOST_OOM, Sizes(MEMORY, BATCH)),
        (Cause.FINISHED, Sizes(MEMORY, BATCH // 2)),
    ]


def test_where_nothing_helps_the_verdict_says_what_to_do(jobs: dict[str, RobustJob]) -> None:
    error = jobs["hopeless"].exception()
    assert [cause for cause, _ in _story(jobs["hopeless"])] == [Cause.HOST_OOM] * 2
    assert "out of host memory with 770 MiB and a microbatch of 8" in str(error)
    assert "Ask for more memory" in str(error)
