"""Laws of children: a stop of their owner passes them by, an order of their parent does not.

What a process does with signals cannot be taken back, so each scene is played in one of its own.
"""

import hashlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from cluster import shielded
from cluster.stopping import signals


def _programs() -> None:
    signals.install()
    plain, hooked = _cat(), _cat(preexec_fn=os.getpid)
    with shielded():
        sheltered = _cat()
    for program in (plain, hooked, sheltered):
        program.send_signal(signal.SIGUSR2)
        assert _answers(program)
    sheltered.terminate()
    assert _answers(sheltered)
    for program in (plain, hooked):
        program.terminate()
        assert program.wait() == -signal.SIGTERM
    sheltered.kill()
    assert sheltered.wait() == -signal.SIGKILL


def _strangers_and_parent() -> None:
    flag = signals.install()
    orders, answers = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        while text := os.read(orders[0], 1):
            os.write(answers[1], text)
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM):
        _as_a_stranger(number, child)
        os.write(orders[1], b".")
        assert os.read(answers[0], 1) == b"."
    assert not flag
    _wait_until_received(child)
    os.kill(child, signal.SIGTERM)
    assert _end_of(child) == -signal.SIGTERM


def _an_order_right_after_the_fork() -> None:
    # Before the child is itself, what it receives must not count as its owner's.
    flag = signals.install()
    for _ in range(50):
        child = os.fork()
        if child == 0:
            _forever()
        os.kill(child, signal.SIGTERM)
        assert _end_of(child) == -signal.SIGTERM
    assert not flag
    os.kill(os.getpid(), signal.SIGTERM)
    assert flag.signum == signal.SIGTERM


def _own_handler() -> None:
    signals.install()
    (ready, say_ready), (never, _) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        os.write(say_ready, b".")
        os.read(never, 1)  # nothing but a signal ends this call
        _forever()
    os.read(ready, 1)
    _as_a_stranger(signal.SIGTERM, child)
    _wait_until_received(child)
    os.kill(child, signal.SIGTERM)
    assert _end_of(child) == 7


def _grandchildren() -> None:
    signals.install()
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild == 0:
            _forever()
        os.kill(grandchild, signal.SIGTERM)
        assert _end_of(grandchild) == -signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
        _forever()
    assert _end_of(child) == -signal.SIGTERM


def _orphans() -> None:
    signals.install()
    alive, held = os.pipe()
    child = os.fork()
    if child == 0:
        if orphan := os.fork():
            os.write(held, str(orphan).encode())
            os._exit(0)
        os.close(alive)
        _forever()
    assert _end_of(child) == 0
    os.close(held)
    _as_a_stranger(signal.SIGTERM, int(os.read(alive, 20)))
    assert os.read(alive, 1) == b""  # whoever held the other end is gone


def _pools() -> None:
    flag = signals.install()
    for method in ("fork", "spawn", "forkserver"):
        multiprocessing.set_start_method(method, force=True)
        with multiprocessing.Pool(1) as pool:
            worker = pool.apply(os.getpid)
            _as_a_stranger(signal.SIGTERM, worker)
            assert pool.apply(os.getpid) == worker, method
        process = multiprocessing.Process(target=_forever)
        process.start()
        _wait_until_shielded(process.pid)
        process.terminate()
        process.join()
        assert process.exitcode == -signal.SIGTERM, method
    assert not flag


class _Slow:
    """Takes its time to arrive in another process."""

    def __reduce__(self) -> tuple[Callable[[float], None], tuple[float]]:
        return time.sleep, (0.3,)


def _ended_at_once() -> None:
    # A fork server's child learns only from what it is sent which process asked for it.
    signals.install()
    multiprocessing.set_start_method("forkserver")
    process = multiprocessing.Process(target=_forever, args=(_Slow(),))
    process.start()
    _wait_until_shielded(process.pid)
    process.terminate()
    process.join()
    assert process.exitcode == -signal.SIGTERM


def _long_call(number: int) -> None:
    flag = signals.install()
    inside = threading.Event()

    def send() -> None:
        inside.wait()
        os.kill(os.getpid(), number)
        while flag.signum != number:
            time.sleep(0.01)
        os._exit(0)

    threading.Thread(target=send).start()
    inside.set()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # a quarter of an hour


def _long_call_usr2() -> None:
    _long_call(signal.SIGUSR2)


def _long_call_term() -> None:
    _long_call(signal.SIGTERM)


SCENES = (
    *(_programs, _strangers_and_parent, _an_order_right_after_the_fork, _own_handler),
    *(_grandchildren, _orphans, _pools, _ended_at_once, _long_call_usr2, _long_call_term),
)


@pytest.mark.parametrize("scene", SCENES)
def test_scene(scene: Callable[[], None]) -> None:
    # Newer Pythons warn of forks where there are threads, as there are in any torch process.
    python = [sys.executable, "-P", "-W", "ignore::DeprecationWarning"]
    command = [*python, __file__, scene.__name__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _cat(preexec_fn: Callable[[], object] | None = None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, preexec_fn=preexec_fn
    )


def _answers(program: "subprocess.Popen[bytes]") -> bool:
    # What was sent to it before is dealt with before it can read.
    _pipe(program.stdin).write(b".")
    return _pipe(program.stdout).read(1) == b"."


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _as_a_stranger(number: int, pid: int) -> None:
    subprocess.run(["sh", "-c", f"kill -{number:d} {pid}"], check=True)


def _wait_until_received(pid: int) -> None:
    # Two signals of a kind that wait to be received are one, and it is the first sender's.
    while _has_term(pid, "ShdPnd"):
        time.sleep(0.01)


def _wait_until_shielded(pid: int | None) -> None:
    while not _has_term(pid, "SigBlk"):
        time.sleep(0.001)


def _has_term(pid: int | None, signals_of: str) -> bool:
    text = Path(f"/proc/{pid}/status").read_text().split(f"{signals_of}:")[1]
    return bool(int(text.split()[0], 16) >> signal.SIGTERM - 1 & 1)


def _end_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _forever(*_: object) -> None:
    while True:
        time.sleep(60)


if __name__ == "__mp_main__":
    runpy.run_module("cluster.worker", run_name="__mp_main__")  # the main module of a member

if __name__ == "__main__":
    globals()[sys.argv[1]]()
