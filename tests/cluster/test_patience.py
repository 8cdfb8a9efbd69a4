"""Laws of asking again: what passes is asked again, what was refused is not, and not for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.scheduler.patience import Patience
from cluster.scheduler.slurm import SlurmBusyError, SlurmError


@given(st.integers(1, 12), st.floats(0.001, 5.0), st.floats(0.001, 60.0))
def test_pauses_double_up_to_the_longest_and_differ(
    tries: int, first: float, longest: float
) -> None:
    pauses = list(Patience(tries, first, longest).pauses())
    assert len(pauses) == tries - 1
    for doublings, pause in enumerate(pauses):
        most = min(longest, first * 2**doublings)
        assert most / 2 <= pause <= most
    assert len(set(pauses)) == len(pauses)


@given(st.integers(0, 6), st.integers(1, 5), st.booleans())
def test_an_action_is_tried_until_slurm_answers(faults: int, tries: int, refused: bool) -> None:
    calls = 0

    def action() -> str:
        nonlocal calls
        calls += 1
        if calls <= faults:
            raise SlurmBusyError("Socket timed out")
        if refused:
            raise SlurmError("Invalid partition")
        return "17"

    patience = Patience(tries, first=1e-6)
    if faults >= tries:
        with pytest.raises(SlurmBusyError, match="timed out"):
            patience.persist(action)
    elif refused:
        with pytest.raises(SlurmError, match="Invalid partition"):
            patience.persist(action)
    else:
        assert patience.persist(action) == "17"
    assert calls == min(tries, faults + 1)
