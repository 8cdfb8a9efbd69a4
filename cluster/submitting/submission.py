"""Batch scripts: submitit renders them, and this module adds what makes them survive."""

import contextlib
import os
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import submitit

from cluster.environment import ALLOCATOR, DETERMINISM, THREADS, module_command
from cluster.stage import Stage


@dataclass(frozen=True)
class Script:
    """A batch script that carries some members of a stage as one array.

    Attributes:
        path: Where it lies, or would lie, in the run directory.
        text: Its text, byte for byte what sbatch reads.
        indices: The members it carries, by global index.
        offset: What is added to an array index to get the global one.
        comment: The user's own comment on the job.
        follows: The script whose array has to end before this one starts, if any. Until that has
            an id, :func:`id_of` stands for it in the text.
    """

    path: Path
    text: str
    indices: Sequence[int]
    offset: int
    comment: str = ""
    follows: Path | None = None

    def behind(self, job_id: str) -> "Script":
        """The script with the id of the array that it follows."""
        if self.follows is None:
            return self
        text = self.text.replace(f"{id_of(self.follows)}\n", f"{job_id}\n")
        return replace(self, text=text)


def id_of(script: Path) -> str:
    """What stands in a script for the id of an array that has not been sent yet."""
    return f"id-of-{script.stem}"


