"""Laws of the accumulator on several ranks: where one is out of memory, all shrink together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parents[1])
#: A rank: takes a batch under each schedule of refusals, and once without any; then batches on
#: devices whose room differs from rank to rank and from batch to batch, growing back; then finds
#: the largest microbatch.
_RANK = """
import json, sys
sys.path.append(sys.argv[4])
import torch
import torch.distributed as dist
from cluster import Accumulator, fit_microbatch
from cluster.checkpoints import random_state
from support.shortage import Problem, refuse
from support.small_work import equal

torch.set_num_threads(1)
rank, store, schedules = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

def agree(failed):
    flag = torch.tensor(float(failed))
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)

def step(faults):
    problem = Problem(12, dropout=0.3)
    problem.x += rank
    for at, call, where in faults:
        if at == rank:
            refuse(problem, call, where)
    accumulator = Accumulator(12, microbatch=12, grain=3, agree=agree)
    total, gradients = problem.gradients(accumulator)
    for gradient in gradients:
        dist.all_reduce(gradient)
    return accumulator.state_dict(), (total, gradients, random_state.capture())

def sizes_in(rooms):
    problem = Problem(12, dropout=0.3)
    accumulator = Accumulator(12, microbatch=12, grain=3, agree=agree, grow_after=2)
    for room in rooms:
        problem.device.capacity = room
        problem.gradients(accumulator)
        yield accumulator.microbatch

def fitted(capacity):
    problem, accumulator = Problem(48, capacity=capacity), Accumulator(48, 48, 3, agree=agree)
    return fit_microbatch(accumulator, problem.loss, problem.net, headroom=0)

_, plain = step([])
results = [step(faults) for faults in schedules]
print(json.dumps([
    [[sizes, equal(found, plain)] for sizes, found in results],
    list(sizes_in([[12, 5, 12, 12, 12, 12], [12, 12, 12, 12, 7, 7]][rank])),
    fitted([31, 40][rank]),
]))
dist.destroy_process_group()
"""


@pytest.mark.timeout(120)  # ranks that wait for each other in vain would wait for half an hour
def test_ranks_shrink_together_and_no_bit_changes(tmp_path: Path) -> None:
    schedules = [
        [(0, 1, "forward")],
        [(1, 4, "backward")],
        [(0, 2, "backward"), (1, 3, "forward")],
        [(0, 2, "forward"), (1, 7, "forward")],
    ]
    found = _run_ranks(tmp_path / "store", schedules)
    halved = {"microbatch": 6, "grain": 3, "healed": 1}
    quartered = {"microbatch": 3, "grain": 3, "healed": 2}
    wanted = [[sizes, True] for sizes in (halved, halved, halved, quartered)]
    # Rank 0 is short in the second batch, and rank 1 in the last, which was tried at 12 again.
    assert found == [[wanted, [12, 3, 6, 6, 12, 6], 30]] * 2


def _run_ranks(store: Path, schedules: object) -> list[object]:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(rank), str(store), json.dumps(schedules), TESTS],
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate()[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0]
    return [json.loads(output) for output in outputs]
