"""Exit codes of the command line; above 2 they are those of sysexits.h."""

import os

OK = 0
FAILED = 1
USAGE = 2
UNAVAILABLE = os.EX_UNAVAILABLE
IO_ERROR = os.EX_IOERR
INTERRUPTED = 130
