"""How a rank leaves its process."""

import atexit
import os
import sys
from dataclasses import dataclass


@dataclass
class Leaving:
    """Ends the process once all that was registered to run at its end has run.

    While Python takes itself down, what is left of torch's process groups may abort the process
    (seen with gloo in torch 2.13). Of a rank that has left in order this would be a failure,
    upon which srun ends the others, rank 0 in the middle of its save.

    Attributes:
        status: The exit status; 1 until it is known, as after an error that nobody catches.
    """

    status: int = 1

    @classmethod
    def prepare(cls) -> "Leaving":
        """Register; whatever is registered later, by torch or by a user, runs before."""
        leaving = cls()
        atexit.register(leaving)
        return leaving

    def __call__(self) -> None:
        """Leave."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(self.status)
