"""The directory of an array as attempts leave it, without the hours that they take."""

import json
import math
from pathlib import Path

from cluster.cause import Cause
from cluster.records.member import Member
from cluster.stage import Stage
from pipelines.tracking import MetricsLog

#: When the first attempt started, and how long each one takes.
START, LASTS = 1_790_000_000.0, 600.0


def make_array(run: Path, members: int, attempts: int = 2, rows: int = 40) -> Stage:
    """Members that were preempted until their last attempt finished them, with their losses.

    Args:
        run: The run directory.
        members: How many.
        attempts: Of each member.
        rows: Of metrics of each member.
    """
    stage = Stage(run, "train", members=members)
    stage.save()
    for member in stage:
        member.directory.mkdir()
        _write_ledger(member, attempts)
        with MetricsLog(member.directory / "metrics.jsonl", attempts) as log:
            for step in range(1, rows + 1):
                log.log(step, {"loss": (1 + 0.1 * math.sin(member.index)) * math.exp(-step / 20)})
        progress = {"step": rows, "of": rows, "attempt": attempts}
        member.progress_file.write_text(json.dumps(progress))
    return stage


def _write_ledger(member: Member, attempts: int) -> None:
    moment = START + 30.0 * member.index
    events: list[dict[str, object]] = [{"event": "queued", "time": moment}]
    for n in range(1, attempts + 1):
        last = n == attempts
        where = {"host": "n0", "pid": 1, "slurm": {}}
        at = {"attempt": n}
        events.append({"event": "start", "time": moment, "where": where} | at)
        saved = moment - 100 if n > 1 else None
        events.append({"event": "steps", "time": moment + 60, "step": 9, "saved": saved} | at)
        events.append({"event": "usage", "time": moment + 500, "saving_seconds": 20.0} | at)
        cause = Cause.FINISHED if last else Cause.PREEMPTION
        events.append({"event": "end", "time": moment + LASTS, "cause": str(cause)} | at)
        moment += LASTS + 120
    member.ledger.path.write_text("".join(json.dumps(event) + "\n" for event in events))
