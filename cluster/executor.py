"""RobustExecutor: submitit's verbs, and members that get up again after every fault."""

import contextlib
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from cluster.calls import Call, forget_calls, save_calls
from cluster.cause import Budgets
from cluster.collecting import retry_tag, unfinished
from cluster.job import RobustJob
from cluster.local import LocalPool
from cluster.memory.hostmemory import HostMemory
from cluster.scheduler import limits, slurm
from cluster.scheduler.limits import Limits
from cluster.scheduler.patience import PATIENCE
from cluster.stage import RunError, Stage
from cluster.stopping import signals
from cluster.submitting.sending import Sender
from cluster.submitting.submission import Script, ScriptWriter, task_counts

Backend = Literal["auto", "slurm", "local", "inline"]


class RobustExecutor:
    """Submits functions as members of arrays, on Slurm, on this machine, or inline.

    It takes the place of ``submitit.AutoExecutor`` and keeps its verbs and parameters. A function
    that has a parameter named ``attempt`` is given its :class:`cluster.Attempt`, one that has
    ``member`` its :class:`cluster.Member`.

    Args:
        folder: The run directory; on Slurm it must be shared with the nodes.
        backend: ``slurm``, ``local`` (a bounded pool of processes), ``inline`` (this process, for
            a debugger) or ``auto``: Slurm where it answers, else local.
        stage: The name of the array in the run directory.
        order: The place of the stage among others.
        budgets: How often each cause may start a member again.
        checkpoint_seconds: The longest time between saves; by default it follows from what they
            cost and how often faults come, see :mod:`cluster.checkpoints.interval`.
        keep: Checkpoints to keep.
        keep_bytes: Bytes that they may take together; two are kept in any case.
        host_memory: What gives way where a member exceeds its memory on Slurm.
        workers: Members at once on the local backend; by default as many as the cores hold.
        wait_for_room: Where Slurm takes fewer members at once (MaxSubmitJobs), stay and send
            the rest as room comes, instead of refusing.
    """

    def __init__(
        self,
        folder: str | Path,
        backend: Backend = "auto",
        *,
        stage: str = "job",
        order: int = 0,
        budgets: Budgets | None = None,
        checkpoint_seconds: float | None = None,
        keep: int = 2,
        keep_bytes: int | None = None,
        host_memory: HostMemory | None = None,
        workers: int | None = None,
        wait_for_room: bool = False,
    ) -> None:
        run = Path(folder).absolute()
        self.backend = _resolve(backend)
        self.workers = workers
        self.wait_for_room = wait_for_room
        self._scripts = ScriptWriter(run)
        rules = Stage(
            run,
            stage,
            order,
            budgets=budgets or Budgets(),
            checkpoint_seconds=checkpoint_seconds,
            keep=keep,
            keep_bytes=keep_bytes,
            host_memory=host_memory or HostMemory(),
        )
        # A second executor on the same stage adds members; it never forgets the first one's.
        with contextlib.suppress(RunError):
            rules = replace(rules, members=Stage.load(run, stage).members)
        self.stage = rules
        self._pool: LocalPool | None = None
        self._batch: list[Call] | None = None

    def update_parameters(self, **parameters: Any) -> None:
        """Set submitit's parameters (``timeout_min``, ``mem_gb``, ``slurm_partition``, …).

        Raises:
            ValueError: submitit knows no such parameter.
        """
        self._scripts.update_parameters(**parameters)
        changes: dict[str, Any] = {
            field: parameters[name]
            for name, field in (("cpus_per_task", "cpus"), ("slurm_signal_delay_s", "signal_delay"))
            if name in parameters
        }
        changes |= self._task_counts(parameters)
        self.stage = replace(self.stage, **changes)

    def _task_counts(self, parameters: Mapping[str, Any]) -> dict[str, int]:
        counts = task_counts(parameters)
        if self.backend == "inline" and math.prod(counts.values()) > 1:
            raise ValueError(
                f"{counts}: a member that runs inline is one process; use backend='local' or "
                "'slurm' for several"
            )
        return counts

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> RobustJob:
        """Submit one member, at once or at the end of the batch block it stands in."""
        call = Call(function, args, kwargs)
        if self._batch is None:
            return self._submit_calls([call])[0]
        self._batch.append(call)
        count = self.stage.members + len(self._batch)
        return RobustJob(replace(self.stage, members=count), count - 1, self._is_idle)

    def map_array(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> list[RobustJob]:
        """Submit one member for each tuple of arguments, as one array."""
        return self._submit_calls([Call(function, args) for args in zip(*iterables, strict=False)])

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Collect what is submitted in the block and send it as one array at its end."""
        self._batch = []
        try:
            yield
            calls, self._batch = self._batch, None
            self._submit_calls(calls)
        finally:
            self._batch = None

    def jobs(self) -> list[RobustJob]:
        """All members of the stage, those that another process has submitted as well."""
        return [RobustJob(self.stage, m.index, self._is_idle) for m in self.stage]

    def retry(self) -> list[RobustJob]:
        """Start again what has not finished and nothing works on now, with fresh budgets.

        Returns:
            The members that were started; each goes on from its last checkpoint.

        Raises:
            SlurmError: As of :meth:`send`.
        """
        if not self.stage.members:
            return []
        run, name = self.stage.run, self.stage.name
        launched = self._pool is not None and self._pool.busy()
        indices = unfinished(run, name, launched)
        if indices:
            self._write_rules(self.stage.members)
            self.send(indices, retry_tag(run, name))
        return [job for job in self.jobs() if job.member.index in indices]

    def after(self, jobs: Iterable[RobustJob]) -> None:
        """Let what is submitted from here on wait until other members have ended, however.

        On Slurm they become a dependency (``afterany``, which waits through requeues); on the
        other backends it is this call that waits.
        """
        ahead = [job for job in jobs if not job.done()]
        if self.backend == "slurm":
            self._scripts.wait_for({job.job_id.split("_")[0] for job in ahead})
            return
        for job in ahead:
            job.wait()

    def lay_out(self, calls: Sequence[Call]) -> list[RobustJob]:
        """Write members to the run directory without sending them anywhere."""
        first = self.stage.members
        save_calls(self.stage.directory, first, calls)
        self._write_rules(first + len(calls))
        indices = range(first, self.stage.members)
        return [RobustJob(self.stage, index, self._is_idle) for index in indices]

    def scripts(self, indices: Sequence[int], tag: str = "") -> list[Script]:
        """The batch scripts that :meth:`send` would submit for these members, byte for byte.

        Raises:
            SlurmError: Slurm did not answer what it takes.
        """
        return self._render(indices, tag, self._limits())

    def send(self, indices: Sequence[int], tag: str = "") -> list[str]:
        """Start members that are laid out, for the first time or again.

        Returns:
            The ids of the arrays on Slurm; empty on the other backends.

        Raises:
            SubmitLimitError: Slurm does not take so many at once; nothing was sent.
            SlurmError: sbatch refused a script; what it had taken before is cancelled.
        """
        if self.backend == "slurm":
            found = PATIENCE.persist(self._limits)
            sender = Sender(self.stage, found, self.wait_for_room, PATIENCE)
            return sender.send(self._render(indices, tag, found))
        self.stage.submissions.queued(indices)
        if self.backend == "local":
            self._start_pool(indices)
        else:
            self._run_inline(indices)
        return []

    def wait(self, watch: Callable[[], None] = lambda: None) -> None:
        """Wait until every member of the local pool is done."""
        if self._pool is not None:
            self._pool.wait(watch)

    def _write_rules(self, members: int) -> None:
        places = tuple(str(Path(place).absolute()) for place in sys.path)
        self.stage = replace(self.stage, members=members, search_path=places)
        self.stage.save()

    def _limits(self) -> Limits:
        if self.backend != "slurm":
            return Limits()
        return limits.ask(**self._scripts.placement())

    def _render(self, indices: Sequence[int], tag: str, found: Limits) -> list[Script]:
        return self._scripts.scripts(self.stage, indices, found.chunk(len(indices)), tag)

    def _is_idle(self) -> bool:
        return self._pool is not None and not self._pool.busy()

    def _submit_calls(self, calls: Sequence[Call]) -> list[RobustJob]:
        before = self.stage
        jobs = self.lay_out(calls)
        indices = [job.member.index for job in jobs]
        try:
            self.send(indices, tag=f"-from-{indices[0]}" if indices and indices[0] else "")
        except BaseException:
            if self.backend == "slurm":
                self._take_back(before)
            raise
        return jobs

    def _take_back(self, before: Stage) -> None:
        """Forget the members laid out since a moment, unless one of them has started."""
        laid_out, self.stage = self.stage, before
        added = [laid_out.member(index) for index in range(before.members, laid_out.members)]
        if any(member.ledger.attempt_count() for member in added):
            self.stage = laid_out
            return
        # The rules first: a member that Slurm starts all the same finds that there is none such.
        if before.members:
            before.save()
        else:
            (before.directory / "stage.json").unlink(missing_ok=True)
        folders = [m.directory for m in added] if before.members else [before.directory]
        forget_calls(before.directory, before.members)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _start_pool(self, indices: Sequence[int]) -> None:
        if self._pool is None:
            self._pool = LocalPool(self.stage, self.workers)
        self._pool.stage = self.stage
        self._pool.add(self.stage.member(index) for index in indices)

    def _run_inline(self, indices: Sequence[int]) -> None:
        from cluster.execution import UNFINISHED, execute  # brings torch

        for index in indices:
            status = UNFINISHED
            while status == UNFINISHED:
                status = execute(self.stage, index, signals.StopFlag(os.getpid()), redirect=False)


def _resolve(backend: Backend) -> Backend:
    if backend != "auto":
        return backend
    return "slurm" if slurm.available() else "local"
