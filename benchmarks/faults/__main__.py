"""Deal the same faults to yaoki, submitit and Lightning on a real Slurm.

    python -m benchmarks.faults                              # 8 members, 64 faults each tool
    python -m benchmarks.faults --seed 7 --with yaoki
    python -m benchmarks.faults --members 4 --faults 8 --steps 300 --json faults.json

Needs root, Slurm's packages (`yaoki slurmbox install`) and, for the peers, the extra `bench`.
Ends with 1 if a member of yaoki's did not finish or differs from its unfaulted twin.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from benchmarks.faults.boxes import allocated_seconds, give_warning_of_preemption
from benchmarks.faults.campaign import run_campaign
from benchmarks.faults.contender import Contender, module_environment
from benchmarks.faults.dealing import Dealer
from benchmarks.faults.report import Result, by_kind, by_member, side_by_side
from benchmarks.faults.schedule import Fault, draw
from benchmarks.faults.twins import run_twins, same
from benchmarks.faults.work import Terms
from cluster.slurmbox import BoxSettings, SlurmBox

CONTENDERS: Mapping[str, str] = {"yaoki": "Yaoki", "submitit": "Submitit", "lightning": "Lightning"}


def put_through(name: str, terms: Terms, box: SlurmBox, faults: list[Fault]) -> Result:
    """The campaign of one contender."""
    module = import_module(f"benchmarks.faults.with_{name}")
    make: Callable[[Terms], Contender] = getattr(module, CONTENDERS[name])
    begun = time.time()
    outcomes = run_campaign(make(terms), terms, Dealer(box), faults, seconds=1200)
    seconds = time.time() - begun
    time.sleep(5.0)  # accounting hears of ends a moment later
    twins = run_twins(name, terms, [o.member for o in outcomes if o.finished])
    equal = [
        o.finished and same(terms.scene(name, o.member).final_file, twins[o.member])
        for o in outcomes
    ]
    return Result(name, outcomes, equal, allocated_seconds(begun), seconds, terms.pace)


def main() -> int:
    options = _options()
    print(f"seed {options.seed}: {options.faults} faults to {options.members} members")
    faults = draw(options.seed, options.faults, options.members, options.steps)
    with tempfile.TemporaryDirectory(prefix="yaoki-faults-", dir="/tmp") as place:
        root = Path(place)
        root.chmod(0o755)  # the box's database runs as another user
        terms = Terms(root, options.members, options.steps, options.pace)
        # A node for each member, so that a node lost or taken hits one alone; and one to spare.
        box = SlurmBox(root / "box", BoxSettings(options.members + 1, cpus=1, memory=4096))
        results = []
        with box:
            give_warning_of_preemption(box)
            os.environ.update(module_environment() | box.environment)
            for name in options.contenders:
                results.append(put_through(name, terms, box, faults))
                print(f"\n{by_kind(results[-1])}\n\n{by_member(results[-1])}", flush=True)
    print(f"\n{side_by_side(results)}")
    if options.json:
        records = [result.record(terms) for result in results]
        options.json.write_text(json.dumps({"seed": options.seed, "results": records}, indent=1))
    return 0 if all(result.whole for result in results if result.name == "yaoki") else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--faults", type=int, default=64)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=600, help="of a member")
    parser.add_argument("--pace", type=float, default=0.25, help="seconds a step")
    parser.add_argument(
        "--with", dest="contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS)
    )
    parser.add_argument("--json", type=Path, help="where to write all of it")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
