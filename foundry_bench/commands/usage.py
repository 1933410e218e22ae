"""The texts of ``--help``."""

from __future__ import annotations

from foundry_bench.commands import COMMANDS, Command

_EXPLAIN = """\
foundry-bench trains vision-language-action policies from scratch and judges them closed loop on LIBERO.

usage: foundry-bench COMMAND [key=value ...]

commands:
{commands}

scales (scale=...): smoke (does it run?), quick (the default), laptop (every task), paper (full protocol)

  foundry-bench COMMAND --help    what a command does, its keys and their defaults
  foundry-bench --version

start here:
  foundry-bench doctor
  foundry-bench train-and-eval suite=libero
"""


def overview() -> str:
    """The text of ``foundry-bench --help``."""
    width = max(map(len, COMMANDS))
    lines = (f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS.values())
    return _EXPLAIN.format(commands="\n".join(lines))


def command_help(command: Command) -> str:
    """The text of ``foundry-bench COMMAND --help``, with the defaults as they are composed."""
    others = "" if command.only else " - every other key of the configuration can be set too"
    keys = f"\nkeys (default){others}:\n{_key_table(command)}\n" if command.keys else ""
    examples = "\n".join(f"  foundry-bench {example}" for example in command.examples)
    words = f"[{' | '.join(command.flags)}]" if command.flags else "[key=value ...]"
    words = " ".join([*(key.rpartition(".")[2].upper() for key in command.arguments), words])
    head = f"usage: foundry-bench {command.name} {words}\n\n{command.description}\n"
    return f"{head}{keys}{_flag_table(command)}\nexamples:\n{examples}\n"


def _flag_table(command: Command) -> str:
    width = max(map(len, command.flags), default=0)
    lines = "".join(f"  {flag:<{width}}  {meaning}\n" for flag, meaning in command.flags.items())
    return f"\nflags:\n{lines}" if lines else ""


def _key_table(command: Command) -> str:
    # Composing loads Hydra (a quarter of a second), which the overview does without.
    from foundry_bench.configs.compose import compose, describe, flatten
    from foundry_bench.configs.keys import ALIASES, KEYS

    defaults = {**flatten(compose([])), "experiment": None}
    shown = []
    for name in command.keys:
        default = describe(defaults[ALIASES.get(name, name)])
        shown.append((f"{name} ({default if len(default) < 40 else 'set by scale'})", KEYS[name].meaning))
    width = min(max(len(left) for left, _ in shown), 40)
    return "\n".join(f"  {left:<{width}}  {meaning}" for left, meaning in shown)
