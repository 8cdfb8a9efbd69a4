"""The parser of the command line, and what becomes of the errors of a command."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cluster import slurmbox
from cluster.slurm import SlurmError
from cluster.stage import RunError
from jobs.commands import data, doctor, launch, logs, report, results, status, steer
from jobs.commands.exits import FAILED, INTERRUPTED, IO_ERROR, OK, UNAVAILABLE, USAGE
from jobs.launch import StageFailedError
from pipelines.config import ConfigError

_EPILOG = """exit codes: 0 done; 1 members failed or the ensemble is damaged; 2 bad command or
configuration; 69 Slurm or a package is missing; 74 the disk refused; 130 interrupted, to be
continued with the same command"""


def dispatch(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; an expected error is one message, no traceback."""
    namespace = _parse(arguments)
    try:
        code: int = namespace.handler(namespace)
        sys.stdout.flush()
    except (ConfigError, RunError) as error:
        return _fail(error, USAGE)
    except StageFailedError as error:
        return _fail(error, FAILED)
    except SlurmError as error:
        return _fail(error, UNAVAILABLE)
    except BrokenPipeError:
        # The reader, `head` say, has seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        return _fail(error, IO_ERROR)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", INTERRUPTED)
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    # argparse takes all positional arguments of a subcommand in one place. Overrides may stand
    # anywhere, behind options too: those are what it leaves over.
    top = parser()
    namespace, rest = top.parse_known_args(arguments)
    strange = [text for text in rest if text.startswith("-") or "=" not in text]
    if strange or (rest and not hasattr(namespace, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        namespace.overrides = [*namespace.overrides, *rest]
    return namespace


def parser() -> argparse.ArgumentParser:
    """The parser with every subcommand."""
    top = argparse.ArgumentParser(
        prog="yaoki",
        description="Array jobs on Slurm in which no fault costs more than the step it interrupts.",
        epilog=_EPILOG,
    )
    top.add_argument("--version", action="version", version=f"yaoki {version('yaoki')}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for module in (launch, status, report, logs, steer, results, data, doctor):
        module.add_parsers(commands)
    slurmbox.add_parser(commands)
    return top


def _fail(error: object, code: int) -> int:
    print(f"yaoki: {error}", file=sys.stderr)
    return code
