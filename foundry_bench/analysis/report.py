"""Records in; table, summary and picture out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry_bench.analysis.load import load_records
from foundry_bench.analysis.rates import Report, Row, build_report
from foundry_bench.analysis.summary import summarise
from foundry_bench.analysis.tables import caption, cells, to_csv, to_latex, to_markdown
from foundry_bench.errors import FoundryError

if TYPE_CHECKING:
    from rich.console import Console


def write_report(
    records: str | Path | Sequence[str | Path],
    out: str | Path,
    meta: Mapping[str, Any] | None = None,
    *,
    allow_mixed: bool = False,
) -> Path:
    """Write ``table.csv``, ``.md`` and ``.tex``, ``summary.json``, ``success.png`` and ``.pdf``.

    Args:
        records: one or several files of episode records.
        out: folder to write into; made where it is missing.
        meta: what records do not hold, every key optional: ``experiment``, ``suite``, ``scale``, ``policy``
            (dict), ``protocol`` (dict), ``demonstrations`` (``source``, ``per_task``, ``tasks`` with suite,
            task, instruction, kept), ``skipped`` (suite, task, instruction, reason), ``seconds`` by phase.
        allow_mixed: put episodes of different protocols together; everything written then says so.

    Returns:
        The path of ``table.md``.

    Raises:
        FoundryError: records are missing, corrupt, or of several protocols or policies; the folder cannot be
            written to.
    """
    report = _load(records, meta, allow_mixed)
    out = Path(out)
    texts: dict[str, Callable[[Report], str]] = {
        "table.csv": to_csv,
        "table.md": to_markdown,
        "table.tex": to_latex,
        "summary.json": lambda each: json.dumps(summarise(each), indent=1, ensure_ascii=False) + "\n",
    }
    from foundry_bench.analysis.plots import plot_success  # matplotlib takes a second to load

    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, make in texts.items():
            _write_whole(out / name, make(report))
        plot_success(report, out / "success")
    except OSError as error:
        raise FoundryError(
            f"{out}: the report cannot be written ({error.strerror}); make room there"
        ) from error
    return out / "table.md"


def print_table(
    records: str | Path | Sequence[str | Path],
    meta: Mapping[str, Any] | None = None,
    *,
    allow_mixed: bool = False,
    console: Console | None = None,
) -> None:
    """Print the table of :func:`write_report` to the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    report = _load(records, meta, allow_mixed)
    header = ["suite", "task", "instruction", "solved", "errors", "%", "95 % interval"]
    lines = [_short(row) for row in report.rows]
    if report.mixed:
        header.append("protocol")
        lines = [(*line, " ".join(row.protocols)) for line, row in zip(lines, report.rows, strict=True)]
    console = console or Console()
    widths = [max(len(name), *(len(line[i]) for line in lines)) for i, name in enumerate(header)]
    # The instruction is what gives way where the terminal is narrow: numbers are never cut.
    others = sum(widths) - widths[2] + 2 * len(widths)
    widths[2] = max(12, min(widths[2], console.width - others))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name, width in zip(header, widths, strict=True):
        words = name in ("suite", "instruction", "protocol")
        table.add_column(name, justify="left" if words else "right", width=width, no_wrap=True)
    for row, line in zip(report.rows, lines, strict=True):
        emphasis = "dim" if row.skipped else "" if row.level == "task" else "bold"
        table.add_row(*map(Text, line), style=emphasis, end_section=row.level != "task")
    console.print(table)
    console.print(Text(caption(report)))


def _short(row: Row) -> tuple[str, ...]:
    """The cells of a row for a terminal, which has less room than a page."""
    suite, task, instruction, _, episodes, successes, errors, rate, interval = cells(row)
    if row.skipped:
        return suite, task, f"skipped: {instruction}", "-", "-", "-", "-"
    solved = f"{successes}/{episodes}" if row.episodes else "-"
    return suite, task, instruction, solved, errors, rate, interval


def _load(
    records: str | Path | Sequence[str | Path], meta: Mapping[str, Any] | None, allow_mixed: bool
) -> Report:
    paths = [records] if isinstance(records, str | Path) else list(records)
    return build_report(load_records(paths), meta, allow_mixed)


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half."""
    unfinished = path.with_name(f".{path.name}.tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
