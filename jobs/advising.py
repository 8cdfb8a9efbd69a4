"""Advice in words, as it is to be followed where the run came from."""

from pathlib import Path

from cluster.accounts.advice import Advice
from cluster.scheduler.quantities import MemorySize, Walltime

#: What the settings are called in submitit's parameters.
_PARAMETERS = {
    "memory": "mem_gb",
    "time": "timeout_min",
    "signal_delay": "slurm_signal_delay_s",
    "cpus": "cpus_per_task",
}


def sentence(run: Path, line: Advice) -> str:
    """A piece of advice for people: of which stage, why, what to change, and what it brings."""
    return f"{line.stage}: {line.reason}. {setting(run, line)}; saves {line.gain}"


def setting(run: Path, line: Advice) -> str:
    """What to change and how, as one writes it where the run came from."""
    value: object = line.value
    if line.setting == "step" or line.value is None:
        return "Take shorter steps"
    if line.setting == "microbatch":
        return f"Set the microbatch of the work to {value}"
    if (run / "plan.yaml").exists():
        if line.setting == "memory":
            value = MemorySize(line.value)
        elif line.setting == "time":
            value = Walltime(line.value)
        return f"Set resources.{line.stage}.{line.setting}={value}"
    if line.setting == "checkpoint_seconds":
        return f"Use RobustExecutor(..., checkpoint_seconds={value})"
    if line.setting == "memory":
        value = f"{line.value / 1024:g}"
    elif line.setting == "time":
        value = -(-line.value // 60)
    return f"Use update_parameters({_PARAMETERS[line.setting]}={value})"
