"""What was sent of a stage: one line for all the members of an array."""

import time
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from cluster.records.files import append_line, fresh_size, numbered_lines


@dataclass(frozen=True)
class Submission:
    """One line: what was noted of many members at once.

    Attributes:
        end: Where the line ends in its file; whoever saw the file that long has seen the line.
        record: The line.
        bounds: First members of spans, each followed by the first member behind the span.
    """

    end: int
    record: dict[str, Any]
    bounds: list[int]

    def event(self, index: int) -> dict[str, Any] | None:
        """What it says of one member, as its ledger would, or None."""
        if bisect_right(self.bounds, index) % 2 == 0:
            return None
        event = {"event": self.record["event"], "time": self.record["time"]}
        if event["event"] == "sent":
            event["job_id"] = f"{self.record['array']}_{index - self.record['offset']}"
            event["script"] = self.record["script"]
        return event


class Submissions:
    """The submissions of a stage, ``submissions.jsonl`` in its directory.

    To note a thousand members one by one takes a thousand durable writes, most of the time that
    their submission takes. What happens to an array as a whole is noted here in one, and read as
    part of each member's ledger.

    Args:
        stage: The directory of the stage.
    """

    def __init__(self, stage: Path) -> None:
        self.stage = stage

    @property
    def path(self) -> Path:
        """The file."""
        return self.stage / "submissions.jsonl"

    def queued(self, indices: Iterable[int]) -> None:
        """Note that members are about to be submitted, as :meth:`Ledger.queued` does for one."""
        self._append("queued", indices)

    def sent(self, indices: Iterable[int], array: str, offset: int, script: str) -> None:
        """Note what members became.

        Args:
            indices: The members.
            array: The id of their array; its elements are their indices less ``offset``.
            offset: The index of element 0.
            script: The file name of its script.
        """
        self._append("sent", indices, array=array, offset=offset, script=script)

    def withdrawn(self, indices: Iterable[int]) -> None:
        """Note that the submission of members failed, and that nothing came of it."""
        self._append("withdrawn", indices)

    def size(self) -> int:
        """How long the file is: all that ends before was noted earlier than whatever follows."""
        return fresh_size(self.path)

    def read(self) -> list[Submission]:
        """All lines, oldest first."""
        return [
            Submission(end, record, list(chain.from_iterable(record["spans"])))
            for end, record in numbered_lines(self.path)
            if {"event", "spans"} <= record.keys()
        ]

    def _append(self, event: str, indices: Iterable[int], **fields: Any) -> None:
        spans = spans_of(indices)
        if spans:
            append_line(self.path, {"event": event, "time": time.time(), "spans": spans, **fields})


def spans_of(indices: Iterable[int]) -> list[list[int]]:
    """Indices as spans, each its first index and the one behind its last, ascending."""
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and index <= spans[-1][1]:
            spans[-1][1] = index + 1
        else:
            spans.append([index, index + 1])
    return spans
