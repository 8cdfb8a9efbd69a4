"""Laws of how ranks find each other: all of them or a clear error, and nobody else."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from socket import create_server

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ranks import place

from cluster.distributed.meeting import Invitation, Meeting, RankLost, _hosts, _reach
from cluster.distributed.place import Place, own_devices, task_environment
from cluster.stage import Stage


def test_all_ranks_meet_and_leave_no_trace(tmp_path: Path) -> None:
    meetings = [Meeting(tmp_path, place(rank, 3), 60.0) for rank in range(3)]
    with ThreadPoolExecutor(3) as threads:
        # Rank 0 comes last.
        stores = list(threads.map(lambda meeting: meeting.join(5), reversed(meetings)))
    stores[0].set("word", "heard")
    assert [store.get("word") for store in stores] == [b"heard"] * 3
    assert [meeting.invitation().attempt for meeting in meetings[1:]] == [5, 5]
    assert list(tmp_path.iterdir()) == []


def test_the_others_hear_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "meeting-of-an-attempt-that-was-killed.json").write_text("{}")
    Meeting(tmp_path, place(0, 2)).call_off()
    assert Meeting(tmp_path, place(1, 2)).invitation().attempt is None
    assert len(list(tmp_path.iterdir())) == 1


def test_who_does_not_come_is_named(tmp_path: Path) -> None:
    with pytest.raises(RankLost, match=r"rank 0 of 3 .* of 3 ranks, \[1, 2\] did not come within"):
        Meeting(tmp_path, place(0, 3), 0.1).join(1)
    with pytest.raises(RankLost, match=r"rank 1 of 3 .* rank 0 did not write .*meeting-other"):
        Meeting(tmp_path, replace(place(1, 3), meeting="other"), 0.1).join(1)


def test_rank_0_is_reached_from_another_machine_by_name_or_address(tmp_path: Path) -> None:
    store = Meeting(tmp_path, place(0, 1), 30.0).join(1)
    hosts = ("no-such-host.invalid", *_hosts())
    token = store.get("token").decode()
    invitation = Invitation(1, store.port, "another machine", hosts, token)
    assert _reach(invitation, place(1, 2)).get("token").decode() == token


def test_another_program_at_the_same_port_is_not_joined(tmp_path: Path) -> None:
    store = Meeting(tmp_path, place(0, 1), 30.0).join(1)
    wrong = Invitation(1, store.port, "another machine", ("127.0.0.1",), "of another meeting")
    with create_server(("127.0.0.1", 0)) as closed:
        silent = replace(wrong, port=closed.getsockname()[1])
    for invitation in (wrong, silent):
        with pytest.raises(RankLost, match="found it nowhere"):
            _reach(invitation, place(1, 2))


@given(st.integers(1, 8), st.integers(1, 16))
def test_the_gpus_of_a_node_are_shared_out(ranks: int, count: int) -> None:
    visible = ",".join(str(device) for device in range(count))
    shares = [own_devices(visible, place(rank, ranks)) for rank in range(ranks)]
    if ranks == 1 or count < ranks:
        assert set(shares) == {None}  # bound already, or too few
        return
    taken = [device for share in shares for device in (share or "").split(",")]
    assert len(set(taken)) == len(taken) == ranks * (count // ranks)
    assert set(taken) <= set(visible.split(","))


def test_nothing_is_shared_out_where_no_gpu_is_named() -> None:
    assert own_devices(None, place(1, 2)) is None
    assert own_devices("", place(1, 2)) is None


def test_a_task_knows_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, "train", nodes=2, tasks_per_node=2)
    for name, value in task_environment(3, 4, "tonight").items():
        monkeypatch.setenv(name, value)
    assert Place.of_this_task(stage) == Place(3, 4, 3, 2, "tonight", os.getppid())
    monkeypatch.delenv("YAOKI_MEETING")
    for name, value in {"JOB_ID": "7", "RESTART_COUNT": "2", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert Place.of_this_task(stage) == Place(3, 4, 1, 2, "7.2")
    with pytest.raises(RuntimeError, match=r"one of 2 tasks .* found SLURM_STEP_NUM_TASKS=4"):
        Place.of_this_task(replace(stage, nodes=1))


def test_an_invitation_reads_as_it_was_written(tmp_path: Path) -> None:
    meeting = Meeting(tmp_path, place(1, 2))
    written = Invitation(3, 4000, "here", ("n0", "10.0.0.1"), "ab")
    record = {**written.__dict__, "hosts": list(written.hosts)}
    (tmp_path / "meeting-here.json").write_text(json.dumps(record))
    assert meeting.invitation() == written
