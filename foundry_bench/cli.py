"""The ``foundry-bench`` command: finds the command, composes its configuration, speaks of failures plainly.

Exit codes: 0 done, 1 a check failed or an unexpected error, 2 something the user can mend, 130 interrupted.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Sequence

from foundry_bench.commands import COMMANDS, Command
from foundry_bench.errors import FoundryError, nearest


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "debug=true" in words
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        _say(f"\ninterrupted; to go on from here: foundry-bench {shlex.join(words)}")
        return 130
    except BrokenPipeError:  # `foundry-bench list | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FoundryError as error:
        if debug:
            traceback.print_exc()
        _say(f"error: {error}")
        return error.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error, words)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        return _help(words[1:])
    if words[0] in ("-V", "--version"):
        from foundry_bench import __version__

        print(f"foundry-bench {__version__}")
        return 0
    command, rest = split(words)
    if any(word in ("-h", "--help") for word in rest):
        return _help([command.name])
    return _run(command, rest)


def split(words: list[str]) -> tuple[Command, list[str]]:
    """The command at the beginning of a command line, and its words; its arguments become ``key=value``.

    Raises:
        FoundryError: no such command.
    """
    length = 2 if " ".join(words[:2]) in COMMANDS else 1
    command = _command(" ".join(words[:length]))
    keys = list(command.arguments)
    rest = []
    for word in words[length:]:
        argument = bool(keys) and "=" not in word and not word.startswith("-")
        rest.append(f"{keys.pop(0)}={word}" if argument else word)
    return command, rest


def _command(name: str) -> Command:
    if name in COMMANDS:
        return COMMANDS[name]
    if "=" in name:
        raise FoundryError(f"{name}: a command comes first: {', '.join(COMMANDS)}")
    raise FoundryError(f"{name}: no such command, {nearest(name, COMMANDS)}")


def _help(names: list[str]) -> int:
    from foundry_bench.commands.usage import command_help, overview

    print(command_help(split(names)[0]) if names else overview(), end="")
    return 0


def _run(command: Command, words: list[str]) -> int:
    flags = _flags(command, words)
    words = [word for word in words if word not in flags]
    if command.only is not None:
        for word in words:
            key = word.split("=")[0]
            if "=" in word and key not in command.only:
                raise FoundryError(f"{word}: {command.name} takes only: {', '.join(command.only)}")
    from foundry_bench.configs.compose import compose

    config = compose(words)  # before the command's own imports, which take seconds: mistakes show at once
    entry = command.load()
    return (entry(config, flags) if command.flags else entry(config)) or 0


def _flags(command: Command, words: list[str]) -> frozenset[str]:
    """The words that are flags of a command that has any; for the others, `compose` says what is wrong."""
    given = frozenset(word for word in words if command.flags and word.startswith("-"))
    for word in sorted(given - set(command.flags)):
        raise FoundryError(f"{word}: no such flag of {command.name}, {nearest(word, command.flags)}")
    return given


def _explain(error: Exception, words: list[str]) -> int:
    """One line for an error nobody foresaw; the traceback goes to a file that the line names."""
    from foundry_bench.failures import environment_error, save_traceback

    known = environment_error(error)
    if known is not None:
        _say(f"error: {known}")
        return FoundryError.exit_code
    text = " ".join(str(error).split()) or "no message"
    _say(f"unexpected {type(error).__name__}: {text[:300]}")
    _say(f"traceback in {save_traceback(error, words)}; with debug=true it is shown here")
    return 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
