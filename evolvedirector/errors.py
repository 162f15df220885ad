"""The errors whose message is meant for the user: the command line prints it as one paragraph, without a traceback.

Such a message has three sentences: what is wrong (with the value), what is allowed, what to write instead.
"""

from __future__ import annotations


class UserError(ValueError):
    """Say what to mend in what was written: a config, a flag, an argument, a file. The command line ends with 2."""


class RunError(RuntimeError):
    """Say what keeps a run from going on although nothing was written wrong: a full disk, a lost peer, a damaged file.

    The command line ends with 1.
    """
