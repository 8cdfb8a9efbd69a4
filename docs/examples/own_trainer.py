"""A training loop of your own that ends bit-identical however often it is interrupted.

    python docs/examples/own_trainer.py --seeds 2 --epochs 6

Kill a worker, cancel it on Slurm, or press Ctrl-C and type the command with --retry: each member
goes on from its last save, and prints the digest that it would have printed without.
"""

import argparse
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from cluster import Accumulator, Attempt, RobustExecutor
from cluster.memory.hostmemory import limited

SAMPLES, BATCH = 512, 32


class Waves(Dataset[tuple[Tensor, Tensor]]):
    """Noisy sines. What a sample holds follows from its index, not from the worker's generator."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        x = torch.rand(1, generator=generator) * 6
        return x, torch.sin(x) + 0.1 * torch.randn(1, generator=generator)


class Order(Sampler[list[int]]):
    """Batches of indices, shuffled anew every epoch, from any position on.

    An order that follows from seed and epoch needs no state but the position, which is the number
    of steps done. What workers have loaded ahead is not part of it.
    """

    def __init__(self, seed: int, first: int, last: int) -> None:
        self.seed, self.first, self.last = seed, first, last

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            epoch, batch = divmod(step, SAMPLES // BATCH)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(SAMPLES, generator=generator)
            yield order[batch * BATCH : (batch + 1) * BATCH].tolist()


class Trainer:
    """What the step loop asks for: steps_done, steps_total, state_dict, load_state_dict."""

    def __init__(self, seed: int, epochs: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        self.seed = seed
        self.steps_done, self.steps_total = 0, epochs * (SAMPLES // BATCH)
        self.model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        # Grains of 8 go through the device one by one; out of memory halves how many at once.
        self.accumulator = Accumulator(BATCH, microbatch=BATCH, grain=8)
        self.batches: Iterator[list[Tensor]] | None = None

    def step(self) -> None:
        """One step of the optimizer."""
        if self.batches is None:
            self.batches = self._load()
        x, y = next(self.batches)

        def loss(part: slice) -> Tensor:
            error: Tensor = self.model(x[part]) - y[part]
            return error.square().sum() / BATCH

        self.accumulator.backward(loss, self.optimizer.zero_grad)
        self.optimizer.step()
        self.steps_done += 1

    def state_dict(self) -> Mapping[str, Any]:
        """Everything that the next step depends on; the generators are saved beside it."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "accumulator": self.accumulator.state_dict(),
            "steps_done": self.steps_done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state; the order starts at its position."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.accumulator.load_state_dict(state["accumulator"])
        self.steps_done, self.batches = state["steps_done"], None

    @property
    def microbatch(self) -> int:
        """Samples on the device at once: with the next method, out of host memory is answered."""
        return self.accumulator.microbatch

    def limit_microbatch(self, limit: int) -> None:
        """Take at most so many from now on."""
        sizes = self.accumulator
        sizes.microbatch, sizes.grain = limited(sizes.microbatch, sizes.grain, limit)

    def digest(self) -> str:
        """Tells one set of weights from another, to the last bit."""
        flat = torch.cat([p.detach().flatten() for p in self.model.parameters()])
        return hashlib.sha256(flat.numpy().tobytes()).hexdigest()[:16]

    def _load(self) -> Iterator[list[Tensor]]:
        # Without a generator of its own a loader draws from the global one when it starts, once
        # more after every restore, and the dropout of all later steps would be another.
        order = Order(self.seed, self.steps_done, self.steps_total)
        own = torch.Generator().manual_seed(0)
        return iter(DataLoader(Waves(), batch_sampler=order, num_workers=2, generator=own))


def train(seed: int, epochs: int, attempt: Attempt) -> str:
    """One member: restore, then step until done or asked to leave."""
    trainer = Trainer(seed, epochs)
    attempt.restore(trainer)
    for _ in attempt.steps(trainer):
        trainer.step()
    return trainer.digest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="runs/own_trainer")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--retry", action="store_true", help="go on with what has not finished")
    options = parser.parse_args()
    executor = RobustExecutor(options.run, checkpoint_seconds=1.0)
    executor.update_parameters(timeout_min=10, cpus_per_task=1, mem_gb=0.9)
    if options.retry:
        executor.retry()
    else:
        executor.map_array(train, range(options.seeds), [options.epochs] * options.seeds)
    for job in executor.jobs():
        print(job.member.name, job.result())
