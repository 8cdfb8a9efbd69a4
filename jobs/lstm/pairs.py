"""Whether a sweep tells variants apart: pairs of networks that share all but their variant.

Without layer normalization an injection into the gates is an input column, so that some variants
are one function under two names. The same test has to tell them apart from none, and to tell
variants that are different functions apart: otherwise a tie would say nothing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np

from cluster.records.files import write_atomic
from jobs.lstm.collected import Collected, Tested
from pipelines.fluxes.scores import Interval, over_seeds

_Key = tuple[int, str]

#: Differences of the efficiency below this one decide for no variant.
MARGIN = 0.05


class Relation(StrEnum):
    """What two variants are to each other without layer normalization."""

    SAME = "same function and initial weights"
    CONTAINED = "one contains the other"
    DIFFERENT = "different functions"


#: The pairs that are held side by side.
PAIRS: Sequence[tuple[str, str, Relation]] = (
    ("concat", "gate", Relation.SAME),
    ("attention_input", "attention_gate", Relation.SAME),
    ("attention_film_additive", "attention_gate", Relation.CONTAINED),
    ("none", "concat", Relation.DIFFERENT),
    ("none", "attention_gate", Relation.DIFFERENT),
)


class Verdict(StrEnum):
    """What the differences of a pair of variants say."""

    IDENTICAL = "equal bit for bit"
    EQUIVALENT = "equivalent"
    OPEN = "not told apart"
    APART = "apart"


@dataclass(frozen=True)
class Comparison:
    """Two variants, held side by side.

    Attributes:
        first: A variant.
        second: The other one.
        relation: What they are to each other.
        pairs: Pairs of networks that share seed, split, and all else.
        identical: Those whose scores are the same in every bit.
        difference: First minus second: the mean, and half of its 95 % interval over seeds.
    """

    first: str
    second: str
    relation: Relation
    pairs: int
    identical: int
    difference: Interval

    @property
    def zero_inside(self) -> bool:
        """Whether the interval holds zero, or is not known: one seed has none."""
        return not abs(self.difference.mean) > self.difference.half

    @property
    def verdict(self) -> Verdict:
        """What scores and interval say."""
        mean, half = self.difference
        if self.identical == self.pairs:
            return Verdict.IDENTICAL
        if abs(mean) + half <= MARGIN:
            return Verdict.EQUIVALENT
        return Verdict.OPEN if self.zero_inside else Verdict.APART

    def record(self) -> dict[str, object]:
        """All of it as JSON takes it."""
        mean, half = (value if math.isfinite(value) else None for value in self.difference)
        told = {"zero_inside": self.zero_inside, "verdict": str(self.verdict)}
        return {**asdict(self), "difference": mean, "half": half, **told}


def mean_difference(differences: Mapping[int, Sequence[float]]) -> Interval:
    """Mean of paired differences, by seed, with Student's 95 % interval over seeds.

    The networks of one seed start alike on every split, so their differences may go together:
    they are averaged first, and it is seeds that are counted. Differences that are NaN do not
    count.
    """
    known = [[v for v in values if math.isfinite(v)] for values in differences.values()]
    return over_seeds([float(np.mean(values)) for values in known if values])


def compare_all(found: Collected) -> list[Comparison]:
    """All of :data:`PAIRS` of which there are networks without layer normalization."""
    by_variant: dict[str, dict[_Key, Tested]] = {}
    for member in found.members:
        network = found.config.at_point(member.point).network
        if not network.layer_norm:
            by_variant.setdefault(network.variant, {})[_key(found, member)] = member
    asked = ((by_variant.get(a, {}), by_variant.get(b, {}), (a, b, r)) for a, b, r in PAIRS)
    return [_compare(one, other, *pair) for one, other, pair in asked if one.keys() & other.keys()]


def save(found: Collected, comparisons: Sequence[Comparison]) -> None:
    """Write ``report/comparisons.json``."""
    told = {
        "score": "NSE, median over test sites, mean over fluxes",
        "margin": MARGIN,
        "comparisons": [comparison.record() for comparison in comparisons],
    }
    write_atomic(found.run / "report" / "comparisons.json", json.dumps(told, indent=1).encode())


def _key(found: Collected, member: Tested) -> _Key:
    """What a member shares with those that it is paired with: its seed, and all but its variant."""
    config = found.config.at_point(member.point)
    network = config.network.model_copy(update={"variant": "none"})
    rest = config.model_copy(update={"network": network}).model_dump_json()
    return found.config.seed_number(member.index), rest


def _compare(
    one: Mapping[_Key, Tested],
    other: Mapping[_Key, Tested],
    first: str,
    second: str,
    relation: Relation,
) -> Comparison:
    shared = [key for key in one if key in other]
    differences: dict[int, list[float]] = {}
    for key in shared:
        differences.setdefault(key[0], []).append(_score(one[key]) - _score(other[key]))
    identical = sum(_same(one[key], other[key]) for key in shared)
    difference = mean_difference(differences)
    return Comparison(first, second, relation, len(shared), identical, difference)


def _score(member: Tested) -> float:
    """The efficiency of a member: median over test sites, mean over fluxes."""
    return float(np.mean(member.spread("nse").median))


def _same(one: Tested, other: Tested) -> bool:
    return np.array_equal(one.scores, other.scores, equal_nan=True)
