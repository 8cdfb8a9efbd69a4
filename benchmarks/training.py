"""Seconds a training step of the Kolmogorov score network, against a plain PyTorch rendering.

    python -m benchmarks.training                    # batch 32, all cores: the real thing
    python -m benchmarks.training --batch 4 --threads 1

Every measurement is a process of its own with its own environment. The candidates take turns, so
that a machine whose load changes is unfair to none, and the median over rounds is printed. All
hold the same weights and see the same batch; their losses are printed to show that they agree.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypedDict, cast

import torch
from torch import Tensor, nn

from cluster.environment import ALLOCATOR
from kernels.score import LocalScoreUNet, TimeEmbedding
from kernels.sde import VPSDE, denoising_loss

CHANNELS, SIZE, EMBEDDING = 10, 64, 64
WIDTHS, BLOCKS = (96, 192, 384), (3, 3, 3)

BINDING = {"OMP_PROC_BIND": "true"}


@dataclass(frozen=True)
class Candidate:
    """One network under one environment."""

    name: str
    network: str
    environment: dict[str, str]


class Measurement(TypedDict):
    """What one process found: wall and CPU seconds of each timed step, and the first loss."""

    wall: list[float]
    cpu: list[float]
    loss: float


class PlainNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt()


def plain_conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, padding_mode="circular")


class PlainBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(EMBEDDING, c), nn.Unflatten(-1, (c, 1, 1)))
        self.residue = nn.Sequential(PlainNorm(), plain_conv(c, c), nn.SiLU(), plain_conv(c, c))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return cast(Tensor, x + self.residue(x + self.project(y)))


class PlainNetwork(nn.Module):
    """The U-Net as one would write it: NCHW, separate normalization, padding by the framework."""

    def __init__(self) -> None:
        super().__init__()
        heads: list[nn.Module] = [plain_conv(CHANNELS + 1, WIDTHS[0])]
        tails: list[nn.Module] = [plain_conv(WIDTHS[0], CHANNELS)]
        for fine, coarse in pairwise(WIDTHS):
            heads.append(nn.Sequential(plain_conv(fine, coarse, 2)))
            up = nn.Upsample(scale_factor=2.0)
            tails.append(nn.Sequential(PlainNorm(), up, plain_conv(coarse, fine)))
        stacks = [
            [
                nn.ModuleList(PlainBlock(c) for _ in range(n))
                for c, n in zip(WIDTHS, BLOCKS, strict=True)
            ]
            for _ in range(2)
        ]
        self.heads, self.tails = nn.ModuleList(heads), nn.ModuleList(reversed(tails))
        self.descent, self.ascent = nn.ModuleList(stacks[0]), nn.ModuleList(reversed(stacks[1]))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        skips = []
        for head, blocks in zip(self.heads, self.descent, strict=True):
            x = head(x)
            for block in cast(nn.ModuleList, blocks):
                x = block(x, y)
            skips.append(x)
        skips.pop()
        for blocks, tail in zip(self.ascent, self.tails, strict=True):
            for block in cast(nn.ModuleList, blocks):
                x = block(x, y)
            x = tail(x) + skips.pop() if skips else tail(x)
        return x


class PlainScore(nn.Module):
    forcing: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = TimeEmbedding(EMBEDDING)
        self.network = PlainNetwork()
        self.register_buffer("forcing", torch.zeros(1, SIZE, SIZE))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        forcing = self.forcing.expand(len(x), 1, SIZE, SIZE)
        return cast(Tensor, self.network(torch.cat((x, forcing), dim=1), self.embedding(t)))


def measure(network: str, batch: int, steps: int, threads: int) -> Measurement:
    """Time training steps after one that is not counted."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours = LocalScoreUNet(CHANNELS, SIZE, hidden_channels=WIDTHS, hidden_blocks=BLOCKS)
    model: nn.Module = ours
    if network == "plain":
        model = PlainScore()
        model.load_state_dict(ours.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=1e-3)
    data = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, batch, CHANNELS, SIZE, SIZE, generator=data)
    t = torch.rand(batch, generator=data)
    wall, cpu, losses = [], [], []
    for _ in range(steps + 1):
        start, burnt = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=network == "bf16"):
            loss = denoising_loss(model, VPSDE(), x, t, noise).mean()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - burnt)
        losses.append(float(loss.detach()))
    return {"wall": wall[1:], "cpu": cpu[1:], "loss": losses[0]}


