"""Take a step that was skipped once more, and say what in it was not finite.

python -m jobs.gmm.replay runs/gmm-0123456789/members/train/0000/skipped/00000123.pt
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cluster.checkpoints import random_state
from jobs.gmm.config import GmmConfig
from jobs.gmm.densities import Batch, Drawn
from jobs.gmm.training import Fitting, untrained
from pipelines.plan import load_plan
from pipelines.training.guard import bad_gradient, bad_input, origin_of_nan


def replay(path: Path) -> Iterator[str]:
    """What a skipped step was, line by line.

    Args:
        path: A file in ``skipped/`` of a member's directory.
    """
    kept: dict[str, Any] = torch.load(path, weights_only=True)
    member, run = int(path.absolute().parents[1].name), path.absolute().parents[4]
    job = GmmConfig.model_validate(load_plan(run)["config"], strict=False)
    config = job.member_config(member)
    batch = Batch(**kept["batch"])
    network = untrained(config)
    network.load_state_dict(kept["network"])
    objective = Fitting(config, Drawn(config.data, 0), 0, network)
    yield f"step {kept['step']} of member {member}: {_shown(kept['fault'])}"
    yield f"{len(batch.masses)} densities on {batch.masses.shape[1]} cells, K = {batch.components}"
    wrong = bad_input(batch)
    if wrong is not None:
        rows = (~torch.isfinite(batch.masses)).any(dim=1).nonzero().flatten().tolist()
        yield f"input: {wrong}, densities {rows}"
        return
    random_state.restore(kept["random"])
    yield from _passes(objective, batch)


def _passes(objective: Fitting, batch: Batch) -> Iterator[str]:
    """Density by density, as a mean over several would hide which of them it is."""
    network, bad = objective.network, []
    for row in range(len(batch.masses)):
        network.zero_grad()
        loss = objective.losses(batch, slice(row, row + 1)).sum()
        torch.autograd.backward(loss)
        fault = bad_gradient(network)
        if fault is not None or not torch.isfinite(loss):
            bad.append(row)
            yield f"density {row}: loss {loss.item():.6g}, {fault or 'gradient finite'}"
    if not bad:
        yield "each density by itself is finite: together their gradients were too large"
        return
    part = slice(bad[0], bad[0] + 1)
    origin = origin_of_nan(lambda: torch.autograd.backward(objective.losses(batch, part).sum()))
    yield f"density {bad[0]}: {origin or 'no derivative was NaN'}"


def _shown(fault: dict[str, Any]) -> str:
    return " ".join([fault["part"], "not finite:", *fault["names"]]).removesuffix(":")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="a file in skipped/ of a member's directory")
    for line in replay(parser.parse_args().file):
        print(line)
