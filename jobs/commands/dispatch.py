"""The parser of the command line, and what becomes of the errors of a command."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from jobs.commands.exits import INTERRUPTED, OK, exit_code

#: What adds which commands, in the order in which ``--help`` lists them.
_COMMANDS = {
    "jobs.commands.launch:add_parsers": ("plan", "run", "submit"),
    "jobs.commands.status:add_parsers": ("status",),
    "jobs.commands.watch:add_parsers": ("watch",),
    "jobs.commands.report:add_parsers": ("report",),
    "jobs.commands.compare:add_parsers": ("compare",),
    "jobs.commands.logs:add_parsers": ("logs",),
    "jobs.commands.steer:add_parsers": ("cancel", "retry"),
    "jobs.commands.results:add_parsers": ("collect", "verify"),
    "jobs.commands.stats:add_parsers": ("stats",),
    "jobs.commands.sync:add_parsers": ("sync",),
    "jobs.commands.data:add_parsers": ("repack",),
    "jobs.commands.fit:add_parsers": ("fit",),
    "jobs.commands.doctor:add_parsers": ("doctor",),
    "cluster.slurmbox:add_parser": ("slurmbox",),
}

_EPILOG = """exit codes: 0 done; 1 members failed or the ensemble is damaged; 2 bad command or
configuration; 69 Slurm, W&B or a package is missing; 74 the disk refused; 130 interrupted, to be
continued with the same command"""


def dispatch(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; an expected error is one message, no traceback."""
    namespace = _parse(arguments)
    try:
        code: int = namespace.handler(namespace)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, `head` say, has seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", INTERRUPTED)
    except Exception as error:
        expected = exit_code(error)
        if expected is None:
            raise
        return _fail(error, expected)
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    # argparse takes all positional arguments of a subcommand in one place. Overrides may stand
    # anywhere, behind options too: those are what it leaves over.
    top = parser(sys.argv[1:] if arguments is None else arguments)
    namespace, rest = top.parse_known_args(arguments)
    strange = [text for text in rest if text.startswith("-") or "=" not in text]
    if strange or (rest and not hasattr(namespace, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        namespace.overrides = [*namespace.overrides, *rest]
    return namespace


def parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of a command line: with the command that it calls, or with all, as for help."""
    top = argparse.ArgumentParser(
        prog="yaoki",
        description="Array jobs on Slurm in which no fault costs more than the step it interrupts.",
        epilog=_EPILOG,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    called = [adder for adder, verbs in _COMMANDS.items() if set(arguments[:1]) & set(verbs)]
    for adder in called or _COMMANDS:
        module, _, name = adder.partition(":")
        getattr(import_module(module), name)(commands)
    return top


class _Version(argparse.Action):
    """As argparse's own, but the version is looked up when it is asked for: that takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"yaoki {version('yaoki')}")
        parser.exit()


def _fail(error: object, code: int) -> int:
    print(f"yaoki: {error}", file=sys.stderr)
    return code
