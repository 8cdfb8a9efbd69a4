"""Ranks that are forked from the test: no time goes into imports."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cluster.distributed.meeting import Meeting
from cluster.distributed.place import Place
from cluster.distributed.team import Team


def place(rank: int, ranks: int) -> Place:
    """The place of a rank on this machine."""
    return Place(rank, ranks, rank, ranks, "here", os.getpid())


def in_ranks(directory: Path, ranks: int, part: Callable[[Team], Any]) -> list[Any]:
    """What a function comes to on each rank of a team."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def play(rank: int) -> None:
        torch.set_num_threads(1)
        team = Team(place(rank, ranks), Meeting(directory, place(rank, ranks), 30.0).join(1))
        try:
            answer = part(team)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        # As bytes: torch would share the tensors' memory, which goes with this process.
        answers.put((rank, pickle.dumps(answer)))
        team.close()

    processes = [context.Process(target=play, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    return [pickle.loads(found[rank]) for rank in range(ranks)]
