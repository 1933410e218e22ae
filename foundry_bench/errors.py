"""The one exception that is meant for a person's eyes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FoundryError(Exception):
    """Something the user can mend.

    The message is one line that names the thing (file, key, value) and the way out. The command line
    prints it without a traceback and exits with code 2.
    """

    exit_code = 2


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A phrase such as ``did you mean 'libero_goal'?`` for a misspelt ``name``.

    Falls back to listing what is known when nothing is close.
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{option}'" for option in close) + "?"
    return "known: " + ", ".join(options)
