"""Short campaigns of faults on a real Slurm: one that stays the same, and one drawn anew each time.

The machinery is that of ``python -m benchmarks.faults``, which deals more faults to more members.
"""

import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.faults.campaign import run_campaign
from benchmarks.faults.contender import module_environment
from benchmarks.faults.dealing import Dealer
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.schedule import UNAIDED, Kind, draw
from benchmarks.faults.twins import run_twins, same
from benchmarks.faults.with_yaoki import Yaoki
from benchmarks.faults.work import Terms
from cluster.slurmbox import SlurmBox

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

MEMBERS, FAULTS, STEPS = 4, 8, 200
#: Slurm looks at time limits every 30 s; test_on_slurm.py waits for that, once.
KINDS = [kind for kind in UNAIDED if kind is not Kind.TIMEOUT]
SEEDS = {"fixed": 1, "fresh": random.SystemRandom().randrange(10**6)}


@dataclass(frozen=True)
class Campaign:
    """A campaign that runs: its terms and what it comes to."""

    terms: Terms
    outcomes: Future[list[Outcome]]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[dict[int, Path]]]:
    terms = Terms(tmp_path_factory.mktemp("twins"), MEMBERS, STEPS)
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(run_twins, "yaoki", terms, range(MEMBERS), 1)


@pytest.fixture(scope="module")
def campaigns(
    slurmbox: SlurmBox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Campaign]]:
    """Both at the same time on the same nodes: one's lost node is the other's as well."""
    dealer = Dealer(slurmbox)
    with ThreadPoolExecutor(len(SEEDS)) as threads, pytest.MonkeyPatch.context() as patch:
        for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
            patch.setenv(name, module_environment()[name])
        running = {}
        for name, seed in SEEDS.items():
            root = tmp_path_factory.mktemp(name)
            terms = Terms(root, MEMBERS, STEPS, pace=0.15, save_every=10, memory=900, cpus=2)
            faults = draw(seed, FAULTS, MEMBERS, STEPS, KINDS)
            outcomes = threads.submit(run_campaign, Yaoki(terms), terms, dealer, faults, 400.0)
            running[name] = Campaign(terms, outcomes)
        yield running


@pytest.mark.parametrize("name", SEEDS)
def test_every_member_ends_as_its_twin_whatever_befalls_it(
    campaigns: dict[str, Campaign], twins: Future[dict[int, Path]], name: str
) -> None:
    print(f"seed {SEEDS[name]}: draw({SEEDS[name]}, {FAULTS}, {MEMBERS}, {STEPS}, KINDS)")
    outcomes = campaigns[name].outcomes.result()
    dealt = [(o.member, b.fault.kind, b.fault.step) for o in outcomes for b in o.blows if b.dealt]
    print(f"dealt: {dealt}")
    assert len(dealt) == FAULTS
    assert [outcome.finished for outcome in outcomes] == [True] * MEMBERS
    terms = campaigns[name].terms
    differing = [
        member
        for member, twin in twins.result().items()
        if not same(terms.scene("yaoki", member).final_file, twin)
    ]
    assert differing == []
