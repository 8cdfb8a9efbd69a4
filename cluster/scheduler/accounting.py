"""What Slurm's accounting database says of how much one user may have in the queue."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.scheduler import slurm


@dataclass(frozen=True)
class SubmitLimit:
    """A bound on the jobs that wait and run at the same time.

    Attributes:
        name: What it is called and whose it is, e.g. ``GrpSubmitJobs of account 'physics'``.
        jobs: The bound.
        counted: Options of squeue that select the jobs which count.
    """

    name: str
    jobs: int
    counted: tuple[str, ...]

    def taken(self) -> int:
        """How many jobs count against it now.

        Raises:
            SlurmError: Slurm did not answer.
        """
        command = ["squeue", "--noheader", "--array", "--format=%i"]
        return len(slurm.run([*command, *self.counted]).split())


@dataclass(frozen=True)
class Books:
    """The entries that bound what one user submits on one cluster.

    Args:
        cluster: Slurm's name of the cluster.
        user: The user's name.
    """

    cluster: str
    user: str

    def submit_limits(
        self, account: str | None, qos: str | None, partition: str | None
    ) -> list[SubmitLimit]:
        """The bounds that hold for jobs that name these, or name none and get the defaults.

        A bound of a QOS takes the place of those of its kind further down: Slurm looks at the
        partition's QOS, the job's, then the user's association and the accounts above it.

        Raises:
            SlurmError: Slurm did not answer.
        """
        account = account or self._default_account()
        own = self._association(account, partition)
        first: dict[str, SubmitLimit] = {}
        for entry in self._qos_in_order(qos or own.get("defaultqos", ""), partition):
            for kind, limit in self._of_qos(entry, account):
                first.setdefault(kind, limit)
        below = [*self._of_association(own, account), *self._of_accounts(account)]
        return [*first.values(), *(limit for kind, limit in below if kind not in first)]

    def _default_account(self) -> str:
        rows = _show("user", self.user, fields=("defaultaccount",))
        return rows[0]["defaultaccount"] if rows else ""

    def _association(self, account: str, partition: str | None) -> dict[str, str]:
        where = (f"user={self.user}", f"account={account}", f"cluster={self.cluster}")
        fields = ("partition", "defaultqos", "grpsubmit", "maxsubmit")
        rows = _show("associations", *where, fields=fields)
        # One for the partition alone goes before the general one.
        fitting = [row for row in rows if row["partition"] in (partition, "")]
        return max(fitting, key=lambda row: row["partition"], default={})

    def _of_association(
        self, row: dict[str, str], account: str
    ) -> Iterator[tuple[str, SubmitLimit]]:
        whose = f"user '{self.user}' in account '{account}'"
        mine = (f"--user={self.user}", f"--account={account}")
        for kind, name, field in (
            ("user", "MaxSubmitJobs", "maxsubmit"),
            ("group", "GrpSubmitJobs", "grpsubmit"),
        ):
            if row.get(field, "").isdigit():
                yield kind, SubmitLimit(f"{name} of {whose}", int(row[field]), mine)

    def _of_accounts(self, account: str) -> Iterator[tuple[str, SubmitLimit]]:
        fields = ("account", "parentname", "grpsubmit")
        rows = _show("associations", f"cluster={self.cluster}", "user=", fields=fields)
        tree = {row["account"]: row for row in rows}
        while account in tree:
            row = tree.pop(account)
            if row["grpsubmit"].isdigit():
                name, counted = f"GrpSubmitJobs of account '{account}'", (f"--account={account}",)
                yield "group", SubmitLimit(name, int(row["grpsubmit"]), counted)
            account = row["parentname"]

    def _qos_in_order(self, name: str, partition: str | None) -> list[dict[str, str]]:
        fields = ("name", "flags", "grpsubmit", "maxsubmitpu", "maxsubmitpa")
        names = [_partition_qos(partition), name]
        rows = [row for n in names if n for row in _show("qos", n, fields=fields)]
        # This flag of the job's QOS puts it before the partition's.
        return sorted(rows, key=lambda row: "OverPartQOS" not in row["flags"])

    def _of_qos(self, row: dict[str, str], account: str) -> Iterator[tuple[str, SubmitLimit]]:
        selected = f"--qos={row['name']}"
        for kind, name, field, counted in (
            ("user", "MaxSubmitJobsPerUser", "maxsubmitpu", (f"--user={self.user}",)),
            ("account", "MaxSubmitJobsPerAccount", "maxsubmitpa", (f"--account={account}",)),
            ("group", "GrpSubmitJobs", "grpsubmit", ()),
        ):
            if row[field].isdigit():
                whose = f"{name} of QOS '{row['name']}'"
                yield kind, SubmitLimit(whose, int(row[field]), (*counted, selected))


def _partition_qos(partition: str | None) -> str:
    """The QOS of the first of the partitions that has one, of the default partition for None."""
    text = slurm.run(["scontrol", "show", "partition", "--oneliner"])
    wanted = partition.split(",") if partition else []
    for line in text.splitlines():
        entry: dict[str, str] = dict(re.findall(r"(\w+)=(\S*)", line))
        meant = entry.get("PartitionName") in wanted if wanted else entry.get("Default") == "YES"
        if meant and entry.get("QoS", "N/A") != "N/A":
            return entry["QoS"]
    return ""


def _show(entity: str, *where: str, fields: Sequence[str]) -> list[dict[str, str]]:
    command = ["sacctmgr", "--noheader", "--parsable2", "show", entity, *where]
    text = slurm.run([*command, f"format={','.join(fields)}"], timeout=20)
    lines = [line.split("|") for line in text.splitlines()]
    return [dict(zip(fields, line, strict=True)) for line in lines if len(line) == len(fields)]
