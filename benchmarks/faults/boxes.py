"""The box of a campaign: how its Slurm is configured, and what it has given."""

import time

from cluster.scheduler import slurm
from cluster.slurmbox import SlurmBox


def give_warning_of_preemption(box: SlurmBox) -> None:
    """Configure Slurm as submitit's docs ask for: USR2, then 15 s, before a preemption."""
    conf = box.directory / "slurm.conf"
    text = conf.read_text().replace("PartitionName=gpu ", "PartitionName=gpu GraceTime=15 ")
    conf.write_text(text + "SlurmctldParameters=preempt_send_user_signal\n")
    box.restart_controller()


def allocated_seconds(since: float) -> float:
    """Seconds of all allocations in the partition of the members since a moment."""
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))
    options = ["--duplicates", "--allocations", "--noheader", "--allusers", "--partition=gpu"]
    text = slurm.run(["sacct", *options, f"--starttime={start}", "--format=ElapsedRaw"])
    return float(sum(int(word) for word in text.split()))
