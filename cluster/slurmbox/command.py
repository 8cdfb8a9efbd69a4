"""``yaoki slurmbox``: the verbs of the box on the command line."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields

from .box import SlurmBox
from .cgroups import MemoryControl
from .configuration import BoxSettings
from .directory import default_directory
from .errors import SlurmBoxError, SlurmUnavailableError
from .packages import install_packages
from .status import BoxStatus

OK, FAILED, NOT_UP = 0, 1, 3
UNAVAILABLE = os.EX_UNAVAILABLE  # 69: packages or root are missing

_POLLING_NOTE = (
    "note: no memory controller of cgroups can be used here, so Slurm samples memory every second; "
    "a job over its memory ends as FAILED with signal 9, not as OUT_OF_MEMORY"
)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``slurmbox`` to a command line.

    The chosen verb is left in the namespace as ``handler``: call ``handler(arguments)``
    for the exit code.
    """
    parser = subparsers.add_parser("slurmbox", help="a real Slurm on this machine, to try jobs on")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    up = _verb(verbs, "up", _up, "start it, or heal what is dead of it")
    _size_options(up)
    down = _verb(verbs, "down", _down, "cancel its jobs and stop every daemon")
    down.add_argument("--purge", action="store_true", help="remove its directory too")
    _verb(verbs, "status", _status, f"what runs; exit code {NOT_UP} unless all is well")
    _verb(verbs, "env", _env, 'shell lines for `eval "$(yaoki slurmbox env)"`')
    install = verbs.add_parser("install", help="install the Debian packages it needs (as root)")
    install.set_defaults(handler=lambda arguments: _guarded(_install, arguments))


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    handler: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--directory",
        default=None,
        help=f"where the box lives (YAOKI_SLURMBOX where it is set; now {default_directory()})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for a program to read")
    parser.set_defaults(handler=lambda arguments: _guarded(handler, arguments))
    return parser


def _size_options(parser: argparse.ArgumentParser) -> None:
    default = BoxSettings()
    group = parser.add_argument_group("size, kept until it is started from nothing with another")
    group.add_argument("--nodes", type=int, help=f"number of nodes ({default.nodes})")
    group.add_argument("--cpus", type=int, help=f"CPUs that a node offers ({default.cpus})")
    group.add_argument("--memory", type=int, help=f"MB that a node offers ({default.memory})")
    group.add_argument(
        "--memory-control",
        type=MemoryControl,
        choices=list(MemoryControl),
        help="what limits a job's memory (the best this machine has)",
    )


def _guarded(handler: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    try:
        return handler(arguments)
    except SlurmUnavailableError as error:
        print(f"yaoki slurmbox: {error}", file=sys.stderr)
        return UNAVAILABLE
    except (SlurmBoxError, ValueError) as error:
        print(f"yaoki slurmbox: {error}", file=sys.stderr)
        return FAILED


def _up(arguments: argparse.Namespace) -> int:
    names = [field.name for field in fields(BoxSettings)]
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    box = SlurmBox(arguments.directory, BoxSettings(**given) if given else None)
    status = box.up()
    if arguments.json:
        _print_json(status)
        return OK
    _print_status(status)
    print(f"\nTo use it in this shell:\n{_exports(box)}")
    return OK


def _down(arguments: argparse.Namespace) -> int:
    box = SlurmBox(arguments.directory)
    box.down(purge=arguments.purge)
    if arguments.json:
        _print_json(box.status())
    else:
        print(f"the Slurm box in {box.directory} is down")
    return OK


def _status(arguments: argparse.Namespace) -> int:
    status = SlurmBox(arguments.directory).status()
    if arguments.json:
        _print_json(status)
    else:
        _print_status(status)
    return OK if status.ready else NOT_UP


def _env(arguments: argparse.Namespace) -> int:
    box = SlurmBox(arguments.directory)
    if not box.status().running:
        raise SlurmBoxError(
            f"the Slurm box in {box.directory} is down: start it with `yaoki slurmbox up`"
        )
    print(json.dumps(box.environment) if arguments.json else _exports(box))
    return OK


def _install(arguments: argparse.Namespace) -> int:
    installed = install_packages()
    print(f"installed: {', '.join(installed)}" if installed else "nothing is missing")
    return OK


def _exports(box: SlurmBox) -> str:
    return "\n".join(f"export {key}={shlex.quote(value)}" for key, value in box.environment.items())


def _print_json(status: BoxStatus) -> None:
    print(json.dumps(status.as_dict(), indent=2))


def _print_status(status: BoxStatus) -> None:
    word = "up" if status.ready else "in pieces" if status.running else "down"
    print(f"Slurm box in {status.directory}: {word}")
    for daemon in status.daemons:
        print(f"  {daemon.name:<12} {f'pid {daemon.pid}' if daemon.alive else 'dead'}")
    for node in status.nodes:
        print(f"  node {node.name:<7} {node.state}")
    if status.daemons:
        print(f"  accounting   {'answers' if status.accounting else 'does not answer'}")
        print(f"  memory       {status.memory_control}")
    if status.memory_control == MemoryControl.POLLING:
        print(_POLLING_NOTE)
