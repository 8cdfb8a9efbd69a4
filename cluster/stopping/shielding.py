"""Children that work on while their owner answers a stop.

Slurm sends its signals to every process of a step. A child that dies of one takes the step in
flight with it. USR2 is blocked in the owner, and every child inherits that. TERM cannot be: it is
also how a parent ends its child, and the two differ by the sender alone, which no handler written
in Python is told. So children forked from Python block TERM and have a thread that receives it,
passes on what comes from the parent, and drops the rest.

As in :mod:`cluster.stopping.signals`, nothing that is slow to import is imported at the top.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

_fork = threading.local()


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Block TERM in this thread, and so in every program that is started meanwhile.

    A program inherits the block, so that it neither dies of a preemption nor of
    ``Popen.terminate()``: end it with ``kill()``. USR2 is blocked in all of them as it is.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@functools.cache  # hooks cannot be taken back, and must not run twice
def shield_forks() -> None:
    """Have every child that Python forks from this process, and its forks, :func:`shield` itself.

    A fork that :mod:`subprocess` makes to start a program is left alone.
    """
    os.register_at_fork(before=_before, after_in_parent=_restore_mask, after_in_child=_in_child)


def shield(parent: int, spawned: bool = False) -> None:
    """Drop every TERM to this process but for those that ``parent`` sends, or nobody's child gets.

    Whatever this process does on TERM, dying by default, it does on its parent's.

    Args:
        parent: Process id of the parent.
        spawned: Whether :mod:`multiprocessing` is about to tell for whom this process is: where a
            fork server is the parent, it is for another one, whose TERM counts as well.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGURG, lambda *_: None)  # wakes the main thread, see _pass_on
    receive = functools.partial(_receive, parent, spawned)
    threading.Thread(target=receive, name="yaoki-shield", daemon=True).start()


def dismiss_children() -> None:
    """End the processes that :mod:`multiprocessing` would wait for when this one exits."""
    from multiprocessing import process

    children = process.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(timeout=1.0)
        child.kill()


def _before() -> None:
    # Blocked before the fork: the child would else run the owner's handler until it is shielded.
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _fork.parent = os.getpid()


def _restore_mask() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def _in_child() -> None:
    signal.set_wakeup_fd(-1)  # it tells the owner
    forker = sys._getframe(1).f_globals["__name__"]
    if forker == "subprocess":  # a Popen with a preexec_fn
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _restore_mask()
    else:
        shield(_fork.parent, spawned=forker == "multiprocessing.forkserver")


def _receive(parent: int, spawned: bool) -> None:
    while True:
        sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
        masters = {os.getpid(), parent}
        if os.getppid() != parent or sender in masters or sender == _asker(spawned):
            _pass_on()


def _asker(spawned: bool) -> int | None:
    """The process that had :mod:`multiprocessing` make this one, if any did."""
    from multiprocessing import process

    # An order may come before it is known whose it is: until all that the child needs is unpickled.
    while spawned and process.parent_process() is None:
        time.sleep(0.01)
    asker = process.parent_process()
    return asker.pid if asker else None


def _pass_on() -> None:
    """Let TERM take its course: the default, a handler in C (torch's), or one in Python."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.raise_signal(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # Python runs its handlers in the main thread, which may be waiting in a system call.
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGURG)
