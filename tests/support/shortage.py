"""A small problem of known gradients, an allocator that refuses where told, a real shortage."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cluster import Accumulator


class Problem:
    """A batch, a network, and the shares of its loss, on a device of some size."""

    def __init__(
        self,
        batch: int,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
        capacity: int = 1024,
    ) -> None:
        torch.manual_seed(11)
        self.batch, self.device = batch, Device(capacity)
        self.x = torch.randn(batch, 5, dtype=dtype)
        self.net = nn.Sequential(
            nn.Linear(5, 7), nn.Tanh(), nn.Dropout(dropout), nn.Linear(7, 1)
        ).to(dtype)

    def loss(self, part: slice) -> Tensor:
        out: Tensor = self.net(self.x[part])
        return self.device.hold(out.square()).sum() / self.batch

    def gradients(self, accumulator: Accumulator) -> tuple[float, list[Tensor | None]]:
        torch.manual_seed(5)
        total = accumulator.backward(self.loss, self.net.zero_grad)
        # Copies: gradients that nothing cleared would go on growing in place, in both results.
        return total, [copy.deepcopy(parameter.grad) for parameter in self.net.parameters()]


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    """A batch, a grain, and a microbatch that an accumulator takes with them."""
    batch = draw(st.integers(1, 24))
    grain = draw(st.integers(1, batch))
    multiples = list(range(grain, batch + 1, grain))
    return batch, grain, draw(st.sampled_from([*multiples, batch]))


def refuse(problem: Problem, call: int, where: str) -> None:
    """Let the allocator refuse at one call of the network, on its way forward or backward."""
    calls = 0

    def refuse_once(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    def refuse_on_the_way_back(_: nn.Module, __: object, out: Tensor) -> None:
        out.register_hook(refuse_once)  # type: ignore[no-untyped-call]  # torch ships it untyped

    if where == "forward":
        problem.net[3].register_forward_pre_hook(refuse_once)
    else:
        problem.net[2].register_forward_hook(refuse_on_the_way_back)


class Device:
    """A device that holds a number of samples, and refuses any more of them.

    A sample is on it from its way forward until its graph is freed, be it on the way back or
    because nothing refers to it any longer.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = self.peak = 0

    def hold(self, losses: Tensor) -> Tensor:
        """Put samples on the device, and return their losses."""
        hold: Callable[[Tensor, Device], Tensor] = _Held.apply
        return hold(losses, self)


class _Held(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Tensor, device: Device) -> Tensor:
        size = len(losses)
        if device.used + size > device.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        ctx.samples = _Samples(device, size)
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        del ctx.samples
        return gradient, None


class _Samples:
    def __init__(self, device: Device, size: int) -> None:
        self._device, self._size = device, size
        device.used += size
        device.peak = max(device.peak, device.used)

    def __del__(self) -> None:
        self._device.used -= self._size


class Refusing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch ships it untyped
    """An allocator that refuses at some of torch's operations, counted from 0.

    Where one works on lists of tensors in place, the first half of them has been worked on by then.
    """

    def __init__(self, *at: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.at, self.seen = at, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.seen += 1
        if self.seen - 1 not in self.at:
            return func(*args, **(kwargs or {}))
        if func.__name__.startswith("_foreach") and func._schema.is_mutable and len(args[0]) > 1:
            half = len(args[0]) // 2
            halves = [arg[:half] if isinstance(arg, list) else arg for arg in args]
            func(*halves, **(kwargs or {}))
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")


def run_short_of_memory(program: str) -> Any:
    """What a Python program that limits its own memory prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        # Else glibc, having seen such a block freed, would keep the next ones for itself.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
