"""How long training stands still for a checkpoint, written in its own time and in the background.

    python -m benchmarks.checkpoints                 # a state of 100 MB, a save every 5 s
    python -m benchmarks.checkpoints --megabytes 500 --seconds 20
    python -m benchmarks.checkpoints --intervals     # how often saves come, measuring nothing

A network is trained with AdamW; its state is weights and two moments. Three loops take turns: no
saves, saves in the steps' time, saves in the background. Printed are the time that a save takes
from the loop, its share of the time at the given interval, and what it costs in all: steps are
slower while the writer shares cores and memory with them, and the stall alone does not show that.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cluster.checkpoints.checkpoint import CheckpointStore
from cluster.checkpoints.interval import PRIOR_SECONDS, STALL_BUDGET, SaveCost, daly_interval
from cluster.checkpoints.saving import BackgroundSaver

WIDTH = 1024


@dataclass
class Training:
    """Layers of a fixed width, as many as it takes for the state to have its size."""

    megabytes: int
    model: nn.Sequential = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        layers = max(1, round(self.megabytes * 1e6 / (3 * 4 * WIDTH**2)))
        self.model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def step(self) -> None:
        loss = self.model(torch.ones(256, WIDTH)).square().mean()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state_dict(self) -> Mapping[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def bytes(self) -> int:
        return 3 * sum(p.numel() * p.element_size() for p in self.model.parameters())


@dataclass
class Result:
    """Seconds of each save's stall, of the whole loop, and its steps."""

    stalls: list[float] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0


def run(
    training: Training, seconds: float, saves: int, save: Callable[[int], None] | None
) -> Result:
    """Train for a while, with a save at equal intervals."""
    result = Result()
    begun = time.perf_counter()
    due = begun
    while time.perf_counter() < begun + seconds * saves:
        if save is not None and time.perf_counter() >= due:
            start = time.perf_counter()
            save(result.steps)
            result.stalls.append(time.perf_counter() - start)
            due += seconds
        training.step()
        result.steps += 1
    result.seconds = time.perf_counter() - begun
    return result


def compare(options: argparse.Namespace, folder: Path) -> dict[str, list[Result]]:
    """Let the three loops take turns, so that a change of the machine's load is unfair to none."""
    training = Training(options.megabytes)
    print(f"state {training.bytes() / 1e6:.0f} MB, {torch.get_num_threads()} threads")
    training.step()
    store = CheckpointStore(folder)
    saver = BackgroundSaver(store)
    ways: dict[str, Callable[[int], None] | None] = {
        "no saves": None,
        "in the steps' time": lambda step: void(store.save(step, training.state_dict())),
        "in the background": lambda step: saver.start(step, training.state_dict()),
    }
    results: dict[str, list[Result]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, save in ways.items():
            results[name].append(run(training, options.seconds, options.saves, save))
            saver.wait()
    return results


def void(_: object) -> None:
    """Forget a result."""


def report(results: Mapping[str, list[Result]], seconds: float) -> None:
    rates = {
        name: statistics.median(r.steps / r.seconds for r in runs) for name, runs in results.items()
    }
    print(f"\n{'':20}{'stall s':>10}{'stall %':>10}{'steps a s':>11}{'slower %':>10}")
    stalls = {}
    for name, runs in results.items():
        every = [stall for run in runs for stall in run.stalls] or [0.0]
        stalls[name] = statistics.median(every)
        slower = 1 - rates[name] / rates["no saves"]
        share = stalls[name] / seconds
        print(f"{name:20}{stalls[name]:10.3f}{share:10.2%}{rates[name]:11.2f}{slower:10.1%}")
    _, own, background = stalls.values()
    cost = SaveCost()
    cost.measured(background, own)
    interval = cost.interval(PRIOR_SECONDS, float("inf"))
    print(f"\nstall {own / background:.1f}x shorter in the background")
    print(
        f"interval for a fault an hour: {interval:.0f} s (Daly: "
        f"{daly_interval(cost.total, PRIOR_SECONDS):.0f} s), stalled for "
        f"{background / (interval + background):.2%} of it (budget {STALL_BUDGET:.0%})"
    )


def print_intervals() -> None:
    """What the interval is where stops have time for a save, and where they have not."""
    hours = (1, 10, 100)
    print(f"{'a save costs':14}" + "".join(f"{f'M = {h} h':>12}" for h in hours) + "   no time")
    for seconds in (0.1, 1.0, 10.0, 60.0):
        cost = SaveCost(stall=0.0, writing=seconds)
        row = [cost.interval(3600.0 * h) for h in hours] + [cost.interval(3600.0, grace=0.0)]
        print(f"{seconds:10.1f} s  " + "".join(f"{interval:10.0f} s" for interval in row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100, help="of the state")
    parser.add_argument("--seconds", type=float, default=5.0, help="between saves")
    parser.add_argument("--saves", type=int, default=3, help="a loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: temporary")
    parser.add_argument("--intervals", action="store_true", help="print a table and leave")
    options = parser.parse_args()
    if options.intervals:
        print_intervals()
        return
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report(compare(options, Path(folder)), options.seconds)


if __name__ == "__main__":
    main()