def start(
    candidate: Candidate, options: argparse.Namespace, threads: int
) -> "subprocess.Popen[str]":
    """Start a candidate in a process of its own; zero threads leave the number to torch."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "OMP_", "MKL_"))}
    limits = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    command = [sys.executable, "-m", "benchmarks.training", "--measure", candidate.network]
    for name, value in (("batch", options.batch), ("steps", options.steps), ("threads", threads)):
        command += [f"--{name}", str(value)]
    environment = clean | limits | candidate.environment
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def outcome(name: str, process: "subprocess.Popen[str]") -> Measurement:
    """What a process found."""
    printed, complaint = process.communicate()
    if process.returncode:
        raise SystemExit(f"{name} failed ({process.returncode}):\n{complaint}")
    found: Measurement = json.loads(printed.splitlines()[-1])
    return found


def crowd(options: argparse.Namespace) -> None:
    """Members that share the machine: threads as torch takes them, and as the launcher gives."""
    cores, members = os.cpu_count() or 1, options.members
    candidate = Candidate("ours, allocator", "ours", dict(ALLOCATOR))
    settings = {"torch's own threads": 0, "launcher's threads": max(1, cores // members)}
    walls: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(options.rounds):
        for name, threads in settings.items():
            processes = [start(candidate, options, threads) for _ in range(members)]
            for process in processes:
                walls[name] += outcome(name, process)["wall"]
    own, given = (statistics.median(walls[name]) for name in settings)
    print(f"\n{members} members at once on {cores} cores, median wall s a step:")
    print(f"torch's own threads {own:.2f}, launcher's {given:.2f}: {own / given:.2f}x faster")


def candidates(options: argparse.Namespace) -> list[Candidate]:
    chosen = [
        Candidate("plain", "plain", {}),
        Candidate("plain, allocator", "plain", dict(ALLOCATOR)),
        Candidate("ours", "ours", {}),
        Candidate("ours, allocator", "ours", dict(ALLOCATOR)),
    ]
    if options.threads > 1:
        chosen.append(Candidate("ours, allocator, bound threads", "ours", {**ALLOCATOR, **BINDING}))
    if options.bf16:
        chosen.append(Candidate("ours, allocator, bf16 autocast", "bf16", dict(ALLOCATOR)))
    return chosen


def report(results: dict[str, list[Measurement]]) -> None:
    """The table: medians over rounds, and ratios to the plain network with default settings."""

    def median(name: str, clock: Literal["wall", "cpu"]) -> float:
        return statistics.median(s for found in results[name] for s in found[clock])

    print(f"\n{'':32}{'wall s':>8}{'faster':>8}{'CPU s':>9}{'less':>7}{'first loss':>12}")
    for name, runs in results.items():
        wall, cpu = median(name, "wall"), median(name, "cpu")
        gains = median("plain", "wall") / wall, median("plain", "cpu") / cpu
        print(
            f"{name:32}{wall:8.2f}{gains[0]:7.2f}x{cpu:9.2f}{gains[1]:6.2f}x{runs[0]['loss']:12.6f}"
        )
    print("\nWall time means something on an idle machine only; CPU time is all threads together.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1, help="timed steps a process")
    parser.add_argument("--rounds", type=int, default=3, help="processes a candidate")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--members", type=int, default=2, help="that share the machine at the end")
    parser.add_argument("--bf16", action="store_true", help="slow without bf16 arithmetic")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.batch, options.steps, options.threads)))
        return
    results: dict[str, list[Measurement]] = {}
    print(f"batch {options.batch}, {options.threads} threads, {torch.__version__}")
    for turn in range(options.rounds):
        for candidate in candidates(options):
            process = start(candidate, options, options.threads)
            found = outcome(candidate.name, process)
            results.setdefault(candidate.name, []).append(found)
            clocks = f"wall {found['wall']}, CPU {found['cpu']}"
            print(f"round {turn + 1}: {candidate.name}: {clocks}", flush=True)
    report(results)
    if options.members > 1:
        crowd(options)


if __name__ == "__main__":
    main()
