"""A small problem whose gradients are known, and an allocator that refuses where it is told."""

import copy

import torch
from torch import Tensor, nn

from cluster import Accumulator


class Problem:
    """A batch, a network, and the shares of its loss."""

    def __init__(self, batch: int, dropout: float = 0.0, dtype: torch.dtype = torch.float32):
        torch.manual_seed(11)
        self.batch = batch
        self.x = torch.randn(batch, 5, dtype=dtype)
        self.net = nn.Sequential(
            nn.Linear(5, 7), nn.Tanh(), nn.Dropout(dropout), nn.Linear(7, 1)
        ).to(dtype)

    def loss(self, part: slice) -> Tensor:
        out: Tensor = self.net(self.x[part])
        return out.square().sum() / self.batch

    def gradients(self, accumulator: Accumulator) -> tuple[float, list[Tensor | None]]:
        torch.manual_seed(5)
        total = accumulator.backward(self.loss, self.net.zero_grad)
        # Copies: gradients that nothing cleared would go on growing in place, in both results.
        return total, [copy.deepcopy(parameter.grad) for parameter in self.net.parameters()]


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
