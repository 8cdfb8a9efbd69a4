"""Laws of why an attempt of several ranks ended: the first to fail says it."""

from pathlib import Path

import pytest

from cluster import Cause
from cluster.calls import Outcome
from cluster.failures import Failure, settled
from cluster.records.member import Member


@pytest.fixture
def member(tmp_path: Path) -> Member:
    member = Member(tmp_path, "train", 0)
    member.directory.mkdir(parents=True)
    return member


def _note(member: Member, rank: int, when: float, cause: Cause | None, attempt: int = 2) -> None:
    outcome = Outcome(attempt, error=ValueError(f"of rank {rank}"))
    Failure(attempt, rank, when, f"rank {rank}", cause).save(member, outcome)


@pytest.mark.parametrize("cause", list(Cause))
def test_without_a_word_of_a_rank_the_status_decides(member: Member, cause: Cause) -> None:
    _note(member, 1, 1.0, Cause.DEVICE_OOM, attempt=1)  # of an earlier attempt
    assert settled(member, 2, cause) == (cause, {})
    assert not member.result_file.exists()


@pytest.mark.parametrize("known", [Cause.KILLED, Cause.ERROR])
def test_the_first_that_raised_says_why(member: Member, known: Cause) -> None:
    _note(member, 0, 1.0, None)  # it only lost another
    _note(member, 3, 3.0, Cause.ERROR)
    _note(member, 2, 2.0, Cause.DEVICE_OOM)
    assert settled(member, 2, known) == (Cause.DEVICE_OOM, {"error": "rank 2"})
    outcome = Outcome.load(member)
    assert outcome is not None
    assert (outcome.attempt, str(outcome.error)) == (2, "of rank 2")


@pytest.mark.parametrize(
    ("known", "found"), [(Cause.KILLED, Cause.KILLED), (Cause.ERROR, Cause.NODE_FAILURE)]
)
def test_where_none_raised_one_was_killed_or_the_network_failed(
    member: Member, known: Cause, found: Cause
) -> None:
    _note(member, 1, 5.0, None)
    _note(member, 0, 4.0, None)
    assert settled(member, 2, known) == (found, {"error": "rank 0"})
    assert not member.result_file.exists()


@pytest.mark.parametrize("cause", [Cause.HOST_OOM, Cause.TIMEOUT, Cause.CANCELLED])
def test_what_slurm_knows_goes_first(member: Member, cause: Cause) -> None:
    _note(member, 1, 1.0, Cause.ERROR)
    assert settled(member, 2, cause) == (cause, {})
