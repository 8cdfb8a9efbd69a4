"""The unfaulted twins, and whether a member ended as its twin did."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.faults.contender import run_twin
from benchmarks.faults.scene import Scene
from benchmarks.faults.work import Terms, equal


def run_twins(
    contender: str, terms: Terms, members: Sequence[int], at_once: int = 4
) -> dict[int, Path]:
    """Run the twins of some members, outside Slurm and without pauses; return their finals."""
    scenes = {member: terms.scene(f"{contender}-twins", member) for member in members}
    waiting = list(scenes.items())
    while waiting:
        now, waiting = waiting[:at_once], waiting[at_once:]
        _wait([_start(contender, terms.steps, *one) for one in now])
    return {member: scene.final_file for member, scene in scenes.items()}


def same(final: Path, twin: Path) -> bool:
    """Whether two final states are equal bit for bit."""
    one, other = (torch.load(path, weights_only=True) for path in (final, twin))
    return equal(one, other)


def _start(contender: str, steps: int, member: int, scene: Scene) -> "subprocess.Popen[bytes]":
    place = str(scene.directory)
    arguments = [place, str(member), str(steps)]
    if contender == "lightning":
        arguments = [place, "--scene", place, "--member", str(member), "--steps", str(steps)]
    return run_twin(contender, arguments, scene.directory / "log")


def _wait(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        if process.wait() != 0:
            raise RuntimeError(f"a twin ended with {process.returncode}: {process.args!r}")
