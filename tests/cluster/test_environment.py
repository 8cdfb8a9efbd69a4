"""A member's process gets the threads of its cores, and keeps what the user has set."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.environment import (
    ALLOCATOR,
    DETERMINISM,
    THREADS,
    available_cores,
    member_environment,
)


@given(st.integers(1, 512))
def test_threads_are_the_members_cores(cpus: int) -> None:
    environment = member_environment(cpus)
    assert {environment[name] for name in THREADS} == {str(cpus)}


def test_threads_of_the_login_shell_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert member_environment(2)["OMP_NUM_THREADS"] == "2"


def test_settings_are_given_unless_the_user_has_his_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ALLOCATOR, *DETERMINISM):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    environment = member_environment(1)
    expected = {**ALLOCATOR, **DETERMINISM, "MALLOC_TOP_PAD_": "1"}
    assert {name: environment[name] for name in expected} == expected


def test_cores_are_those_of_this_process_not_of_the_node() -> None:
    code = (
        "import os; from cluster.environment import available_cores; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(available_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
