"""Out of memory on the device: fewer samples in flight, the same batch for the optimizer."""

import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cluster import random_state

logger = logging.getLogger(__name__)

#: How torch's CPU allocator, and CUDA outside of torch's own, say that memory was refused.
_REFUSALS = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class DeviceOutOfMemoryError(RuntimeError):
    """A single sample does not fit, or memory ran out where no smaller microbatch can help."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the CPU's allocator, is out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | DeviceOutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _REFUSALS)


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
    and the gradient is equal up to the rounding of the sum.

    Args:
        batch: Samples that the optimizer sees in a step.
        microbatch: Samples on the device at once, at first; never more than ``batch``.
        grain: Samples that go forward and backward together; never more than ``microbatch``.
        agree: Where several ranks share a model: turns whether this rank is out of memory into
            whether any is. It is called exactly once after each try, so it may be a collective;
            a rank that had room then takes the batch again with the others, at the same size.

    Raises:
        ValueError: The sizes are not ordered as said, or the microbatch would cut a grain.
    """

    batch: int
    microbatch: int
    grain: int
    agree: Callable[[bool], bool] = field(default=bool, compare=False, repr=False)
    healed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        ordered = 1 <= self.grain <= self.microbatch <= self.batch
        # Grains must start at the same samples whatever the microbatch is.
        aligned = self.microbatch == self.batch or self.microbatch % self.grain == 0
        if not (ordered and aligned):
            raise ValueError(
                "expected 1 <= grain <= microbatch <= batch and a microbatch that is the batch or "
                f"a multiple of the grain, found grain={self.grain}, "
                f"microbatch={self.microbatch}, batch={self.batch}"
            )

    def backward(self, loss: Callable[[slice], Tensor], clear: Callable[[], None]) -> float:
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
            # Nothing may be done inside an except block here: the error's traceback holds the
            # frames, and through them the graph whose memory is to be freed.
            total, failure = self._try(loss)
            if not self.agree(failure is not None):
                return total
            clear()
            _free_memory()
            random_state.restore(before)
            self._shrink(failure or "another rank is out of memory")

    def state_dict(self) -> dict[str, int]:
        """The learned sizes."""
        return {"microbatch": self.microbatch, "grain": self.grain, "healed": self.healed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over sizes learned by an earlier attempt."""
        self.microbatch, self.grain = state["microbatch"], state["grain"]
        self.healed = state["healed"]

    def _try(self, loss: Callable[[slice], Tensor]) -> tuple[float, str | None]:
        try:
            return sum(self._microbatches(loss)), None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return 0.0, str(error)

    def _microbatches(self, loss: Callable[[slice], Tensor]) -> Iterator[float]:
        for start in range(0, self.batch, self.microbatch):
            stop = min(start + self.microbatch, self.batch)
            edges = range(start, stop, self.grain)
            shares = [loss(slice(edge, min(edge + self.grain, stop))) for edge in edges]
            for share in shares:
                torch.autograd.backward(share)
                yield share.item()
            del shares

    def _shrink(self, why: str) -> None:
        if self.microbatch == 1:
            raise DeviceOutOfMemoryError(
                "out of memory with a microbatch of 1: a single sample does not fit. "
                f"Use a smaller model or a device with more memory. The allocator said: {why}"
            )
        multiples = -(-self.microbatch // self.grain)
        if multiples > 1:
            self.microbatch = self.grain * (multiples // 2)
        else:
            self.grain = self.microbatch = self.grain // 2
        self.healed += 1
        logger.warning(
            "out of memory: microbatch now %d of a batch of %d (grain %d)",
            *(self.microbatch, self.batch, self.grain),
        )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
