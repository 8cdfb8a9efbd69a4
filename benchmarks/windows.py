"""Reading training windows: yaoki's dataset, a memory map, and h5py, side by side.

    python -m benchmarks.windows

One file of 64 trajectories of 64 frames, two channels of 64 x 64, contiguous float32, in the page
cache; windows of 5 frames at random places, each copied into its row of a batch. One core, the
readers take turns; printed are medians of windows a core-second, and of the memory map's.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import numpy as np
import torch
from torch import Tensor

from pipelines.trajectories import TrajectoryDataset, write_trajectories

TRAJECTORIES, FRAMES, WINDOW, BATCH = 64, 64, 5, 32
FRAME = (2, 64, 64)
Places = list[tuple[int, int]]
Reader = Callable[[Places], Tensor]


def make(path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (FRAMES, *FRAME)
    parts = (rng.standard_normal(shape).astype(np.float32) for _ in range(TRAJECTORIES))
    write_trajectories(path, parts, {"made_by": "benchmark"}, count=TRAJECTORIES)


def readers(path: Path) -> dict[str, Reader]:
    dataset = TrajectoryDataset(path, WINDOW)
    file = h5py.File(path, "r")["x"]
    mapped = np.memmap(path, "<f4", "r", file.id.get_offset(), file.shape)

    def own(places: Places) -> Tensor:
        return dataset.windows((i for i, _ in places), (s for _, s in places))

    def rows(places: Places, source: np.ndarray) -> Tensor:
        batch = torch.empty((len(places), WINDOW, *FRAME))
        for row, (index, start) in zip(batch.numpy(), places, strict=True):
            row[...] = source[index, start : start + WINDOW]
        return batch.flatten(1, 2)

    return {
        "memory map": lambda places: rows(places, mapped),
        "yaoki": own,
        "h5py": lambda places: rows(places, file),
    }


def batches(count: int) -> Iterable[Places]:
    rng = np.random.default_rng(1)
    for _ in range(count):
        starts = rng.integers(0, FRAMES - WINDOW, BATCH)
        yield [
            (int(i), int(s))
            for i, s in zip(rng.integers(0, TRAJECTORIES, BATCH), starts, strict=True)
        ]


def rate(read: Reader, chosen: list[Places]) -> float:
    begun = time.process_time()
    for places in chosen:
        read(places)
    return len(chosen) * BATCH / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="yaoki-windows-") as folder:
        make(Path(folder) / "x.h5")
        peers = readers(Path(folder) / "x.h5")
        chosen = list(batches(arguments.batches))
        reference = [peers["memory map"](places) for places in chosen]
        same = all(
            torch.equal(peers["yaoki"](p), r) for p, r in zip(chosen, reference, strict=True)
        )
        rates: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(arguments.rounds):
            for name, read in peers.items():
                rates[name].append(rate(read, chosen))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print("| reader | windows a core-second | of the memory map's |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:,.0f} | {median / medians['memory map']:.0%} |")
    print(f"\nequal to the memory map's windows: {same}")


if __name__ == "__main__":
    main()
