"""What a member is to do and what came of it, as pickles in its directory."""

import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import cloudpickle

from cluster.fence import Fence
from cluster.files import write_atomic
from cluster.member import Member


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
        """Lay the call down in the member's directory."""
        member.directory.mkdir(parents=True, exist_ok=True)
        write_atomic(member.call_file, cloudpickle.dumps(self))

    @staticmethod
    def load(member: Member) -> "Call":
        """Read the call of a member."""
        call = pickle.loads(member.call_file.read_bytes())
        assert isinstance(call, Call)
        return call


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
        try:
            content = cloudpickle.dumps(self)
            pickle.loads(content)
        except Exception as error:  # pickling runs the user's code, which may raise anything
            content = cloudpickle.dumps(self._as_text(error))
        write_atomic(member.result_file, content, Fence(member.ledger, self.attempt).check)

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
