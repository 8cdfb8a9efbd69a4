"""How a stage waits for the one before it, as sbatch is told."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.plan import Wait

#: What Slurm is told of each way to wait. In place of "{}" stand the ids.
_DEPENDENCIES = {"all": "afterok:{}", "each": "aftercorr:{}", "end": "afterany:{}"}


def waiting_for(ids: Sequence[str], wait: Wait) -> str:
    """The value of sbatch's ``--dependency``."""
    return _DEPENDENCIES[wait].format(":".join(ids))


@dataclass
class Ahead:
    """What the next stage has to wait for.

    Attributes:
        elements: Elements of earlier arrays that are still queued or running.
        arrays: Arrays sent just now.
        members: The members that these arrays carry.
    """

    elements: Sequence[str] = ()
    arrays: Sequence[str] = ()
    members: Sequence[int] = ()

    def dependency(self, wait: Wait, indices: Sequence[int]) -> str | None:
        """What sbatch is told of members that wait; None where nothing is ahead of them."""
        ids = [*self.elements, *self.arrays]
        if not ids:
            return None
        # Slurm pairs elements by index within two arrays; across more, all wait for all.
        paired = len(ids) == len(self.arrays) == 1 and set(indices) <= set(self.members)
        return waiting_for(ids, "all" if wait == "each" and not paired else wait)


def placeholder(stage: str) -> str:
    """What stands in a plan for the id that Slurm will give to the array of a stage."""
    return f"id-of-{stage}"
