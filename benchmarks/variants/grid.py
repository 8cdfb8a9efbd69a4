"""The array: the grid of the job's preset ``full``, with networks of seconds."""

from pathlib import Path

from benchmarks.faults.work import Terms
from jobs.catalog import WORKLOADS
from jobs.lstm.config import LstmConfig
from pipelines.plan import Plan

#: So small that most of a member's time goes into starting Python. Static features enter by what
#: the variant does alone: through the first state or the head ``none`` would know them as well.
SMALL = (
    "sites={count: 48, years: 3, per_shard: 24}",
    "split={validation: 0.17, test: 0.25, warm_years: 1}",
    "windows={context: 30, horizon: 60, stride: 30}",
    "network={hidden: 16, embedding: 8, attention: 8, static_hidden: 16, initial_state: false}",
    "network={static_layers: 1, head_hidden: 0, site_levels: false}",
    "training={batch: 32, microbatch: 32, grain: 16, learning_rate: 1e-2, ema: 0.9}",
    "training={epochs: 3, validate_every: 1}",
    "evaluation={horizon: 60, validation: 48, drift_years: 0}",
    "tracking.project=yaoki-variants",
)
#: Steps of a member: no split has fewer.
STEPS = 84


def plan_of(terms: Terms, runs: Path, *overrides: str) -> Plan:
    """The plan of the array: what a member asks of Slurm is in the terms."""
    ask = f"cpus: {terms.cpus}, memory: {terms.memory}M, time: '00:{terms.minutes:02d}:00'"
    saves = f"checkpoint_seconds: {terms.save_every * terms.pace}"
    train = f"{{{ask}, signal_delay: {terms.signal_delay}, {saves}}}"
    rest = "{cpus: 1, memory: 2G, time: '00:30:00'}"
    resources = [f"resources.{name}={rest}" for name in ("simulate", "prepare", "collect")]
    given = [*SMALL, f"resources.train={train}", *resources, *overrides]
    workload = WORKLOADS["lstm"]
    return workload.plan(workload.resolve("full", given).config, runs)


def config_of(plan: Plan) -> LstmConfig:
    """The configuration that a plan was made of."""
    assert isinstance(plan.config, LstmConfig)
    return plan.config
