"""What came of the array, and how that is told."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.faults.outcome import Outcome
from benchmarks.faults.report import Result, by_kind
from benchmarks.faults.work import Terms
from benchmarks.variants.array import TRAIN
from cluster.accounts.bookkeeping import run_usage
from cluster.accounts.usage import StageUsage
from cluster.status import State, run_status
from jobs.lstm.pairs import Relation, Verdict
from pipelines.plan import Plan


@dataclass(frozen=True)
class Trial:
    """An array under faults, at its end; it is read while its directory and Slurm are there.

    Attributes:
        plan: Of the job.
        terms: Of the victims.
        outcomes: Of the victims.
        same: Whether each victim ended as its twin did.
        alike: How many of the others left the same as their twins,
        others: of how many that have one.
        seconds: From the submission to the end of the last stage.
    """

    plan: Plan
    terms: Terms
    outcomes: Sequence[Outcome]
    same: Sequence[bool]
    alike: int
    others: int
    seconds: float

    @cached_property
    def finished(self) -> tuple[int, int]:
        """Members of the array that have finished, of how many."""
        states = [m.state for m in run_status(self.plan.directory) if m.stage == TRAIN]
        return states.count(State.FINISHED), len(states)

    @cached_property
    def usage(self) -> StageUsage:
        """What the array was given and used."""
        stages = run_usage(self.plan.directory).stages
        return next(stage for stage in stages if stage.stage.name == TRAIN)

    @cached_property
    def comparisons(self) -> Sequence[Mapping[str, Any]]:
        """What the job's report says of pairs of variants; nothing where there is no report."""
        path = self.plan.directory / "report" / "comparisons.json"
        if not path.exists():
            return ()
        found: Sequence[Mapping[str, Any]] = json.loads(path.read_text())["comparisons"]
        return found

    @property
    def faults(self) -> Result:
        """The victims, as the campaign tells of them."""
        allocated = self.usage.totals.parts.allocated
        name, pace = "array", self.terms.pace
        return Result(name, self.outcomes, self.same, allocated, self.seconds, pace)

    @property
    def whole(self) -> bool:
        """Whether all finished, ended as their twins did, and tie where they must alone."""
        expected = {
            Relation.SAME: {Verdict.IDENTICAL},
            Relation.CONTAINED: set(Verdict),
            Relation.DIFFERENT: {Verdict.APART},
        }
        tied = all(each["verdict"] in expected[each["relation"]] for each in self.comparisons)
        done, members = self.finished
        alike = all(self.same) and self.alike == self.others
        return done == members and alike and tied and bool(self.comparisons)

    def record(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return {
            **self.faults.record(self.terms),
            "finished": self.finished,
            "goodput": self.usage.totals.parts.goodput,
            "unharmed": {"same": self.alike, "of": self.others},
            "comparisons": self.comparisons,
        }


def tell(trial: Trial) -> str:
    """The outcome for people: what befell whom, what it cost, and which variants tie."""
    return "\n".join([by_kind(trial.faults), "", *_totals(trial), "", *_ties(trial.comparisons)])


def _totals(trial: Trial) -> Iterator[str]:
    faults, totals = trial.faults, trial.usage.totals
    survived = sum(blow.survived for blow in faults.dealt)
    done, members = trial.finished
    parts = totals.parts
    yield f"members finished: {done} of {members}, in {len(totals.attempts)} attempts"
    yield f"faults: {len(faults.dealt)} of {len(faults.blows)} dealt, {survived} survived"
    yield f"started again by hand: {sum(o.by_hand for o in trial.outcomes)}"
    yield f"as their unfaulted twins, bit for bit: {sum(trial.same)} of {len(trial.same)} hit"
    yield f"  and {trial.alike} of {trial.others} others"
    shares = {"useful": parts.useful, "done again": parts.lost, "starting": parts.startup}
    shares |= {"saving": parts.saving, "leaving": parts.rest}
    told = ", ".join(f"{name} {part / parts.allocated:.0%}" for name, part in shares.items())
    yield f"of {parts.allocated:.0f} s allocated: {told}"
    yield f"wall time: {trial.seconds:.0f} s"


def _ties(comparisons: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| first − second | they are | pairs | identical | difference of NSE | verdict |"
    yield "|---" * 6 + "|"
    for each in comparisons:
        half = "" if each["half"] is None else f" ± {each['half']:.3f}"
        difference = f"{each['difference']:.3f}{half}"
        names = f"{each['first']} − {each['second']}"
        counts = f"{each['pairs']} | {each['identical']}"
        yield f"| {names} | {each['relation']} | {counts} | {difference} | {each['verdict']} |"
