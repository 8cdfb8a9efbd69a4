"""From a plan to running members: stages laid out, sent in order, and sent again."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from cluster.calls import Call
from cluster.executor import Backend, RobustExecutor
from cluster.stage import Stage
from cluster.status import State, run_status
from cluster.submission import Script
from pipelines.plan import Plan, StagePlan

#: What Slurm is told of each way to wait. Of the job before, in place of "{}", stand the ids.
_DEPENDENCIES = {"all": "afterok:{}", "each": "aftercorr:{}", "end": "afterany:{}"}


class StageFailedError(Exception):
    """Members of a stage did not finish, so that the stages after it cannot run."""


@dataclass
class Launcher:
    """Sends the stages of a plan to one backend.

    Args:
        plan: What to run.
        backend: Where.
        workers: Members at once on the local backend.
    """

    plan: Plan
    backend: Backend
    workers: int | None = None

    def executor(self, stage: StagePlan, dependency: str | None = None) -> RobustExecutor:
        """The executor of a stage, with its resources."""
        executor = RobustExecutor(
            self.plan.directory,
            self.backend,
            stage=stage.name,
            order=self._order(stage),
            checkpoint_seconds=stage.resources.checkpoint_seconds,
            workers=self.workers,
        )
        name = f"{self.plan.directory.name}-{stage.name}"
        executor.update_parameters(**stage.resources.parameters(name))
        if dependency is not None:
            # Without the second, a member that failed would leave what waits for it in the queue.
            extra = {"dependency": dependency, "kill-on-invalid-dep": "yes"}
            executor.update_parameters(slurm_additional_parameters=extra)
        return executor

    def lay_out(self) -> None:
        """Write the plan and every member, unless they are there already.

        Raises:
            RunError: The run directory is another plan's.
        """
        self.plan.save()
        for stage in self.plan.stages:
            executor = self.executor(stage)
            missing = stage.members - executor.stage.members
            executor.lay_out([Call(stage.function, (self.plan.config,))] * missing)

    def scripts(self) -> Iterator[tuple[StagePlan, Script]]:
        """Every script that :meth:`submit` would send, with job ids still unknown as 0."""
        for number, stage in enumerate(self.plan.stages):
            dependency = _DEPENDENCIES[stage.wait].format(0) if number else None
            executor = self.executor(stage, dependency)
            executor.stage = _with_members(executor.stage, stage.members)
            for script in executor.scripts(range(stage.members)):
                yield stage, script

    def submit(self) -> dict[str, list[str]]:
        """Send whatever is not done to Slurm, each stage waiting for the one before it.

        Returns:
            The ids of the arrays, by stage.

        Raises:
            SlurmError: Slurm refused one; those sent before it are cancelled.
        """
        before: list[str] = []
        sent: dict[str, list[str]] = {}
        for stage in self.plan.stages:
            indices = self.unfinished(stage.name)
            if not indices:
                before = []
                continue
            dependency = _DEPENDENCIES[stage.wait].format(":".join(before)) if before else None
            before = self.executor(stage, dependency).send(indices, self._tag(stage.name))
            sent[stage.name] = before
        return sent

    def run(self, watch: Callable[[], None] = lambda: None) -> None:
        """Run whatever is not done on this machine, stage by stage.

        Raises:
            StageFailedError: Members failed; the message tells which and where to look.
        """
        for stage in self.plan.stages:
            self._wait_for_others(stage.name, watch)
            indices = self._members(stage.name, lambda state: state is not State.FINISHED)
            if indices:
                executor = self.executor(stage)
                executor.send(indices)
                executor.wait(watch)
            failed = self._members(stage.name, lambda state: state is not State.FINISHED)
            # What follows with "end" goes on without them, and says who is missing.
            if failed and self._follower(stage) != "end":
                raise StageFailedError(self._failure(stage.name, failed))

    def unfinished(self, stage: str) -> list[int]:
        """Members of a stage that have not finished and that nothing works on now."""
        busy = (State.FINISHED, State.RUNNING, State.WAITING, State.QUEUED)
        return self._members(stage, lambda state: state not in busy)

    def _members(self, stage: str, chosen: Callable[[State], bool]) -> list[int]:
        members = run_status(self.plan.directory)
        return [m.index for m in members if m.stage == stage and chosen(m.state)]

    def _wait_for_others(self, stage: str, watch: Callable[[], None]) -> None:
        # Members of a run that was killed just now may still be saving.
        while self._members(stage, lambda state: state is State.RUNNING):
            watch()
            time.sleep(0.5)

    def _follower(self, stage: StagePlan) -> str | None:
        after = self.plan.stages[self._order(stage) + 1 :]
        return after[0].wait if after else None

    def _order(self, stage: StagePlan) -> int:
        return [other.name for other in self.plan.stages].index(stage.name)

    def _tag(self, stage: str) -> str:
        scripts = self.plan.directory / "scripts"
        times = len({path.stem for path in scripts.glob(f"{stage}*-000000.sh")})
        return f"-retry-{times}" if times else ""

    def _failure(self, stage: str, failed: Sequence[int]) -> str:
        rows = [m for m in run_status(self.plan.directory) if m.stage == stage]
        told = "; ".join(f"{stage}/{m.index:04d}: {m.detail}" for m in rows if m.index in failed)
        return f"{len(failed)} of {len(rows)} members did not finish: {told}"


def _with_members(stage: Stage, members: int) -> Stage:
    return replace(stage, members=members)
