"""One ``key=value`` word: its key and its value, read by Hydra's own grammar."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from foundry_bench.configs.keys import ALIASES, KEYS
from foundry_bench.errors import FoundryError

#: Free text, in which Hydra's grammar would stumble over spaces and parentheses.
_TEXT_SECTIONS = ("paths.",)


@dataclass(frozen=True)
class Override:
    """What one word of the command line sets.

    Attributes:
        word: the word as typed, for messages.
        key: dotted name.
        value: str, int, float, bool, None, list or dict.
    """

    word: str
    key: str
    value: Any


def parse(word: str) -> Override:
    """Read one word.

    Raises:
        FoundryError: not of the form key=value, or a value the grammar cannot read.
    """
    key, equals, text = word.partition("=")
    if key.startswith("-"):
        bare = key.lstrip("-").replace("-", "_")
        raise FoundryError(f"{word}: keys are written without dashes: {bare}={text or 'VALUE'}")
    if key[:1] in ("+", "~"):
        raise FoundryError(f"{word}: keys can be set but not added or removed: {key.lstrip('+~')}=VALUE")
    if not equals:
        raise FoundryError(f"{word}: expected key=value")
    if not re.fullmatch(r"[A-Za-z_][\w.@/-]*", key):
        raise FoundryError(f"{word}: '{key}' is not the name of a key")
    if _is_text(key):
        return Override(word, key, None if text in ("", "null") else _unquoted(text))
    return Override(word, key, _value(word, text))


def _is_text(key: str) -> bool:
    known = KEYS.get(ALIASES.get(key, key))
    return key.startswith(_TEXT_SECTIONS) or (known is not None and known.kind is str)


def _unquoted(text: str) -> str:
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _value(word: str, text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, Sweep
    from hydra.errors import HydraException

    if not text:
        raise FoundryError(f"{word}: a value is missing (null is written null)")
    try:
        override = OverridesParser.create().parse_override(f"value={text}")
        value = override.value()
    except HydraException:
        raise FoundryError(f"{word}: the value cannot be read; quote it: \"key='...'\"") from None
    if override.is_sweep_override() or isinstance(value, Sweep | Glob):
        raise FoundryError(f"{word}: one value at a time; a list is written [1,2]")
    return _plain(value)


def _plain(value: Any) -> Any:
    """Quoted strings of the grammar become str, also inside lists and mappings."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(name)): _plain(item) for name, item in value.items()}
    return value
