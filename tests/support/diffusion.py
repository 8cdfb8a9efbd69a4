"""The diffusion job in seconds, and a training that runs out of memory once."""

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from cluster import Attempt, Member
from jobs.catalog import WORKLOADS
from jobs.diffusion.config import DiffusionConfig
from jobs.diffusion.training import train
from kernels.unet import UNet
from pipelines.plan import Plan

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def diffusion_plan(runs: Path, *overrides: str, preset: str = "smoke") -> Plan:
    """The plan of a small diffusion job."""
    workload = WORKLOADS["diffusion"]
    return workload.plan(workload.resolve(preset, overrides).config, runs)


def train_out_of_memory(
    config: DiffusionConfig, passes: int, member: Member, attempt: Attempt
) -> dict[str, float]:
    """Train, and be refused memory once, inside the network, after some passes through it."""
    left = passes

    def refuse(module: nn.Module, _inputs: Any) -> None:
        nonlocal left
        if isinstance(module, UNet) and torch.is_grad_enabled():
            left -= 1
            if left == -1:
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    with register_module_forward_pre_hook(refuse):
        return train(config, member, attempt)
