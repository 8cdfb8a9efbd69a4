"""``plan``, ``run``, ``submit``: a job from its configuration."""

import argparse
import hashlib
import json
import signal
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.executor import Backend
from cluster.scheduler import slurm
from cluster.submitting.submission import Script
from jobs.catalog import DEFAULT_PRESET, WORKLOADS
from jobs.commands.exits import FAILED, OK
from jobs.commands.results import score_lines
from jobs.commands.selection import add_runs_option
from jobs.dependencies import placeholder
from jobs.launch import Launcher
from pipelines.config import Config, Resolved
from pipelines.plan import Plan, StagePlan


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module."""
    plan = _parser(commands, "plan", _plan, "show what would run, and check it; changes nothing")
    plan.add_argument("--smoke", action="store_true", help="also take one step of the first member")
    plan.add_argument("--scripts", action="store_true", help="print every batch script in full")
    plan.add_argument(
        "--explain",
        action="store_true",
        help="say of each value where it is from and what it means",
    )
    run = _parser(commands, "run", _run, "run a job on this machine, or go on with it")
    run.add_argument(
        "--workers", type=_positive, help="members at once, at most (default: what the cores hold)"
    )
    run.add_argument("--inline", action="store_true", help="run members one by one in this process")
    submit = _parser(commands, "submit", _submit, "send a job to Slurm, or what is left of it")
    submit.add_argument(
        "--wait-for-room",
        action="store_true",
        help="where Slurm takes fewer members at once, stay and send the rest as room comes",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found '{text}'")
    return int(text)


def _parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    handler: Any,
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("job", choices=list(WORKLOADS), help="the workload")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="values in place of the file's"
    )
    parser.add_argument(
        "--preset", default=DEFAULT_PRESET, help=f"named values (default: {DEFAULT_PRESET})"
    )
    add_runs_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON for a program to read")
    parser.set_defaults(handler=handler)
    return parser


def resolve(arguments: argparse.Namespace) -> tuple[Plan, Resolved[Config]]:
    """The plan that the arguments ask for."""
    workload = WORKLOADS[arguments.job]
    resolved = workload.resolve(arguments.preset, arguments.overrides)
    return workload.plan(resolved.config, arguments.runs), resolved


def _plan(arguments: argparse.Namespace) -> int:
    plan, resolved = resolve(arguments)
    has_slurm = slurm.available()
    launcher = Launcher(plan, "slurm" if has_slurm else "local")
    scripts = [_script_record(stage, script, has_slurm) for stage, script in launcher.scripts()]
    record = plan.record() | {"directory": str(plan.directory), "scripts": scripts}
    if arguments.smoke:
        record["smoke"] = _smoke(plan)
    if arguments.json:
        print(json.dumps(record, indent=1))
    else:
        _print_plan(record, resolved, arguments)
    return FAILED if any(script["accepted"] is False for script in scripts) else OK


def _script_record(stage: StagePlan, script: Script, has_slurm: bool) -> dict[str, Any]:
    accepted, said = _checked(script.text) if has_slurm else (None, None)
    return {
        "stage": stage.name,
        "path": str(script.path),
        "members": list(script.indices),
        "sha256": hashlib.sha256(script.text.encode()).hexdigest(),
        "accepted": accepted,
        "slurm": said,
        "text": script.text,
    }


def _checked(text: str) -> tuple[bool, str]:
    """What ``sbatch --test-only`` says of a script, without its dependency on unknown jobs."""
    lines = [line for line in text.splitlines() if not line.startswith("#SBATCH --dependency")]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "script.sh"
        path.write_text("\n".join(lines))
        try:
            return True, slurm.test_only(path)
        except slurm.SlurmError as error:
            return False, str(error)


def _smoke(plan: Plan) -> dict[str, Any]:
    from cluster.rehearsal import rehearse

    first = plan.stages[0]
    seconds = rehearse(first.function, plan.config)
    return {"member": f"{first.name}/0000", "seconds": round(seconds, 3)}


def _print_plan(
    record: dict[str, Any], resolved: Resolved[Config], arguments: argparse.Namespace
) -> None:
    from pipelines.config import dump_yaml

    print(f"{record['job']}, preset {resolved.preset}, plan {record['digest'][:10]}")
    print(f"would run in {record['directory']}\n")
    print(resolved.explain() if arguments.explain else dump_yaml(resolved.config))
    print(f"{'stage':<12}{'members':>8}{'cpus':>6}{'gpus':>6}{'memory':>9}{'time':>14}  waits for")
    waits = ["", *(_waits_for(*pair) for pair in pairwise(record["stages"]))]
    for stage, waits_for in zip(record["stages"], waits, strict=True):
        ask = stage["resources"]
        print(
            f"{stage['name']:<12}{stage['members']:>8}{ask['cpus']:>6}{ask['gpus']:>6}"
            f"{ask['memory']:>9}{ask['time']:>14}  {waits_for}".rstrip()
        )
    _print_scripts(record["scripts"], arguments.scripts)
    if "smoke" in record:
        print(f"\none step of {record['smoke']['member']}: {record['smoke']['seconds']} s")


def _waits_for(before: dict[str, Any], stage: dict[str, Any]) -> str:
    ways = {"all": "all of {}", "each": "its own member of {}", "end": "{} to end"}
    return ways[stage["wait"]].format(before["name"])


def _print_scripts(scripts: list[dict[str, Any]], in_full: bool) -> None:
    print()
    for script in scripts:
        print(f"{script['path']}  sha256 {script['sha256'][:12]}  {len(script['members'])} members")
        print(f"    {script['slurm'] or 'not checked: there is no Slurm here'}")
        if in_full:
            print("\n" + script["text"])
    print(f"'{placeholder('STAGE')}' stands for the id that Slurm will give to that array")


def _run(arguments: argparse.Namespace) -> int:
    plan, _ = resolve(arguments)
    backend: Backend = "inline" if arguments.inline else "local"
    return run_here(Launcher(plan, backend, arguments.workers), arguments.json)


def run_here(launcher: Launcher, as_json: bool) -> int:
    """Run on this machine whatever is left of a plan, and tell what came of it."""
    from jobs.commands.progress import watching
    from jobs.page import write_page

    run = launcher.plan.directory
    # TERM ends like Ctrl-C: the members are asked to save, and the same command goes on.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        launcher.lay_out()
        with watching(run, quiet=as_json) as watch:
            worked = launcher.run(watch)
    except KeyboardInterrupt as error:
        text = "interrupted; the members have saved, the same command goes on"
        raise KeyboardInterrupt(text) from error
    if worked:
        write_page(run)  # the one that collect has written says that it is still at work
    elif not as_json:
        print(f"nothing to do: every member of {run.name} has finished")
    _print_outcome(run, as_json)
    return OK


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _print_outcome(run: Path, as_json: bool) -> None:
    path = run / "report" / "evaluation.json"
    scores: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    if as_json:
        print(json.dumps({"run": str(run), "scores": scores}, indent=1))
        return
    print(f"\nrun       {run}")
    for line in score_lines(scores):
        print(f"          {line}")
    print(f"ensemble  {run / 'ensemble.zarr'}   sealed; 'yaoki verify' checks every byte")
    print(f"report    {run / 'report' / 'index.html'}")


def _submit(arguments: argparse.Namespace) -> int:
    if not slurm.available():
        raise slurm.SlurmError(
            "expected a Slurm that answers 'scontrol ping' here, found none. Submit from a login "
            "node, run on this machine with 'yaoki run', or try 'yaoki slurmbox up'."
        )
    plan, _ = resolve(arguments)
    launcher = Launcher(plan, "slurm", wait_for_room=arguments.wait_for_room)
    launcher.lay_out()
    sent = launcher.submit()
    if arguments.json:
        print(json.dumps({"run": str(plan.directory), "jobs": sent}, indent=1))
        return OK
    for stage, jobs in sent.items():
        print(f"{stage:<12}{', '.join(jobs)}")
    if not sent:
        print("nothing to submit: every member is finished, queued or running", file=sys.stderr)
    print(f"run in {plan.directory}; follow it with 'yaoki status --watch'")
    return OK
