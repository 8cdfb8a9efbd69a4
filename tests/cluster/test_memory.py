"""How out of memory is told from other errors, and that a failed call leaves nothing behind."""

import weakref

import pytest
import torch
from torch import Tensor

from cluster.memory.refusal import DeviceOutOfMemoryError, Refusal, is_out_of_memory, tried


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        MemoryError(),
        DeviceOutOfMemoryError("a single sample does not fit"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB, other allocations: 0)"),
    ],
)
def test_the_forms_of_out_of_memory_are_known(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: device-side assert"), ValueError()])
def test_nothing_else_is_out_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)


class _Graph:
    """What a frame holds; a weak reference to it tells whether the frame is alive."""


def test_nothing_holds_the_frames_of_a_call_that_was_refused() -> None:
    alive: list[weakref.ref[_Graph]] = []

    def inner() -> Tensor:
        graph = _Graph()
        alive.append(weakref.ref(graph))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    def outer() -> Tensor:
        graph = _Graph()
        alive.append(weakref.ref(graph))
        try:
            return inner()
        finally:
            assert all(reference() is not None for reference in alive)

    outcome = tried(outer)
    assert outcome == Refusal("CUDA out of memory. Tried to allocate 20.00 MiB.")
    assert [reference() for reference in alive] == [None, None]


def test_a_refusal_always_says_something() -> None:
    def refuse() -> None:
        raise MemoryError

    assert tried(refuse) == Refusal("MemoryError")


def test_a_call_that_fits_returns_and_another_error_passes() -> None:
    assert tried(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        tried(lambda: 1 // 0)
