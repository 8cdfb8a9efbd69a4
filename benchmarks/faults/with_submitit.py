"""The campaign's work under submitit alone, by the recipe of its docs/checkpointing.md."""

import sys
from pathlib import Path

import submitit
import torch
from submitit.helpers import DelayedSubmission

from benchmarks.faults.scene import Scene
from benchmarks.faults.work import Terms, Trainer, run_steps
from cluster.checkpoints import random_state


class NetworkTraining:
    """A callable with a ``checkpoint`` method, which submitit calls when USR2 comes.

    As in the recipe, the method saves the state as it is and resubmits a fresh callable. Beyond
    the recipe it also saves every few steps, saves optimizer and generators along with the
    weights, and replaces the file at once, so that a kill during a save leaves the old one.
    """

    def __init__(self) -> None:
        self.trainer: Trainer | None = None

    def __call__(self, member: int, terms: Terms, path: Path) -> None:
        self.trainer = trainer = Trainer(member, terms.steps, terms.pace)
        if path.exists():
            state = torch.load(path, weights_only=True)
            trainer.load_state_dict(state["work"])
            random_state.restore(state["random"])

        def save() -> None:
            if trainer.steps_done % terms.save_every == 0:
                self.dump(path)

        run_steps(trainer, terms.scene("submitit", member), save)

    def checkpoint(self, member: int, terms: Terms, path: Path) -> DelayedSubmission:
        if self.trainer is not None:
            self.dump(path)
        return DelayedSubmission(NetworkTraining(), member, terms, path)

    def dump(self, path: Path) -> None:
        assert self.trainer is not None
        scratch = path.with_suffix(".tmp")
        state = {"work": self.trainer.state_dict(), "random": random_state.capture()}
        torch.save(state, scratch)
        scratch.replace(path)


class Submitit:
    """submitit's executor on Slurm."""

    name = "submitit"

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.folder = terms.root / self.name
        self.jobs: list[submitit.Job[None]] = []

    def disk(self, member: int) -> Path:
        return self.folder / "checkpoints" / f"{member:02d}"

    def submit(self) -> None:
        terms = self.terms
        # The default of 3 time limits would be the end of a member with 4.
        executor = submitit.AutoExecutor(self.folder / "logs", slurm_max_num_timeout=100)
        executor.update_parameters(
            mem_gb=terms.memory / 1024,
            cpus_per_task=terms.cpus,
            timeout_min=terms.minutes,
            slurm_partition="gpu",
            slurm_signal_delay_s=terms.signal_delay,
            slurm_additional_parameters={"requeue": True},
        )
        members = range(terms.members)
        paths = [self.disk(member) / "state.pt" for member in members]
        work = [terms] * len(members)
        self.jobs = executor.map_array(NetworkTraining(), members, work, paths)

    def job(self, member: int) -> str:
        return self.jobs[member].job_id

    def done(self, member: int) -> bool:
        return self.jobs[member].done()

    def start_again(self, member: int) -> bool:
        return False


if __name__ == "__main__":
    directory, member, steps = sys.argv[1:]
    run_steps(Trainer(int(member), int(steps), 0.0), Scene(Path(directory)))
