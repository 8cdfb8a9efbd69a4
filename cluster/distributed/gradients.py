"""Gradients averaged over ranks, in an order that nothing but the ranks' numbers decides."""

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

#: Bytes that go through the network at once.
BUCKET = 32 * 2**20


def average_gradients(parameters: Iterable[nn.Parameter], bucket: int = BUCKET) -> None:
    r"""Replace each gradient by its average over the ranks of the member.

    .. math:: g = \frac{1}{R} \Big(\big(g^{(0)} + g^{(1)}\big) + \dots + g^{(R-1)}\Big)

    Each rank adds up one part of a bucket, in the order of the ranks, and hands it to the others.
    As much is sent as in a ring, yet the rounding depends neither on the network nor on which
    nodes the ranks run on; an attempt on other nodes goes on bit for bit.

    It is called after the backward pass, on every rank, with parameters in the same order. A
    gradient that a rank does not have counts as zero. Outside of a member of several ranks it
    does nothing.

    Args:
        parameters: Those of the model; those that need no gradient are left out.
        bucket: Bytes of gradients to send at once.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    with torch.no_grad():
        for group in _buckets(parameters, bucket):
            gradients = [_gradient(parameter) for parameter in group]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            parts = torch.split(_average(flat), [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def _buckets(parameters: Iterable[nn.Parameter], size: int) -> Iterator[list[nn.Parameter]]:
    """Neighbors of one kind and place, up to a size together."""
    bucket: list[nn.Parameter] = []
    used = 0
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        new = parameter.numel() * parameter.element_size()
        like = bucket and (parameter.dtype, parameter.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and not (like and used + new <= size):
            yield bucket
            bucket, used = [], 0
        bucket.append(parameter)
        used += new
    if bucket:
        yield bucket


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _average(flat: Tensor) -> Tensor:
    ranks = dist.get_world_size()
    share = -(-flat.numel() // ranks)
    sent = flat.new_zeros(ranks * share)
    sent[: flat.numel()] = flat
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    first, *others = torch.split(received, share)
    total = first.clone()
    for other in others:
        total += other
    dist.all_gather(list(torch.split(sent, share)), total / ranks)
    return sent[: flat.numel()]
