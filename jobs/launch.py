"""From a plan to running members: stages laid out, sent in order, and sent again."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from cluster.calls import Call
from cluster.collecting import retry_tag, unfinished
from cluster.executor import Backend, RobustExecutor
from cluster.records.files import locked
from cluster.records.member import Member
from cluster.scheduler import slurm
from cluster.stage import RunError
from cluster.status import OPEN, MemberStatus, State, run_status
from cluster.submitting.submission import Script
from cluster.watching import lock_file
from jobs.dependencies import Ahead, placeholder, waiting_for
from jobs.solitude import alone
from pipelines.plan import Plan, StagePlan


class StageFailedError(Exception):
    """Members of a stage did not finish, so that the stages after it cannot run."""


@dataclass
class Launcher:
    """Sends the stages of a plan to one backend.

    Args:
        plan: What to run.
        backend: Where.
        workers: Members at once on the local backend.
        wait_for_room: Where Slurm takes fewer members at once, send the rest as room comes.
    """

    plan: Plan
    backend: Backend
    workers: int | None = None
    wait_for_room: bool = False

    def executor(self, stage: StagePlan, dependency: str | None = None) -> RobustExecutor:
        """The executor of a stage, with its resources."""
        executor = RobustExecutor(
            self.plan.directory,
            self.backend,
            stage=stage.name,
            order=self._order(stage),
            workers=self.workers,
            wait_for_room=self.wait_for_room,
            **stage.resources.rules(),
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

        Members that have not finished take over what may change in a plan: their resources and
        where their metrics go.

        Raises:
            RunError: The run directory is another plan's.
        """
        self.plan.save()
        for stage in self.plan.stages:
            executor = self.executor(stage)
            call = Call(stage.function, (self.plan.config,))
            for member in executor.stage:
                if not member.ledger.finished():
                    call.save(member)
            missing = stage.members - executor.stage.members
            executor.lay_out([call] * missing)

    def scripts(self) -> Iterator[tuple[StagePlan, Script]]:
        """Every script that :meth:`submit` would send for a new run.

        They are the same byte for byte but for the ids of jobs that are not submitted yet: in
        place of each stands :func:`placeholder`.
        """
        for number, stage in enumerate(self.plan.stages):
            executor = self.executor(stage, self.dependency(number))
            executor.stage = replace(executor.stage, members=stage.members)
            for script in executor.scripts(range(stage.members)):
                yield stage, script

    def dependency(self, number: int) -> str | None:
        """How a stage of a new run waits, with a placeholder for the ids."""
        if number == 0:
            return None
        before = placeholder(self.plan.stages[number - 1].name)
        return waiting_for([before], self.plan.stages[number].wait)

    def submit(self) -> dict[str, list[str]]:
        """Send whatever is not done to Slurm, each stage waiting for the one before it.

        Members that wait in the queue for others that are sent again are called back, and sent
        again behind them.

        Returns:
            The ids of the arrays, by stage.

        Raises:
            RunError: A launcher is at work on the run, or local members still run.
            SlurmError: Slurm refused one; those sent before it are cancelled, as they are after
                Ctrl-C.
        """
        sent: dict[str, list[str]] = {}
        # Nobody else must take the members that are sent for adrift meanwhile.
        with alone(self.plan.directory), locked(lock_file(self.plan.directory)):
            self._refuse_running_here()
            try:
                self._send_all(sent)
            except (slurm.SlurmError, KeyboardInterrupt):
                self._withdraw(sent)
                raise
        return sent

    def _send_all(self, sent: dict[str, list[str]]) -> None:
        self._recall_what_waits()
        before = Ahead()
        for stage in self.plan.stages:
            indices = self.unfinished(stage.name)
            ahead = Ahead(elements=self._elements(stage.name), members=indices)
            if indices:
                executor = self.executor(stage, before.dependency(stage.wait, indices))
                tag = retry_tag(self.plan.directory, stage.name)
                ahead.arrays = executor.send(indices, tag)
                sent[stage.name] = ahead.arrays
            before = ahead

    def _withdraw(self, sent: dict[str, list[str]]) -> None:
        arrays = {job for jobs in sent.values() for job in jobs}
        slurm.cancel(sorted(arrays))
        for m in run_status(self.plan.directory):
            if m.job_id and m.job_id.split("_")[0] in arrays:
                Member(self.plan.directory, m.stage, m.index).ledger.withdrawn()

    def run(self, watch: Callable[[], None] = lambda: None) -> bool:
        """Run whatever is not done on this machine, stage by stage.

        Returns:
            Whether there was anything to do.

        Raises:
            RunError: Another launcher is at work on the run, or Slurm holds members of it.
            StageFailedError: Members failed; the message tells which and where to look.
        """
        worked = False
        with alone(self.plan.directory):
            self._refuse_held_by_slurm()
            for stage in self.plan.stages:
                worked = self._run_stage(stage, watch) or worked
        return worked

    def _run_stage(self, stage: StagePlan, watch: Callable[[], None]) -> bool:
        self._wait_for_others(stage.name, watch)
        indices = self._members(stage.name, _is_unfinished)
        if indices:
            executor = self.executor(stage)
            executor.send(indices)
            executor.wait(watch)
        failed = self._members(stage.name, _is_unfinished)
        # What follows with "end" goes on without them, and says who is missing.
        if failed and self._follower(stage) != "end":
            raise StageFailedError(self._failure(stage.name, failed))
        return bool(indices)

    def unfinished(self, stage: str) -> list[int]:
        """Members of a stage that have not finished and that nothing works on now."""
        # Alone here, so local members that wait for a launcher wait for one that is gone.
        return unfinished(self.plan.directory, stage)

    def _recall_what_waits(self) -> None:
        """Call back what waits in the queue behind members that are about to be sent."""
        names = [stage.name for stage in self.plan.stages]
        first = next((n for n, name in enumerate(names) if self.unfinished(name)), len(names))
        # The last first: what waits for a job may start the moment that job leaves the queue.
        for name in reversed(names[first + 1 :]):
            self._recall(name)

    def _recall(self, stage: str) -> None:
        """Take members that wait in Slurm's queue out of it."""
        queued = [
            m
            for m in run_status(self.plan.directory)
            if m.stage == stage and m.state is State.QUEUED and m.job_id is not None
        ]
        slurm.cancel([m.job_id for m in queued if m.job_id])
        for m in queued:
            Member(self.plan.directory, stage, m.index).ledger.withdrawn()

    def _elements(self, stage: str) -> list[str]:
        members = run_status(self.plan.directory)
        return [m.job_id for m in members if m.stage == stage and m.job_id and m.state in OPEN]

    def _refuse_running_here(self) -> None:
        running = [
            f"{m.stage}/{m.index:04d}"
            for m in run_status(self.plan.directory)
            if m.state is State.RUNNING and m.job_id is None
        ]
        if running:
            raise RunError(
                f"{self.plan.directory}: expected no members running outside Slurm, found "
                f"{', '.join(running)}. Wait for them, or 'yaoki cancel' them first."
            )

    def _refuse_held_by_slurm(self) -> None:
        held = [m.job_id for m in run_status(self.plan.directory) if m.job_id and m.state in OPEN]
        if held:
            raise RunError(
                f"{self.plan.directory}: expected no members in Slurm's hands, found "
                f"{len(held)} queued or running there ({', '.join(held)}). "
                "Wait for them, or 'yaoki cancel' them first."
            )

    def _members(self, stage: str, chosen: Callable[[MemberStatus], bool]) -> list[int]:
        members = run_status(self.plan.directory)
        return [m.index for m in members if m.stage == stage and chosen(m)]

    def _wait_for_others(self, stage: str, watch: Callable[[], None]) -> None:
        # Members of a run that was killed just now may still be saving.
        while self._members(stage, lambda m: m.state is State.RUNNING):
            watch()
            time.sleep(0.5)

    def _follower(self, stage: StagePlan) -> str | None:
        after = self.plan.stages[self._order(stage) + 1 :]
        return after[0].wait if after else None

    def _order(self, stage: StagePlan) -> int:
        return [other.name for other in self.plan.stages].index(stage.name)

    def _failure(self, stage: str, failed: Sequence[int]) -> str:
        rows = [m for m in run_status(self.plan.directory) if m.stage == stage]
        told = "; ".join(f"{stage}/{m.index:04d}: {m.detail}" for m in rows if m.index in failed)
        return f"{len(failed)} of {len(rows)} members did not finish: {told}"


def _is_unfinished(member: MemberStatus) -> bool:
    return member.state is not State.FINISHED
