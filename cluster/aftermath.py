"""After an attempt: note an end that nothing in the process could note, and requeue.

``python -m cluster.aftermath RUN STAGE INDEX STATUS`` is the exit trap of the batch script. It is
the only place that asks Slurm to requeue: one requeue a member, however many processes it had.
"""

import os
import signal
import sys
from pathlib import Path

from cluster import slurm
from cluster.cause import Cause, JobFacts
from cluster.ledger import here
from cluster.member import Member
from cluster.stage import Stage, wants_another_attempt


def main(arguments: list[str]) -> int:
    """Settle the attempt of the job that is ending, and requeue it where it should run again."""
    run, stage_name, index, status = arguments
    stage = Stage.load(Path(run), stage_name)
    member = stage.member(int(index) + int(os.environ.get("SLURM_ARRAY_TASK_ID", 0)))
    job = slurm.own_job_id()
    facts = slurm.job_facts(job) if job else None
    if int(status) != 0 and not _started_here(member):
        # Killed before it could open an attempt; without one it would be requeued for nothing.
        member.ledger.start(here())
    settle(member, int(status), facts)
    if job and wants_another_attempt(member, stage.budgets) and _may_requeue(facts):
        try:
            slurm.requeue(job)
        except slurm.SlurmError as error:
            print(f"{member.name}: not requeued, 'yaoki retry' will: {error}", file=sys.stderr)
    return int(status)


def settle(
    member: Member, status: int, facts: JobFacts | None = None, log: Path | None = None
) -> None:
    """Note the end of an attempt that was killed, from the exit status of its process.

    Args:
        member: Whose attempt it is; nothing happens where its end is noted already.
        status: As a shell gives it (128 + signal) or as ``subprocess`` does (-signal).
        facts: What Slurm says of the job.
        log: Where the process wrote what it had to say.
    """
    number = member.ledger.open_attempt()
    if number is not None:
        detail = {} if log is None else {"error": f"the worker ended unheard; see {log}"}
        cause = _killed_cause(member, status, facts)
        member.ledger.end(number, cause, status=status, **detail)


def settle_lost_attempt(member: Member) -> None:
    """Note the end of an earlier attempt of which nothing was heard.

    A new attempt of the same member starts, so the earlier one is gone: killed with its node, or
    killed so fast that not even the batch script's trap ran.
    """
    number = member.ledger.open_attempt()
    if number is None:
        return
    job = slurm.own_job_id()
    state = slurm.previous_state(job) if job else None
    causes = {"NODE_FAIL": Cause.NODE_FAILURE, "PREEMPTED": Cause.PREEMPTION}
    member.ledger.end(number, causes.get(state or "", Cause.KILLED), slurm_state=state)


def _started_here(member: Member) -> bool:
    """Whether the last attempt is one of this run of the job."""
    attempts, names = member.ledger.attempts(), ("job_id", "restart_count")
    own = here()["slurm"]
    return bool(attempts) and all(
        attempts[-1].where.get("slurm", {}).get(name) == own.get(name) for name in names
    )


def _killed_cause(member: Member, status: int, facts: JobFacts | None) -> Cause:
    if not member.ledger.wanted():
        return Cause.CANCELLED
    if facts is not None and facts.out_of_memory:
        return Cause.HOST_OOM
    ended_by = facts.ended_by() if facts is not None else None
    if ended_by is not None:
        return ended_by
    number = -status if status < 0 else status - 128
    return Cause.KILLED if number in {s.value for s in signal.Signals} else Cause.ERROR


def _may_requeue(facts: JobFacts | None) -> bool:
    """Whether Slurm leaves it to us: it would bring a cancelled job back to life if asked."""
    return facts is None or facts.running or facts.ended_by() is Cause.TIMEOUT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
