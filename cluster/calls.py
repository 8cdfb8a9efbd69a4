"""What a member is to do and what came of it, as pickles."""

import io
import os
import pickle
import struct
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import cloudpickle

from cluster.records.fence import Fence
from cluster.records.files import replacing, unfenced, write_atomic
from cluster.records.member import Member
from cluster.stage import RunError

#: The end of a file of calls: where its table of contents begins.
_TRAILER = struct.Struct("<Q")


class RemoteError(Exception):
    """A member failed with an exception that could not be carried over; its text was."""


def text_of(error: BaseException) -> str:
    """What an exception says; there are some that fail to say anything."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


@dataclass(frozen=True)
class Call:
    """A function and its arguments.

    The function may be named (``"package.module:function"``): it is then imported on the node
    alone, and laying the call down imports nothing.
    """

    function: Callable[..., Any] | str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def resolve(self) -> Callable[..., Any]:
        """The function itself."""
        if callable(self.function):
            return self.function
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function

    def save(self, member: Member) -> None:
        """Lay the call down in the member's directory, in place of the one it had."""
        member.directory.mkdir(parents=True, exist_ok=True)
        write_atomic(member.call_file, cloudpickle.dumps(self))

    @staticmethod
    def load(member: Member) -> "Call":
        """Read the call of a member."""
        try:
            content = member.call_file.read_bytes()
        except FileNotFoundError:
            return _saved_call(member)
        call = pickle.loads(content)
        assert isinstance(call, Call)
        return call


def save_calls(stage: Path, first: int, calls: Sequence[Call]) -> None:
    """Lay the calls of an array down in one file, whole or not at all.

    A function is pickled once for all of its calls. What it shares with the arguments of a call
    is still one object when that call is loaded.

    Args:
        stage: The directory of the stage.
        first: The index of the member that makes the first call; the others follow it.
        calls: What each member is to do.
    """
    if not calls:
        return
    path = _calls_file(stage, first)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        pickled: dict[int, tuple[int, int]] = {}
        packers: dict[int, _Packer] = {}
        places = []
        for call in calls:
            if id(call.function) not in packers:
                packers[id(call.function)] = _Packer(file, call.function)
            if id(call) not in pickled:  # often a stage makes one call many times
                pickled[id(call)] = packers[id(call.function)].add(call)
            places.append((packers[id(call.function)].place, pickled[id(call)]))
        index = file.tell()
        pickle.dump(places, file)
        file.write(_TRAILER.pack(index))


def forget_calls(stage: Path, first: int) -> None:
    """Remove what :func:`save_calls` laid down."""
    _calls_file(stage, first).unlink(missing_ok=True)


def _calls_file(stage: Path, first: int) -> Path:
    return stage / "calls" / f"{first:06d}.pkl"


def _saved_call(member: Member) -> Call:
    """The call of a member from the file of its array."""
    stage = member.directory.parent
    firsts = [int(path.stem) for path in (stage / "calls").glob("[0-9]*.pkl")]
    first = max((first for first in firsts if first <= member.index), default=None)
    if first is None:
        raise RunError(f"{stage}: expected what {member.name} is to do, found nothing")
    with _calls_file(stage, first).open("rb") as file:
        file.seek(-_TRAILER.size, os.SEEK_END)
        file.seek(*_TRAILER.unpack(file.read()))
        places = pickle.load(file)
        content = b"".join(_part(file, place) for place in places[member.index - first])
    parts = pickle.Unpickler(io.BytesIO(content))
    function = parts.load()
    return Call(function, *parts.load())


class _Packer:
    """Pickles a function, and then arguments that may refer to what came with it."""

    def __init__(self, file: BinaryIO, function: Callable[..., Any] | str) -> None:
        self._file = file
        self._buffer = io.BytesIO()
        self._pickler = cloudpickle.Pickler(self._buffer)
        self.place = self._write(function)
        self._known = self._pickler.memo.copy()

    def add(self, call: Call) -> tuple[int, int]:
        """Pickle the arguments of a call and return where they lie."""
        self._pickler.memo = self._known
        return self._write((call.args, call.kwargs))

    def _write(self, part: object) -> tuple[int, int]:
        self._buffer.seek(0)
        self._buffer.truncate()
        self._pickler.dump(part)
        return self._file.tell(), self._file.write(self._buffer.getvalue())


def _part(file: BinaryIO, place: tuple[int, int]) -> bytes:
    start, size = place
    file.seek(start)
    return file.read(size)


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt: a value or an exception with its traceback.

    It names its attempt, so the outcome of an earlier one is never taken for the last one's.
    """

    attempt: int
    value: Any = None
    error: BaseException | None = None
    traceback: str = ""

    def save(self, member: Member) -> None:
        """Write the outcome durably; one that cannot be pickled leaves its text.

        Raises:
            Superseded: A newer attempt of the member has started.
        """
        self.write(member.result_file, Fence(member.ledger, self.attempt).check)

    def write(self, path: Path, fence: Callable[[], None] = unfenced) -> None:
        """Write the outcome under a name, as :meth:`save` does."""
        try:
            content = cloudpickle.dumps(self)
            pickle.loads(content)
        except Exception as error:  # pickling runs the user's code, which may raise anything
            content = cloudpickle.dumps(self._as_text(error))
        write_atomic(path, content, fence)

    @staticmethod
    def load(member: Member) -> "Outcome | None":
        """Read the outcome of a member, or None where no attempt has left one."""
        if not member.result_file.exists():
            return None
        outcome = pickle.loads(member.result_file.read_bytes())
        assert isinstance(outcome, Outcome)
        return outcome

    @classmethod
    def of_error(cls, attempt: int, error: BaseException) -> "Outcome":
        """The outcome of an attempt that raised."""
        text = "".join(traceback.format_exception(error))
        return cls(attempt, error=error, traceback=text)

    def _as_text(self, why: Exception) -> "Outcome":
        if self.error is not None:
            error = RemoteError(f"{type(self.error).__name__}: {text_of(self.error)}")
            return Outcome(self.attempt, error=error, traceback=self.traceback)
        text = f"the result, a {type(self.value).__name__}, cannot be pickled: {why}"
        return Outcome(self.attempt, error=RemoteError(text), traceback=text)
