"""A submitit script with one line changed: members get up again, on Slurm or on this machine.

python docs/examples/one_line.py
"""

import random

from cluster import RobustExecutor  # was: from submitit import AutoExecutor


def hits(seed: int, throws: int = 200_000) -> int:
    """How many of the points that are thrown into a square fall into the circle."""
    draw = random.Random(seed).random
    return sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(throws))


if __name__ == "__main__":
    executor = RobustExecutor("runs/one_line")  # was: AutoExecutor("runs/one_line")
    executor.update_parameters(timeout_min=5, cpus_per_task=1, mem_gb=0.5)
    jobs = executor.map_array(hits, range(2))
    results = [job.result() for job in jobs]
    print(f"pi is about {4 * sum(results) / (2 * 200_000):.3f}")
