"""Gradients of a batch by parts: fewer samples in flight, the same batch for the optimizer."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field

import torch
from torch import Tensor

from cluster.checkpoints import random_state
from cluster.memory.growing import Growth
from cluster.memory.hostmemory import limited
from cluster.memory.refusal import DeviceOutOfMemoryError, Refusal, free_memory, tried

logger = logging.getLogger(__name__)

Loss = Callable[[slice], Tensor]
"""Maps a range of samples to their share of the batch's loss, a scalar."""


@dataclass
class Accumulator:
    r"""Gradients of a batch, summed over grains in a fixed order.

    The batch is cut into *grains* of a fixed number of samples. Each grain goes forward and
    backward by itself and gradients are added in the order of the grains:

    .. math:: g = \Big(\big(g_1 + g_2\big) + g_3\Big) + \dots

    The *microbatch* is how many samples are on the device at once: the graphs of
    ``microbatch / grain`` grains are alive together. Which grains share the device does not enter
    the sum, so halving the microbatch leaves the gradient equal **bit for bit** as long as it
    stays a multiple of the grain. Where even one grain does not fit, the grain is halved as well
    and the gradient is equal up to the rounding of the sum. Growing never changes a bit: it
    doubles the microbatch alone, and a grain that was halved stays.

    Args:
        batch: Samples that the optimizer sees in a step.
        microbatch: Samples on the device at once, at first; never more than ``batch``.
        grain: Samples that go forward and backward together; never more than ``microbatch``.
        agree: Where several ranks share a model: turns whether this rank is out of memory into
            whether any is. It is called exactly once after each try, so it may be a collective;
            a rank that had room then takes the batch again with the others, at the same size.
        grow_after: Batches without an out-of-memory after which a microbatch that was cut is
            doubled again, up to what was asked for at first (:mod:`cluster.memory.growing`).

    Raises:
        ValueError: The sizes are not ordered as said, or the microbatch would cut a grain.
    """

    batch: int
    microbatch: int
    grain: int
    agree: Callable[[bool], bool] = field(default=bool, compare=False, repr=False)
    grow_after: InitVar[int | None] = None
    healed: int = field(default=0, init=False)
    growth: Growth = field(init=False)
    _asked: int = field(init=False, repr=False)

    def __post_init__(self, grow_after: int | None) -> None:
        ordered = 1 <= self.grain <= self.microbatch <= self.batch
        # Grains must start at the same samples whatever the microbatch is.
        aligned = self.microbatch == self.batch or self.microbatch % self.grain == 0
        if not (ordered and aligned):
            raise ValueError(
                "expected 1 <= grain <= microbatch <= batch and a microbatch that is the batch or "
                f"a multiple of the grain, found grain={self.grain}, "
                f"microbatch={self.microbatch}, batch={self.batch}"
            )
        self.growth, self._asked = Growth(grow_after), self.microbatch

    @property
    def ceiling(self) -> int:
        """The most samples that may ever be on the device at once."""
        # Whole grains of today's size, which may not divide what was asked for.
        whole = self._asked // self.grain * self.grain
        return self._asked if self._asked == self.batch else whole

    def backward(self, loss: Loss, clear: Callable[[], None]) -> float:
        """Add the gradients of a whole batch, shrinking the microbatch until it fits.

        Args:
            loss: Maps a range of samples to their share of the batch's loss, a scalar. Shares
                add up to the loss of the batch. It may hold no collective: a rank that is out
                of memory does not come to it. Gradients are summed over ranks after the return.
            clear: Forgets all gradients; called before the first try and before each further one.
                A network whose forward pass changes buffers (running statistics of BatchNorm)
                must put them back here as well.

        Returns:
            The loss of the batch.

        Raises:
            DeviceOutOfMemoryError: One sample does not fit.
        """
        before = random_state.capture()
        while True:
            clear()
            total = tried(lambda: sum(self.shares(loss, self.batch), 0.0))
            any_refused = self.agree(isinstance(total, Refusal))
            if not (any_refused or isinstance(total, Refusal)):
                self._grow_if_due()
                return total
            clear()
            free_memory()
            random_state.restore(before)
            other = "another rank is out of memory"
            self._shrink(total.why if isinstance(total, Refusal) else other)

    def shares(self, loss: Loss, stop: int) -> Iterator[float]:
        """Add the gradients of the samples before ``stop``, and yield the loss grain by grain."""
        for start in range(0, stop, self.microbatch):
            end = min(start + self.microbatch, stop)
            edges = range(start, end, self.grain)
            graphs = [loss(slice(edge, min(edge + self.grain, end))) for edge in edges]
            for graph in graphs:
                torch.autograd.backward(graph)
                yield graph.item()
            # Else the last microbatch would be held while the next goes forward.
            del graphs, graph

    def limit(self, most: int) -> None:
        """Put at most ``most`` samples on the device at once from now on, growing included.

        Whole grains, so that no bit changes, as long as one is within the limit.
        """
        self.microbatch, self.grain = limited(self.microbatch, self.grain, most)
        self._asked = min(self._asked, most)

    def state_dict(self) -> dict[str, int]:
        """The learned sizes, and how long to wait before growing."""
        sizes = {"microbatch": self.microbatch, "grain": self.grain, "healed": self.healed}
        return sizes | self.growth.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take over sizes learned by an earlier attempt."""
        self.microbatch, self.grain = state["microbatch"], state["grain"]
        self.healed = state["healed"]
        self.growth.load_state_dict(state)

    def _shrink(self, why: str) -> None:
        if self.microbatch == 1:
            raise DeviceOutOfMemoryError(
                "out of memory with a microbatch of 1: a single sample does not fit. "
                f"Use a smaller model or a device with more memory. The allocator said: {why}"
            )
        grown_from = self.growth.retreat(self.microbatch)
        multiples = -(-self.microbatch // self.grain)
        if grown_from is not None:
            self.microbatch = grown_from
        elif multiples > 1:
            self.microbatch = self.grain * (multiples // 2)
        else:
            self.grain = self.microbatch = self.grain // 2
        self.healed += 1
        logger.warning(
            "out of memory: microbatch now %d of a batch of %d (grain %d)",
            *(self.microbatch, self.batch, self.grain),
        )

    def _grow_if_due(self) -> None:
        # At the end of a batch, not at the start of the next: what is about to be tried can
        # then be noted in between, for a kill by the kernel would leave no time to tell.
        if self.microbatch < self.ceiling and self.growth.due():
            self.growth.begin(self.microbatch)
            self.microbatch = min(2 * self.microbatch, self.ceiling)
            logger.info("trying a microbatch of %d again", self.microbatch)
