"""Batch scripts: submitit renders them, and this module adds what makes them survive."""

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from cluster.environment import ALLOCATOR, DETERMINISM, THREADS
from cluster.stage import Stage
from cluster.worker import module_command


@dataclass(frozen=True)
class Script:
    """A batch script that carries some members of a stage as one array.

    Attributes:
        path: Where it lies, or would lie, in the run directory.
        text: Its text, byte for byte what sbatch reads.
        indices: The members it carries, by global index.
        offset: What is added to an array index to get the global one.
    """

    path: Path
    text: str
    indices: Sequence[int]
    offset: int


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
        _require_one_process(parameters)
        # As AutoExecutor does: names of its own are translated, those of Slurm's taken as they are.
        own = {n: v for n, v in parameters.items() if not n.startswith("slurm_")}
        slurms = {n.removeprefix("slurm_"): v for n, v in parameters.items() if n not in own}
        self._renderer.update_parameters(**self._renderer._convert_parameters(own), **slurms)

    def scripts(
        self, stage: Stage, indices: Sequence[int], chunk: int, tag: str = ""
    ) -> list[Script]:
        """Split members over arrays whose indices stay below ``chunk``, and render each.

        Slurm's MaxArraySize caps the *index* of an array element. So each script starts at an
        offset, its elements count from 0, and the worker adds the two.
        """
        scripts = []
        for offset in range(0, max(indices, default=-1) + 1, chunk):
            part = [index for index in indices if offset <= index < offset + chunk]
            if part:
                path = stage.run / "scripts" / f"{stage.name}{tag}-{offset:06d}.sh"
                scripts.append(Script(path, self._render(stage, part, offset), part, offset))
        return scripts

    def _render(self, stage: Stage, indices: Sequence[int], offset: int) -> str:
        parameters = self._renderer.parameters
        own = dict(parameters)
        extra = dict(own.get("additional_parameters") or {})
        # Slurm reads patterns in the whole path.
        logs = f"{str(stage.directory).replace('%', '%%')}/slurm-%A_%a.log"
        extra |= {
            "array": _array(indices, offset, own.get("array_parallelism")),
            "requeue": True,
            "output": logs,
        }
        setup = [*(own.get("setup") or []), *_guards(stage, offset)]
        changed = {
            "additional_parameters": extra,
            "setup": setup,
            "map_count": len(indices),
            "signal_delay_s": stage.signal_delay,
            "stderr_to_stdout": True,
            "srun_args": [
                *(own.get("srun_args") or []),
                f"--output={logs}",
                "--kill-on-bad-exit=0",
            ],
        }
        with _changed(parameters, changed):
            return self._renderer._make_submission_file_text(_worker(stage, offset), "")


class _Renderer(submitit.SlurmExecutor):
    """submitit's executor, used to check parameters and to render, never to submit."""

    @classmethod
    def affinity(cls) -> int:
        # submitit wants srun on PATH even to render; a plan must work on a laptop without Slurm.
        return 2


def _require_one_process(parameters: Mapping[str, Any]) -> None:
    if parameters.get("slurm_use_srun", True) is False:
        raise ValueError("use_srun: expected True, found False: USR2 reaches a member through srun")
    counts = ("nodes", "slurm_nodes", "tasks_per_node", "slurm_ntasks_per_node")
    for name in counts:
        if (parameters.get(name) or 1) != 1:
            raise ValueError(
                f"{name}: a member is one process, expected 1, found {parameters[name]}"
            )


@contextlib.contextmanager
def _changed(parameters: dict[str, Any], changes: Mapping[str, Any]) -> Iterator[None]:
    before = dict(parameters)
    parameters.update(changes)
    try:
        yield
    finally:
        parameters.clear()
        parameters.update(before)


def _array(indices: Sequence[int], offset: int, parallelism: int | None) -> str:
    """Slurm's notation for some array elements: ``0-3,7%2``."""
    runs: list[list[int]] = []
    for element in sorted(index - offset for index in indices):
        if runs and element == runs[-1][1] + 1:
            runs[-1][1] = element
        else:
            runs.append([element, element])
    text = ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
    return f"{text}%{min(parallelism, len(indices))}" if parallelism else text


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
