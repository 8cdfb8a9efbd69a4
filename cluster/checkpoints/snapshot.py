"""Snapshots: a state copied to host memory, so that training may go on while it is written."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def snapshot(state: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a state so that nothing done to the original changes the copy.

    Tensors go to host memory. What is shared stays shared: a tensor that is held twice is copied
    once, and tensors that view one storage view one copy of it. So a snapshot takes the bytes
    that the state takes, and is written as the state would be.

    Args:
        state: Tensors, numbers, strings and containers of them.
    """
    copies: dict[int, Any] = {}
    _copy_tensors(dict(state), copies, {}, set())
    # deepcopy takes what its memo holds as copied already; left to itself it would copy a tensor
    # on its device, and refuse one that is part of a graph.
    return copy.deepcopy(dict(state), copies)


def _copy_tensors(
    value: object, copies: dict[int, Any], storages: dict[int, torch.UntypedStorage], seen: set[int]
) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if _is_plain(value):
            copies[id(value)] = _on_host(value, storages)
    elif isinstance(value, Mapping):
        for item in value.values():
            _copy_tensors(item, copies, storages, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            _copy_tensors(item, copies, storages, seen)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a view of a storage and nothing more; the others copy themselves."""
    kind = type(tensor) in (Tensor, nn.Parameter)
    odd = tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or tensor.is_meta
    return kind and tensor.layout is torch.strided and not odd


def _on_host(tensor: Tensor, storages: dict[int, torch.UntypedStorage]) -> Tensor:
    storage = tensor.untyped_storage()
    if storage._cdata not in storages:
        content = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        storages[storage._cdata] = content.to("cpu", copy=True).untyped_storage()
    place = tensor.storage_offset(), tensor.size(), tensor.stride()
    result = torch.empty(0, dtype=tensor.dtype).set_(storages[storage._cdata], *place)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(result, tensor.requires_grad)
    return result.requires_grad_(tensor.requires_grad)
