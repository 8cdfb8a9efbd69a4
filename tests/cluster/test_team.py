"""Laws of what ranks agree on, and of gradients averaged over them."""

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from support.ranks import in_ranks
from support.small_work import equal
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cluster import average_gradients
from cluster.distributed.meeting import RankLost
from cluster.distributed.team import Moment, RanksDisagreeError, Team, is_lost_rank

pytestmark = pytest.mark.timeout(120)


def test_all_ranks_hear_the_largest_and_what_rank_0_says(tmp_path: Path) -> None:
    state = {"weights": torch.arange(3.0), "random": torch.get_rng_state(), "step": 4}

    def part(team: Team) -> Any:
        rank = team.place.rank
        agreed = team.agree(Moment.STEP, rank, -rank, 7)
        told = team.told(Moment.RESTORE, state if rank == 0 else None)
        gathered = team.gather(Moment.SAVE, {"rank": rank, "weights": torch.full((2,), rank)})
        return agreed, equal(told, state), [(int(g["rank"]), g["weights"].sum()) for g in gathered]

    everyones = [(rank, torch.tensor(2 * rank)) for rank in range(3)]
    found = in_ranks(tmp_path, 3, part)
    assert found == [([2, 0, 7], True, everyones if rank == 0 else []) for rank in range(3)]


def test_ranks_in_different_places_are_told_so_and_do_not_hang(tmp_path: Path) -> None:
    def part(team: Team) -> Any:
        team.agree(Moment.END if team.place.rank else Moment.STEP, 0)

    for said in in_ranks(tmp_path, 2, part):
        assert said.startswith(RanksDisagreeError.__name__)
        assert "found one at STEP where another is at END" in said


def test_a_rank_that_is_gone_is_missed_at_once(tmp_path: Path) -> None:
    def part(team: Team) -> Any:
        if team.place.rank == 1:
            return None
        try:
            return team.agree(Moment.STEP)
        except RankLost as loss:
            return str(loss)

    said, _ = in_ranks(tmp_path, 2, part)
    assert said.startswith("rank 0 of 2: another rank is gone (")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[pair.cc:553] Connection closed by peer [10.0.0.2]:40"), True),
        (RuntimeError("Read error [10.0.0.2]:40: Connection reset by peer"), True),
        (RuntimeError("Timed out waiting 1800000ms for recv operation to complete"), False),
        (RuntimeError("shapes do not match"), False),
        (ConnectionResetError("Connection reset by peer"), False),  # a user's own connection
    ],
)
def test_only_a_lost_rank_reads_as_one(error: Exception, lost: bool) -> None:
    assert is_lost_rank(error) is lost
    wrapped = ValueError("the step failed")
    wrapped.__cause__ = error
    assert is_lost_rank(wrapped) is lost


SHAPES = [(3, 5), (7,), (), (4, 4), (1,)]


def _model(rank: int) -> list[nn.Parameter]:
    draws = torch.Generator().manual_seed(rank)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    parameters.append(nn.Parameter(torch.zeros(6, dtype=torch.float64)))
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=draws, dtype=parameter.dtype)
    return [*parameters, nn.Parameter(torch.zeros(2), requires_grad=False)]


def _averaged(bucket: int) -> Callable[[Team], list[Tensor | None]]:
    def part(team: Team) -> list[Tensor | None]:
        parameters = _model(team.place.rank)
        if team.place.rank == 1:
            parameters[1].grad = None
        average_gradients(parameters, bucket)
        return [parameter.grad for parameter in parameters]

    return part


@pytest.mark.parametrize(("ranks", "bucket"), [(1, 40), (2, 1), (3, 40), (3, 2**20)])
def test_gradients_are_added_in_the_order_of_the_ranks(
    tmp_path: Path, ranks: int, bucket: int
) -> None:
    gradients = [[p.grad for p in _model(rank) if p.grad is not None] for rank in range(ranks)]
    if ranks > 1:
        gradients[1][1] = torch.zeros(SHAPES[1])
    average = [reduce(torch.add, each) / ranks for each in zip(*gradients, strict=True)]
    for found in in_ranks(tmp_path, ranks, _averaged(bucket)):
        assert found[-1] is None
        assert equal(found[:-1], average)


def test_a_wrapped_module_averages_unless_told_not_to(tmp_path: Path) -> None:
    def part(team: Team) -> Any:
        torch.manual_seed(3)
        module = DistributedDataParallel(nn.Linear(4, 2))
        x = torch.full((5, 4), 1.0 + team.place.rank)
        module(x).sum().backward()
        wrapped = [p.grad for p in module.parameters()]
        module.zero_grad()
        with module.no_sync():
            module(x).sum().backward()
        average_gradients(module.parameters())
        return equal(wrapped, [p.grad for p in module.parameters()])

    assert in_ranks(tmp_path, 2, part) == [True, True]


def test_alone_a_gradient_is_its_own_average() -> None:
    parameters = _model(0)
    average_gradients(parameters)
    assert equal([p.grad for p in parameters[:-1]], [p.grad for p in _model(0)[:-1]])
