"""A member: one element of an array, with a directory of its own."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.records.ledger import Ledger
from cluster.records.submissions import Submissions


@dataclass(frozen=True)
class Member:
    """One element of a stage's array: an ensemble seed, a sweep point, a simulation shard.

    Args:
        run: The run directory.
        stage: The stage that it belongs to, e.g. ``train``.
        index: Its global index in the stage, from 0, whatever array of Slurm's carries it.
    """

    run: Path
    stage: str
    index: int

    @property
    def name(self) -> str:
        """How commands and logs call it, e.g. ``train/0002``."""
        return f"{self.stage}/{self.index:04d}"

    @cached_property  # a run of a thousand members is looked at through as many paths
    def directory(self) -> Path:
        """Where everything of the member lies."""
        return self.run.joinpath("members", self.stage, f"{self.index:04d}")

    @property
    def ledger(self) -> Ledger:
        """The record of its attempts."""
        submissions = Submissions(self.directory.parent)
        return Ledger(self.directory / "ledger.jsonl", submissions, self.index)

    @property
    def checkpoints(self) -> Path:
        """The directory of its checkpoints."""
        return self.directory / "checkpoint"

    @property
    def logs(self) -> Path:
        """The directory of its logs, one file an attempt."""
        return self.directory / "logs"

    @property
    def call_file(self) -> Path:
        """The pickled function and arguments, where they are not in the file of its array."""
        return self.directory / "call.pkl"

    @property
    def result_file(self) -> Path:
        """The pickled outcome of its last ended attempt."""
        return self.directory / "result.pkl"

    @property
    def progress_file(self) -> Path:
        """How far the running attempt has come; a hint for people, not a record."""
        return self.directory / "progress.json"
