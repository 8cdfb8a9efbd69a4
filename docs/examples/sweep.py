"""A sweep in which some members fail: what is there is kept, and only the rest is started again.

    python docs/examples/sweep.py                 # rates from the command line: --rates 0.1 0.01
    python docs/examples/sweep.py --retry         # start again what has not finished

The best rate is found by a member of its own, which starts when all others have ended, however
they ended: on Slurm as a job that depends on them (afterany), elsewhere after waiting.
"""

import argparse
import math
from pathlib import Path

from cluster import RobustExecutor, collect


def train(rate: float, steps: int = 200) -> float:
    """Gradient descent on a function of one variable, in place of your training; its last value."""
    x = 3.0
    for _ in range(steps):
        x -= rate * (2 * x + math.sin(x))
        if not math.isfinite(x):
            raise FloatingPointError(f"diverged with a rate of {rate}")
    return x * x - math.cos(x)


def best_of(run: Path) -> tuple[int, float]:
    """The member with the smallest value among those that have finished."""
    found = collect(RobustExecutor(run, "inline", stage="sweep").jobs())
    return min(found.ok.items(), key=lambda item: item[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-2, 1e-1, 1e9])
    parser.add_argument("--retry", action="store_true", help="go on with what has not finished")
    options = parser.parse_args()

    sweep = RobustExecutor(options.run, stage="sweep")
    sweep.update_parameters(timeout_min=10, cpus_per_task=1, mem_gb=0.9)
    if options.retry:
        print("started again:", ", ".join(job.member.name for job in sweep.retry()) or "nothing")
    else:
        sweep.map_array(train, options.rates)

    collector = RobustExecutor(options.run, stage="best", order=1)
    collector.update_parameters(timeout_min=2, cpus_per_task=1, mem_gb=0.5)
    collector.after(sweep.jobs())
    best, value = collector.submit(best_of, options.run.absolute()).result()

    found = collect(sweep.jobs())
    for index, result in found.ok.items():
        print(f"ok       {index}: {result:.6f}")
    for index, error in found.failed.items():
        print(f"failed   {index}: {error!r}")
    for index, reason in found.missing.items():
        print(f"missing  {index}: {reason}")
    print(f"best is {best} with {value:.6f}")
