"""Out of memory on the device: how it is told from other errors, and how memory is given back."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")

#: How torch's CPU allocator, CUDA and its libraries, and Metal say that memory was refused.
_REFUSALS = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)


class DeviceOutOfMemoryError(RuntimeError):
    """A single sample does not fit: no smaller microbatch, and no other attempt, can help."""


@dataclass(frozen=True)
class Refusal:
    """What the allocator said instead of giving memory."""

    why: str


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the CPU's allocator, is out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | DeviceOutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _REFUSALS)


def tried(call: Callable[[], T]) -> T | Refusal:
    """Call something that may be out of memory.

    On return nothing holds the frames of a call that failed, as the traceback of its error would.
    So whatever its local variables held, the graph above all, can be freed.

    Returns:
        What the call returned, or a refusal where it was out of memory. Other errors pass.
    """
    try:
        return call()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return Refusal(str(error) or type(error).__name__)


def free_memory() -> None:
    """Give back what nothing refers to any longer, and what the allocator has cached."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
