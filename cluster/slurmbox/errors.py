"""What can go wrong with the box, as two exceptions a caller may tell apart."""


class SlurmBoxError(RuntimeError):
    """The box could not do what was asked; the message says what to do about it."""


class SlurmUnavailableError(SlurmBoxError):
    """This machine cannot run a box: Debian packages or root are missing."""
