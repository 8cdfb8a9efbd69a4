"""A real box: what it promises a job, what it survives, and what it leaves behind."""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.slurmbox import (
    BoxSettings,
    MemoryControl,
    SlurmBox,
    SlurmBoxError,
    add_parser,
    processes,
)
from cluster.slurmbox.daemons import Daemon, program, stop
from cluster.slurmbox.processes import alive
from cluster.slurmbox.steps import end_jobs, step_daemons

ROOT = Path(__file__).parents[2]
CGROUPS = Path("/sys/fs/cgroup")
ALLOCATE = "x = bytearray(300 << 20); x[::4096] = bytes([1]) * len(x[::4096])"


def run(*command: str, box: SlurmBox) -> str:
    """Output of a command that must succeed."""
    return subprocess.run(
        command, env=os.environ | box.environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def submit(box: SlurmBox, directory: Path, script: str, *options: str) -> str:
    """Number of a submitted job; its output goes to ``<number>.out``."""
    path = directory / "job.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    output = f"--output={directory}/%j.out"
    return run("sbatch", "--parsable", "--open-mode=append", output, *options, str(path), box=box)


def states(box: SlurmBox, job: str) -> list[str]:
    """State of each attempt of a job, the oldest first, as accounting has them."""
    listing = run("sacct", "-D", "-n", "-P", "-X", "-j", job, "-o", "state", box=box)
    return listing.splitlines()


def state(box: SlurmBox, job: str) -> str:
    """State of a job as the controller has it."""
    shown = run("scontrol", "show", "job", job, box=box)
    return shown.partition("JobState=")[2].split()[0]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 40.0) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.1)