class ScriptWriter:
    """Renders the batch scripts of a stage through a submitit executor.

    The parameters are submitit's: ``timeout_min``, ``mem_gb``, ``cpus_per_task``,
    ``gpus_per_node``, ``slurm_partition`` and the rest, checked and translated by it.
    """

    def __init__(self, folder: Path) -> None:
        self._renderer = _Renderer(folder)

    def update_parameters(self, **parameters: Any) -> None:
        """Take over submitit's parameters.

        Raises:
            ValueError: submitit knows no such parameter, or a member could not live with it.
        """
        task_counts(parameters)
        _require_srun(parameters)
        # As AutoExecutor does: names of its own are translated, those of Slurm's taken as they are.
        own = {n: v for n, v in parameters.items() if not n.startswith("slurm_")}
        slurms = {n.removeprefix("slurm_"): v for n, v in parameters.items() if n not in own}
        self._renderer.update_parameters(**self._renderer._convert_parameters(own), **slurms)

    def wait_for(self, arrays: Collection[str]) -> None:
        """Let Slurm start nothing before these arrays have ended; forget others named before."""
        parameters = self._renderer.parameters
        extra = dict(parameters.get("additional_parameters") or {})
        extra.pop("dependency", None)
        if arrays:
            extra["dependency"] = f"afterany:{':'.join(sorted(arrays))}"
        parameters["additional_parameters"] = extra

    def placement(self) -> dict[str, str | None]:
        """The account, QOS and partition that sbatch will take for the jobs, where given.

        Its variables go before what a script says.
        """
        extra = self._renderer.parameters.get("additional_parameters") or {}
        given = {**self._renderer.parameters, **extra}
        return {
            name: os.environ.get(f"SBATCH_{name.upper()}") or given.get(name)
            for name in ("account", "qos", "partition")
        }

    def scripts(
        self, stage: Stage, indices: Sequence[int], chunk: int, tag: str = ""
    ) -> list[Script]:
        """Split members over arrays whose indices stay below ``chunk``, and render each.

        Slurm's MaxArraySize caps the *index* of an array element. So each script starts at an
        offset, its elements count from 0, and the worker adds the two.

        The parallelism that is asked for is shared out to the arrays. Where it is less than their
        number, each array waits for the end of another, so that as many as may run do.
        """
        parts = [list(part) for _, part in groupby(sorted(indices), lambda index: index // chunk)]
        offsets = [part[0] // chunk * chunk for part in parts]
        folder = stage.run / "scripts"
        paths = [folder / f"{stage.name}{tag}-{offset:06d}.sh" for offset in offsets]
        parallelism = self._renderer.parameters.get("array_parallelism") or len(indices)
        shares = shared_out(parallelism, [len(part) for part in parts])
        scripts = []
        for number, (path, part) in enumerate(zip(paths, parts, strict=True)):
            before = paths[number - parallelism] if number >= parallelism else None
            array = Array(part, offsets[number], shares[number], before)
            text = self._render(stage, array)
            scripts.append(Script(path, text, part, array.offset, self._comment(), before))
        return scripts

    def _comment(self) -> str:
        own = self._renderer.parameters
        extra = own.get("additional_parameters") or {}
        return str(extra.get("comment") or own.get("comment") or "")

    def _render(self, stage: Stage, array: "Array") -> str:
        parameters = self._renderer.parameters
        own = dict(parameters)
        extra = dict(own.get("additional_parameters") or {})
        if array.follows is not None:
            waits = [str(extra["dependency"])] if extra.get("dependency") else []
            extra["dependency"] = ",".join([*waits, f"afterany:{id_of(array.follows)}"])
        # Slurm reads patterns in the whole path.
        logs = f"{str(stage.directory).replace('%', '%%')}/slurm-%A_%a.log"
        throttled = own.get("array_parallelism")
        extra |= {
            "array": array.elements() + (f"%{array.share}" if throttled else ""),
            "requeue": True,
            "output": logs,
        }
        setup = [*(own.get("setup") or []), *_guards(stage, array.offset)]
        changed = {
            "additional_parameters": extra,
            "setup": setup,
            "map_count": len(array.indices),
            "signal_delay_s": stage.signal_delay,
            "stderr_to_stdout": True,
            "srun_args": [
                *(own.get("srun_args") or []),
                f"--output={logs}",
                *_tasks(stage),
            ],
        }
        with _changed(parameters, changed):
            return self._renderer._make_submission_file_text(_worker(stage, array.offset), "")


@dataclass(frozen=True)
class Array:
    """Some members as one array of Slurm's.

    Attributes:
        indices: The members, by global index, ascending.
        offset: The global index of element 0.
        share: How many of them may run at once.
        follows: The script whose array has to end first, if any.
    """

    indices: Sequence[int]
    offset: int
    share: int
    follows: Path | None

    def elements(self) -> str:
        """Slurm's notation for the elements: ``0-3,7``."""
        runs: list[list[int]] = []
        for element in (index - self.offset for index in self.indices):
            if runs and element == runs[-1][1] + 1:
                runs[-1][1] = element
            else:
                runs.append([element, element])
        return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def shared_out(parallelism: int, sizes: Sequence[int]) -> list[int]:
    """Share a parallelism out to arrays: at least 1 to each, the rest in proportion to size.

    The shares add up to the parallelism unless there are fewer members, or more arrays.
    """
    spare = max(0, min(parallelism, sum(sizes)) - len(sizes))
    rest = sum(sizes) - len(sizes)
    # Rounding the running total, not each share, keeps the sum exact.
    shares, members, given = [], 0, 0
    for size in sizes:
        members += size - 1
        total = spare * members // max(rest, 1)
        shares.append(1 + total - given)
        given = total
    return shares


class _Renderer(submitit.SlurmExecutor):
    """submitit's executor, used to check parameters and to render, never to submit."""

    @classmethod
    def affinity(cls) -> int:
        # submitit wants srun on PATH even to render; a plan must work on a laptop without Slurm.
        return 2


def task_counts(parameters: Mapping[str, Any]) -> dict[str, int]:
    """The nodes of a member and the tasks on each, as far as submitit's parameters name them.

    Raises:
        ValueError: One of them is no whole number above zero.
    """
    counts = {}
    for field, slurms in (("nodes", "nodes"), ("tasks_per_node", "ntasks_per_node")):
        for name in (field, f"slurm_{slurms}"):
            if parameters.get(name) is None:
                continue
            counts[field] = parameters[name]
            if not isinstance(counts[field], int) or counts[field] < 1:
                raise ValueError(
                    f"{name}: expected a whole number >= 1, found {parameters[name]!r}"
                )
    return counts


def _require_srun(parameters: Mapping[str, Any]) -> None:
    if parameters.get("slurm_use_srun", True) is False:
        raise ValueError("use_srun: expected True, found False: USR2 reaches a member through srun")
    extra = parameters.get("slurm_additional_parameters") or {}
    hidden = {"nodes", "ntasks", "ntasks-per-node", "ntasks_per_node"} & extra.keys()
    if hidden:
        raise ValueError(
            f"additional_parameters: expected no {', '.join(sorted(hidden))}; say nodes and "
            "tasks_per_node, for each task becomes a rank of the member"
        )


def _tasks(stage: Stage) -> list[str]:
    """Options of srun for the tasks of a member."""
    if stage.tasks == 1:
        return ["--kill-on-bad-exit=0"]
    counts = (
        f"--nodes={stage.nodes}",
        f"--ntasks={stage.tasks}",
        f"--ntasks-per-node={stage.tasks_per_node}",
    )
    # A rank that dies ends the others, which would wait for it; one that is through ends none.
    return [*counts, "--kill-on-bad-exit=1", "--wait=0"]


@contextlib.contextmanager
def _changed(parameters: dict[str, Any], changes: Mapping[str, Any]) -> Iterator[None]:
    before = dict(parameters)
    parameters.update(changes)
    try:
        yield
    finally:
        parameters.clear()
        parameters.update(before)


def _guards(stage: Stage, offset: int) -> list[str]:
    """Lines before srun: the process environment, and what happens however srun ends.

    The shell catches TERM, with a command that does nothing, so that it outlives srun and its
    exit trap runs; a signal ignored instead would be ignored by srun too.
    """
    aftermath = shlex.join(module_command("aftermath", str(stage.run), stage.name, str(offset)))
    # srun has not read SLURM_CPUS_PER_TASK since 22.05 and would give the step one core.
    counted = ("SRUN_CPUS_PER_TASK", *THREADS)
    threads = [f"export {name}=${{SLURM_CPUS_PER_TASK:-1}}" for name in counted]
    kept = {**ALLOCATOR, **DETERMINISM}
    settings = [f'export {name}="${{{name}:-{value}}}"' for name, value in kept.items()]
    trap = [f"aftermath() {{ {aftermath} $1; }}", "trap : TERM", "trap 'aftermath $?' EXIT"]
    return [*threads, *settings, *trap]


def _worker(stage: Stage, offset: int) -> str:
    return shlex.join(module_command("worker", str(stage.run), stage.name, str(offset)))
