"""A new job for members whose old one cannot be requeued: Slurm has forgotten it, or refuses."""

import hashlib
import re
import shlex
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from cluster.cause import Cause
from cluster.memory import hostmemory
from cluster.records.files import write_atomic
from cluster.records.member import Member
from cluster.scheduler.patience import Patience
from cluster.stage import Stage
from cluster.submitting.sending import Parcel
from cluster.submitting.submission import Array, Script


def send_again(stage: Stage, members: Sequence[Member], patience: Patience) -> dict[Member, str]:
    """Send members in new arrays, with the scripts that carried them; their budgets go on.

    Args:
        stage: Their stage.
        members: Members whose last attempt has ended.
        patience: How long a Slurm that is busy is asked again.

    Returns:
        The new job of each member that could be sent. A member is left out where its script is
        not known or not there.

    Raises:
        SlurmError: sbatch refused.
    """
    sent: dict[Member, str] = {}
    groups: dict[tuple[Path, int | None, int], list[Member]] = {}
    for member in members:
        name, job = member.ledger.script(), member.ledger.last_job_id()
        if name and job and (stage.run / "scripts" / name).exists():
            offset = member.index - int(job.partition("_")[2] or 0)
            key = (stage.run / "scripts" / name, _more_memory(member), offset)
            groups.setdefault(key, []).append(member)
    for (path, memory, offset), group in groups.items():
        script = _script(path, [member.index for member in group], offset, memory)
        sent |= _send(stage, script, group, patience)
    return sent


def _send(
    stage: Stage, script: Script, members: Sequence[Member], patience: Patience
) -> dict[Member, str]:
    write_atomic(script.path, script.text.encode())
    for member in members:
        member.ledger.again()
    # A command that was killed here before has left what it sent: that is looked for first.
    parcel = Parcel(script, mark=_mark(members), tries=1)
    array = parcel.send(patience)
    stage.submissions.sent(script.indices, array, script.offset, script.path.name)
    for member in members:
        member.ledger.requeued(member.ledger.attempt_count())
    return {member: f"{array}_{member.index - script.offset}" for member in members}


def _mark(members: Sequence[Member]) -> str:
    """A comment that is the same for the same attempts of the same members."""
    names = [f"{member.directory} {member.ledger.attempt_count()}" for member in members]
    return f"yaoki:{hashlib.sha256(' '.join(names).encode()).hexdigest()[:32]}"


def _more_memory(member: Member) -> int | None:
    """The memory to ask for instead, in MiB, where that is what the last attempt lacked."""
    last = member.ledger.attempts()[-1]
    if last.cause is not Cause.HOST_OOM:
        return None
    memory = hostmemory.offered_sizes(member.ledger)[-1].memory
    return None if memory == hostmemory.given_memory(last.where.get("slurm", {})) else memory


def _script(path: Path, indices: Sequence[int], offset: int, memory: int | None) -> Script:
    """The script of a file for some of its members alone.

    What it waited for has come to pass, and may be forgotten by now.
    """
    text = path.read_text()
    throttled = re.search(r"^#SBATCH --array=\S*%", text, re.MULTILINE)
    array = Array(sorted(indices), offset, share=1, follows=None)
    elements = array.elements() + (f"%{array.share}" if throttled else "")
    text = re.sub(r"^(#SBATCH --array=).*$", rf"\g<1>{elements}", text, flags=re.MULTILINE)
    text = re.sub(r"^#SBATCH --(dependency|kill-on-invalid-dep)=.*\n", "", text, flags=re.MULTILINE)
    if memory is not None:
        text = re.sub(
            r"^#SBATCH --mem(-per-cpu)?=.*$", f"#SBATCH --mem={memory}M", text, flags=re.MULTILINE
        )
    comment = re.search(r"^#SBATCH --comment=(.*)$", text, re.MULTILINE)
    own = shlex.split(comment[1])[0] if comment else ""
    stem = path.stem.partition("-again-")[0]
    names = (path.with_name(f"{stem}-again-{number}.sh") for number in count(1))
    free = next(name for name in names if not name.exists())
    return Script(free, text, array.indices, offset, own)
