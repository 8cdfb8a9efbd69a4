"""Train the nine variants from five seeds on three splits as one array, under faults.

    nice -n 19 python -m benchmarks.variants                 # 135 members, 26 faults
    nice -n 19 python -m benchmarks.variants --seed 7 --faults 13 --nodes 6

A real Slurm is started on this machine, and the job `lstm` with the grid of its preset `full` and
small networks is submitted to it. Some of the members meet a fault each, of the kinds of
`benchmarks.faults` and scancel. They and some of the others are then trained again outside Slurm,
where nothing befalls them. Needs root and Slurm's packages (`yaoki slurmbox install`).

Ends with 1 if a member has not finished or differs from its twin, if two names of one function do
not tie, or if different functions do.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from benchmarks.faults.boxes import give_warning_of_preemption
from benchmarks.faults.campaign import run_campaign
from benchmarks.faults.contender import module_environment
from benchmarks.faults.dealing import Dealer
from benchmarks.faults.schedule import Fault, Kind, draw
from benchmarks.faults.work import Terms
from benchmarks.variants.array import VariantsArray
from benchmarks.variants.grid import STEPS, config_of, plan_of
from benchmarks.variants.outcome import Trial, tell
from benchmarks.variants.twins import ended_alike, left_alike, run_twins, twins_of
from cluster.slurmbox import BoxSettings, SlurmBox


def faults_of(terms: Terms, seed: int) -> list[Fault]:
    """A fault for each victim."""
    faults = draw(seed, terms.members, terms.members, terms.steps, tuple(Kind))
    # A member whose only checkpoint is torn stops and says so; with two it goes on.
    saved_twice = 3 * terms.save_every
    return [
        replace(fault, step=max(fault.step, saved_twice)) if fault.kind is Kind.TORN else fault
        for fault in faults
    ]


def put_through(terms: Terms, box: SlurmBox, seed: int, unharmed: int, minutes: float) -> Trial:
    """Run the array under faults, collect it, and train twins of its victims and of some others.

    Args:
        terms: Of the victims; there is a fault for each of them.
        box: Where.
        seed: Of victims and faults.
        unharmed: How many of the other members have a twin.
        minutes: After which whoever has not finished is given up.
    """
    plan, source = plan_of(terms, terms.root / "runs"), random.Random(seed)
    members = source.sample(range(config_of(plan).members), terms.members + unharmed)
    victims, others = sorted(members[: terms.members]), members[terms.members :]
    faults = faults_of(terms, seed)
    array, twins = VariantsArray(plan, terms, victims), twins_of(plan, terms, victims)
    with ProcessPoolExecutor(1, get_context("spawn")) as beside:
        trained = beside.submit(run_twins, plan, terms, victims, others)
        begun = time.time()
        outcomes = run_campaign(array, terms, Dealer(box), faults, 60 * minutes)
        array.collect(begun + 60 * minutes + 300)
        seconds = time.time() - begun
        trained.result()
    same = [ended_alike(array, twins, victim) for victim in range(len(victims))]
    alike = sum(left_alike(array, twins, member) for member in others)
    return Trial(plan, terms, outcomes, same, alike, len(others), seconds)


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="yaoki-variants-", dir="/tmp") as place:
        root = Path(place)
        root.chmod(0o755)  # the box's database runs as another user
        steps, pace = STEPS, options.pace
        terms = Terms(root, options.faults, steps, pace, save_every=4, memory=1000, minutes=10)
        box = SlurmBox(root / "box", BoxSettings(options.nodes, cpus=1, memory=4096))
        with box:
            give_warning_of_preemption(box)
            os.environ.update(module_environment() | box.environment)
            trial = put_through(terms, box, options.seed, options.unharmed, options.minutes)
            print(tell(trial))
    if options.json:
        options.json.write_text(json.dumps({"seed": options.seed, **trial.record()}, indent=1))
    return 0 if trial.whole else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variants", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--faults", type=int, default=26, help="as many members meet one each")
    parser.add_argument("--unharmed", type=int, default=10, help="others that have a twin")
    parser.add_argument("--nodes", type=int, default=8, help="members at once")
    parser.add_argument("--pace", type=float, default=0.8, help="seconds a step of a victim")
    parser.add_argument("--minutes", type=float, default=60, help="at most")
    parser.add_argument("--json", type=Path, help="where to write all of it")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
