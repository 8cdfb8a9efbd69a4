"""A Slurm that remembers: commands on PATH that share a queue, and faults dealt out to them.

Its answers and refusals are worded, and its jobs counted, as by Slurm 22.05. As it comes, it keeps
what it is sent and starts nothing; with ``executes`` it runs the scripts (see
:mod:`support.fake_slurm.runner`), with no daemon: each element has a process that looks at the
state.
"""

import sys
from pathlib import Path
from typing import Any

from .state import State

_COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sacctmgr", "sacct", "sinfo")

_CALL = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from support.fake_slurm.commands import main; sys.exit(main(*sys.argv[1:]))"
)

#: Runs its command as a step: what it prints goes where --output says.
_SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do
  [[ "$1" == --output ]] && { out="$2"; shift; }
  [[ "$1" == --output=* ]] && out="${1#--output=}"
  shift
done
out="${out//%%/%}"; out="${out//%A/$SLURM_ARRAY_JOB_ID}"; out="${out//%a/$SLURM_ARRAY_TASK_ID}"
exec "$@" >> "${out:-/dev/stdout}" 2>&1
"""


class FakeSlurm:
    """The commands in a directory at the head of PATH, and their state.

    Args:
        directory: A directory that is not there yet.
        array_size: MaxArraySize.
        executes: Whether it runs what it is sent.
        minute: How long a minute of a time limit lasts, in seconds.
        kill_wait: Seconds between TERM and KILL.
        lag: Seconds until accounting hears of an end.
    """

    def __init__(
        self,
        directory: Path,
        array_size: int = 1001,
        *,
        executes: bool = False,
        minute: float = 60.0,
        kill_wait: float = 10.0,
        lag: float = 0.0,
    ) -> None:
        directory.mkdir()
        self.directory = directory
        tests = Path(__file__).parent.parent.parent
        for name in _COMMANDS:
            call = f"-I -S -c '{_CALL}' '{tests}' '{directory}' {name}"
            self._command(name, f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        if executes:
            self._command("srun", _SRUN)
        self.set(array_size=array_size, jobs=[], faults=[], books={}, calls=[], partition_qos="N/A")
        pace = {"minute": minute, "kill_wait": kill_wait, "lag": lag}
        self.set(executes=executes, elements={}, down=[], closed=False, accounting=True, **pace)

    def set(self, **values: Any) -> None:
        """Change the state: ``books`` holds rows by sacctmgr's entity, ``submit_limit`` a bound."""
        with State(self.directory) as state:
            state.update(values)

    def get(self, name: str) -> Any:
        with State(self.directory) as state:
            return state[name]

    def jobs(self, *states: str) -> list[dict[str, Any]]:
        """The arrays in these states, or all."""
        return [job for job in self.get("jobs") if not states or job["state"] in states]

    def calls(self, start: str) -> list[str]:
        return [call for call in self.get("calls") if call.startswith(start)]

    def preempt(self, name: str) -> None:
        """Take the resources of a running element from it."""
        with State(self.directory) as state:
            element = state["elements"][name]
            element.update(order="preempt", back=True, restarts=element["restarts"] + 1)

    def lose(self, node: str) -> None:
        """Lose a node with all that runs on it."""
        with State(self.directory) as state:
            state["down"].append(node)
            for element in state["elements"].values():
                if element["node"] == node and element["state"] in ("RUNNING", "COMPLETING"):
                    back = bool(element["requeues"])
                    element.update(order="node", reason="NodeDown", back=back)
                    element["restarts"] += back

    def restore(self, node: str) -> None:
        with State(self.directory) as state:
            state["down"].remove(node)

    def forget(self) -> None:
        """Forget every job that has ended, as Slurm does after MinJobAge."""
        with State(self.directory) as state:
            for element in state["elements"].values():
                element["known"] = element["state"] in ("PENDING", "RUNNING", "COMPLETING")

    def close(self) -> None:
        """End everything that it runs."""
        self.set(closed=True)

    def _command(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o755)
