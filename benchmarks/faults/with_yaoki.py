"""The campaign's work under yaoki."""

import sys
import threading
from pathlib import Path

from benchmarks.faults.scene import Scene
from benchmarks.faults.work import HealingTrainer, Terms, final_state, run_steps
from cluster import Attempt, RobustExecutor, RobustJob


def train(seed: int, terms: Terms, attempt: Attempt) -> None:
    """The loop of docs/executor.md."""
    scene = terms.scene("yaoki", seed)
    trainer = HealingTrainer(seed, terms.steps, terms.pace)
    attempt.restore(trainer)
    scene.begin(trainer.steps_done)
    for _ in attempt.steps(trainer):
        scene.obey(trainer.refuse_memory_once)
        trainer.step()
        scene.did(trainer.steps_done)
    scene.finish(final_state(trainer))


class Yaoki:
    """yaoki's executor on Slurm."""

    name = "yaoki"

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.executor = RobustExecutor(
            terms.root / self.name / "run",
            "slurm",
            checkpoint_seconds=terms.save_every * terms.pace,
        )
        self.executor.update_parameters(
            mem_gb=terms.memory / 1024,
            cpus_per_task=terms.cpus,
            timeout_min=terms.minutes,
            slurm_partition="gpu",
            slurm_signal_delay_s=terms.signal_delay,
        )
        self.jobs: list[RobustJob] = []
        self.sent_again = 0
        self._asking = threading.Lock()

    def disk(self, member: int) -> Path:
        stage = self.executor.stage
        return stage.directory / f"{member:04d}" / "checkpoint"

    def submit(self) -> None:
        members = range(self.terms.members)
        self.jobs = self.executor.map_array(train, members, [self.terms] * len(members))

    def job(self, member: int) -> str:
        return self.jobs[member].job_id

    def done(self, member: int) -> bool:
        with self._asking:
            return self.jobs[member].done()

    def start_again(self, member: int) -> bool:
        """What ``yaoki retry`` does."""
        self.sent_again += 1
        self.executor.send([member], tag=f"-again-{self.sent_again}")
        return True


if __name__ == "__main__":
    directory, member, steps = sys.argv[1:]
    run_steps(HealingTrainer(int(member), int(steps), 0.0), Scene(Path(directory)))
