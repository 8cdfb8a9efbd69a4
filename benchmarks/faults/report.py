"""Tables of what faults cost."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.faults.outcome import Blow, Outcome
from benchmarks.faults.schedule import Kind
from benchmarks.faults.work import Terms


@dataclass(frozen=True)
class Result:
    """A campaign of one contender.

    Attributes:
        name: The contender.
        outcomes: Of its members.
        same: Whether each member ended as its twin did, bit for bit.
        allocated: Seconds of allocation in all, from Slurm's accounting.
        seconds: From the submission to the end of the last member.
        pace: Seconds a step.
    """

    name: str
    outcomes: Sequence[Outcome]
    same: Sequence[bool]
    allocated: float
    seconds: float
    pace: float

    @property
    def blows(self) -> list[Blow]:
        return [blow for outcome in self.outcomes for blow in outcome.blows]

    @property
    def dealt(self) -> list[Blow]:
        return [blow for blow in self.blows if blow.dealt]

    @property
    def goodput(self) -> float:
        """The time of the steps that count, as a share of the time allocated."""
        return sum(o.steps for o in self.outcomes) * self.pace / max(self.allocated, 1.0)

    @property
    def whole(self) -> bool:
        """Whether every member finished and ended as its twin did."""
        return all(self.same)

    def record(self, terms: Terms) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return {
            "name": self.name,
            "terms": {name: str(value) for name, value in asdict(terms).items()},
            "allocated": self.allocated,
            "seconds": self.seconds,
            "goodput": self.goodput,
            "members": [
                {**asdict(outcome), "same": same}
                for outcome, same in zip(self.outcomes, self.same, strict=True)
            ],
        }


def by_kind(result: Result) -> str:
    """What each kind of fault cost one contender."""
    head = f"| {result.name} | dealt | survived | steps lost | back after s | of it queued s |"
    rows = [head + " by hand |", "|---" * 7 + "|"]
    for kind in Kind:
        blows = [blow for blow in result.dealt if blow.fault.kind is kind]
        if blows:
            rows.append(f"| {kind} | {len(blows)} | {_costs(blows)} |")
    rows.append(f"| all | {len(result.dealt)} | {_costs(result.dealt)} |")
    return "\n".join(rows)


def by_member(result: Result) -> str:
    """The verdict on each member."""
    lines = []
    for outcome, same in zip(result.outcomes, result.same, strict=True):
        dealt = sum(blow.dealt for blow in outcome.blows)
        verdict = "bit-identical" if same else "DIFFERS" if outcome.finished else "NOT FINISHED"
        lines.append(
            f"member {outcome.member}: {dealt} of {len(outcome.blows)} faults, {outcome.lives} "
            f"processes, {outcome.steps} steps, {verdict}"
        )
    return "\n".join(lines)


def side_by_side(results: Sequence[Result]) -> str:
    """All contenders in one table: the whole, then who survived what."""
    names = " | ".join(result.name for result in results)
    rows = [f"| | {names} |", "|---" * (len(results) + 1) + "|"]
    rows += [_row(label, values) for label, values in _totals(results)]
    for kind in Kind:
        if any(blow.fault.kind is kind for result in results for blow in result.blows):
            rows.append(_row(f"survived: {kind}", [_survived(r, kind) for r in results]))
    return "\n".join(rows)


def _totals(results: Sequence[Result]) -> Iterable[tuple[str, list[str]]]:
    yield "faults dealt", [f"{len(r.dealt)} of {len(r.blows)}" for r in results]
    yield (
        "members finished",
        [f"{sum(o.finished for o in r.outcomes)} of {len(r.outcomes)}" for r in results],
    )
    yield "of them bit-identical", [str(sum(r.same)) for r in results]
    yield "started again by hand", [str(sum(o.by_hand for o in r.outcomes)) for r in results]
    yield "steps lost a fault survived", [_spread(_lost(r.dealt)) for r in results]
    yield "steps done again, in all", [str(sum(_lost(r.dealt))) for r in results]
    yield "goodput", [f"{r.goodput:.0%}" for r in results]
    yield "time", [f"{r.seconds:.0f} s" for r in results]


def _row(label: str, values: Iterable[str]) -> str:
    return f"| {label} | " + " | ".join(values) + " |"


def _survived(result: Result, kind: Kind) -> str:
    """How many went on after it; and how many for whom it was the only fault ended differently."""
    blows = [blow for blow in result.dealt if blow.fault.kind is kind]
    if not blows:
        return "–"
    went_on = f"{sum(blow.survived for blow in blows)} of {len(blows)}"
    spoiled = sum(
        outcome.finished and not same and len(outcome.blows) == 1
        for outcome, same in zip(result.outcomes, result.same, strict=True)
        if any(blow.fault.kind is kind for blow in outcome.blows)
    )
    return went_on + (f", {spoiled} not bit-identical" if spoiled else "")


def _costs(blows: Sequence[Blow]) -> str:
    back = [blow for blow in blows if blow.survived]
    queued = [blow.cost.queued for blow in back if blow.interrupted]
    survived, by_hand = len(back), sum(blow.by_hand for blow in blows)
    gaps = [blow.cost.gap for blow in back]
    cells = (survived, _spread(_lost(blows)), _spread(gaps), _spread(queued), by_hand)
    return " | ".join(map(str, cells))


def _lost(blows: Iterable[Blow]) -> list[int]:
    return [blow.cost.lost for blow in blows if blow.survived]


def _spread(values: Sequence[float]) -> str:
    """Median and maximum."""
    if not values:
        return "–"
    middle, most = statistics.median(values), max(values)
    whole = all(isinstance(value, int) for value in values)
    return f"{middle:g}, at most {most}" if whole else f"{middle:.1f}, at most {most:.1f}"