def command_line(*arguments: str) -> int:
    """Exit code of ``yaoki slurmbox ...``."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    chosen = parser.parse_args(["slurmbox", *arguments])
    code: int = chosen.handler(chosen)
    return code


def in_python(code: str, *wrapper: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds our packages."""
    return subprocess.run(
        [*wrapper, sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slurm
def test_up_of_a_box_that_is_up_changes_nothing(slurmbox: SlurmBox) -> None:
    before = slurmbox.status()
    assert before.ready
    assert slurmbox.up() == before


@pytest.mark.slurm
def test_status_is_json_for_programs(
    slurmbox: SlurmBox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line("status", "--json", "--directory", str(slurmbox.directory)) == 0
    status = json.loads(capsys.readouterr().out)
    assert status == slurmbox.status().as_dict()
    assert [node["name"] for node in status["nodes"]] == ["n0", "n1", "n2", "n3"]
    assert status["accounting"] is True
    for daemon in status["daemons"]:
        assert alive(daemon["pid"])


@pytest.mark.slurm
def test_env_makes_a_shell_use_the_box(
    slurmbox: SlurmBox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line("env", "--directory", str(slurmbox.directory)) == 0
    exports = capsys.readouterr().out
    shell = f'unset SLURM_CONF; eval "{exports}"; scontrol show config'
    shown = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert str(slurmbox.directory) in shown


@pytest.mark.slurm
def test_jobs_end_as_accounting_should_say(slurmbox: SlurmBox, tmp_path: Path) -> None:
    script = f"echo $CUDA_VISIBLE_DEVICES $SLURM_CONF; exec {sys.executable} -c '{ALLOCATE}'"
    fits = submit(slurmbox, tmp_path, script, "--mem=1G", "--gres=gpu:1")
    too_much = submit(slurmbox, tmp_path, script, "--mem=100M")
    wait_for(lambda: states(slurmbox, fits) == ["COMPLETED"], "the job that fits completed")
    assert (tmp_path / f"{fits}.out").read_text() == f"0 {slurmbox.directory}/slurm.conf\n"
    wait_for(lambda: states(slurmbox, too_much) == ["OUT_OF_MEMORY"], "the other was killed")


@pytest.mark.slurm
def test_nodes_take_the_largest_request_they_promise(slurmbox: SlurmBox, tmp_path: Path) -> None:
    options = ("--test-only", "--mem=16G", "--gres=gpu:1", "--time=24:00:00")
    submit(slurmbox, tmp_path, "true", "--cpus-per-task=4", *options)
    with pytest.raises(subprocess.CalledProcessError):
        submit(slurmbox, tmp_path, "true", "--cpus-per-task=5", *options)


@pytest.mark.slurm
def test_an_urgent_job_preempts_and_the_other_runs_again(
    slurmbox: SlurmBox, tmp_path: Path
) -> None:
    whole_node = ("--nodelist=n1", "--cpus-per-task=4")
    first = submit(slurmbox, tmp_path, '[ "$SLURM_RESTART_COUNT" ] || sleep 100', *whole_node)
    wait_for(lambda: state(slurmbox, first) == "RUNNING", "the first job runs")
    urgent = submit(slurmbox, tmp_path, "true", "--partition=urgent", *whole_node)
    wait_for(lambda: states(slurmbox, urgent) == ["COMPLETED"], "the urgent job completed")
    wait_for(
        lambda: states(slurmbox, first) == ["PREEMPTED", "COMPLETED"], "the first one ran again"
    )


@pytest.mark.slurm
def test_a_lost_node_requeues_its_job_and_comes_back(slurmbox: SlurmBox, tmp_path: Path) -> None:
    script = 'echo $$; [ "$SLURM_RESTART_COUNT" ] || exec sleep 100'
    job = submit(slurmbox, tmp_path, script, "--nodelist=n2")
    output = tmp_path / f"{job}.out"
    wait_for(lambda: output.exists() and output.read_text() != "", "the job runs")
    slurmbox.kill_node("n2")
    assert not alive(int(output.read_text()))
    assert {node.name: node.works for node in slurmbox.status().nodes}["n2"] is False
    assert slurmbox.restore_node("n2").ready
    wait_for(lambda: states(slurmbox, job) == ["NODE_FAIL", "COMPLETED"], "the job ran again")


@pytest.mark.slurm
def test_jobs_run_on_through_a_restart_of_the_controller(
    slurmbox: SlurmBox, tmp_path: Path
) -> None:
    job = submit(slurmbox, tmp_path, "sleep 100")
    wait_for(lambda: state(slurmbox, job) == "RUNNING", "the job runs")
    assert slurmbox.restart_controller().ready
    assert state(slurmbox, job) == "RUNNING"
    run("scancel", job, box=slurmbox)
    wait_for(lambda: state(slurmbox, job) == "CANCELLED", "the job is cancelled")


@pytest.mark.slurm
def test_up_heals_what_is_dead(slurmbox: SlurmBox) -> None:
    before = {daemon.name: daemon.pid for daemon in slurmbox.status().daemons}
    for name in ("slurmctld", "slurmd-n3", "mariadbd"):
        pid = before[name]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not slurmbox.status().ready, "the box noticed")
    after = {daemon.name: daemon.pid for daemon in slurmbox.up().daemons}
    assert slurmbox.status().ready
    same = {name for name in before if after[name] == before[name]}
    assert same == {"munged", "slurmdbd", "slurmd-n0", "slurmd-n1", "slurmd-n2"}


@pytest.mark.slurm
def test_a_second_box_stands_beside_and_leaves_nothing(slurmbox: SlurmBox, tmp_path: Path) -> None:
    directory = slurmbox.directory / "second"
    settings = BoxSettings(nodes=1, memory_control=MemoryControl.POLLING)
    with SlurmBox(directory, settings) as second:
        pids = [daemon.pid for daemon in second.status().daemons if daemon.pid is not None]
        assert len(pids) == 5
        script = f"exec {sys.executable} -c '{ALLOCATE}; import time; time.sleep(60)'"
        too_much = submit(second, tmp_path, script, "--mem=100M")
        stubborn = submit(second, tmp_path, "trap '' TERM; echo $$; sleep 100; sleep 100")
        assert int(too_much) > 100_000
        wait_for(lambda: states(second, too_much) == ["FAILED"], "polling found it")
        output = tmp_path / f"{stubborn}.out"
        wait_for(lambda: output.exists() and output.read_text() != "", "the other runs")
    pids.append(int(output.read_text().split()[0]))
    assert not [pid for pid in pids if alive(pid)]
    assert not [one for job in (too_much, stubborn) for one in CGROUPS.rglob(f"job_{job}")]
    assert not SlurmBox(directory).status().running
    assert slurmbox.status().ready
    second.down(purge=True)
    assert not directory.exists()


@pytest.mark.slurm
def test_an_unknown_node_is_refused_by_name(slurmbox: SlurmBox) -> None:
    with pytest.raises(ValueError, match=r"n0, n1, n2, n3, not 'n9'"):
        slurmbox.kill_node("n9")


@pytest.mark.slurm
def test_a_daemon_that_dies_shows_its_log(slurmbox: SlurmBox, tmp_path: Path) -> None:
    for name in ("log", "pid"):
        (tmp_path / name).mkdir()
    files = (f"--key-file={tmp_path}/none", f"--seed-file={tmp_path}/seed")
    command = (program("munged"), "--foreground", *files)
    broken = Daemon("munged", command, tmp_path, socket=tmp_path / "socket")
    broken.start()
    with pytest.raises(
        SlurmBoxError, match=r"(?s)munged, a daemon .* died .*Failed to find keyfile"
    ):
        broken.wait_ready(time.monotonic() + 10)


def test_a_daemon_that_is_just_becoming_its_program_is_not_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("log", "pid"):
        (tmp_path / name).mkdir()
    looked, looks = processes.arguments, itertools.count()

    def while_it_loads(pid: int) -> list[str]:
        found = looked(pid)
        return [] if found[:2] != ["sh", "-c"] and next(looks) < 9 else found

    monkeypatch.setattr(processes, "arguments", while_it_loads)
    daemon = Daemon("sleep", (program("sleep"), "100"), tmp_path, socket=tmp_path / "socket")
    daemon.start()
    try:
        assert daemon.pid() is not None
    finally:
        daemon.kill()


def test_a_process_that_nobody_waits_for_is_gone() -> None:
    assert not processes.gone(os.getpid())
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert processes.gone(process.pid)
    assert processes.gone(process.pid)


def test_a_pid_file_that_names_a_stranger_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "pid").mkdir()
    daemon = Daemon("slurmd-n0", ("slurmd", "-D"), tmp_path, port=1)
    daemon.pid_file.write_text(f"{os.getpid()}\n")
    assert daemon.pid() is None
    stop([daemon])
    assert not daemon.pid_file.exists()


def test_a_node_lost_again_leaves_alone_what_has_moved_on_from_it(tmp_path: Path) -> None:
    socket = tmp_path / "spool/n0/n0_17.0"
    socket.parent.mkdir(parents=True)
    socket.touch()
    first = _step_daemon(tmp_path)
    assert step_daemons(tmp_path, "n0") == {first.pid}
    end_jobs(tmp_path, "n0", range(0))
    assert first.wait() == -signal.SIGKILL
    later = _step_daemon(tmp_path)  # of the same job, by now on another node
    try:
        end_jobs(tmp_path, "n0", range(0))
        assert alive(later.pid)
    finally:
        later.kill()
        later.wait()


def _step_daemon(directory: Path) -> "subprocess.Popen[bytes]":
    """A process that reads like Slurm's for a step of job 17."""
    process = subprocess.Popen(["slurmstepd: [17.0]", "60"], executable="/bin/sleep", cwd=directory)
    wait_for(lambda: alive(process.pid), "the process runs")
    return process


def test_a_box_that_never_was_is_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line("status", "--directory", str(tmp_path / "none")) == 3
    assert "down" in capsys.readouterr().out
    assert command_line("env", "--directory", str(tmp_path / "none")) == 1
    assert "yaoki slurmbox up" in capsys.readouterr().err
    assert command_line("down", "--directory", str(tmp_path / "none")) == 0


@pytest.mark.slurm
def test_a_directory_with_something_else_is_left_alone(slurmbox: SlurmBox) -> None:
    home = slurmbox.directory / "home"  # the path of a test's own directory may be too long
    home.mkdir()
    (home / "thesis.tex").touch()
    with pytest.raises(SlurmBoxError, match="holds no Slurm box"):
        SlurmBox(home).up()
    assert [path.name for path in home.iterdir()] == ["thesis.tex"]


@pytest.mark.slurm
def test_a_directory_that_the_database_cannot_reach_is_refused(
    slurmbox: SlurmBox,
) -> None:
    closed = slurmbox.directory / "state"
    with pytest.raises(SlurmBoxError, match=rf"{closed} is closed to .*chmod o\+x {closed}"):
        SlurmBox(closed / "box").up()
    assert not (closed / "box").exists()


@pytest.mark.slurm
def test_a_missing_package_is_named_with_its_command(slurmbox: SlurmBox) -> None:
    # In a mount namespace of its own, the package's program is hidden from this process alone.
    hide = f'mount --bind /dev/null {program("slurmdbd")} && exec "$@"'
    code = "import sys; from cluster.slurmbox import SlurmBox; SlurmBox('/tmp/never').up()"
    done = in_python(code, "unshare", "--mount", "sh", "-c", hide, "sh")
    assert "needs 1 more Debian package(s): slurmdbd;" in done.stderr
    assert "apt-get install --yes --no-install-recommends slurmdbd" in done.stderr
    assert not Path("/tmp/never").exists()


@pytest.mark.slurm
def test_who_is_not_root_is_told_so(slurmbox: SlurmBox) -> None:
    code = (
        "import argparse, os, sys; from cluster.slurmbox import add_parser;"
        "parser = argparse.ArgumentParser(); add_parser(parser.add_subparsers());"
        "chosen = parser.parse_args(['slurmbox', 'up', '--directory', '/tmp/never']);"
        "os.seteuid(65534); sys.exit(chosen.handler(chosen))"
    )
    done = in_python(code)
    assert done.returncode == 69
    assert "must be started and stopped by root" in done.stderr


@pytest.mark.parametrize(
    ("nodes", "cpus", "memory"), [(0, 4, 16384), (1000, 4, 16384), (4, 0, 16384), (4, 4, 1)]
)
def test_an_impossible_size_is_refused(nodes: int, cpus: int, memory: int) -> None:
    with pytest.raises(ValueError, match="not"):
        BoxSettings(nodes=nodes, cpus=cpus, memory=memory)


def test_importing_the_box_needs_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import cluster.slurmbox;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(new - sys.stdlib_module_names)"
    )
    assert in_python(code).stdout.strip() == "{'cluster'}"
