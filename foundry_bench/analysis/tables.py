"""One report as CSV, Markdown and LaTeX, with a caption that says what was measured."""

from __future__ import annotations

import csv
import io
from typing import Any

from foundry_bench.analysis.rates import SKIPPED, Report, Row

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
HEADER = (
    "suite",
    "task",
    "instruction",
    "demos",
    "episodes",
    "successes",
    "errors",
    "success %",
    "95 % interval",
)
CSV_HEADER = (
    *("level", "suite", "task", "instruction", "demonstrations", "episodes", "successes", "errors"),
    *("rate", "low", "high", "pooled_rate", "note", "policy", "checkpoint_hash", "protocol"),
)
_NUMBERS = frozenset(("task", "demos", "episodes", "successes", "errors", "success %", "95 % interval"))


def caption(report: Report) -> str:
    """What was judged, what it was trained on, under which protocol, and how rates are taken."""
    meta = report.meta
    parts = []
    if meta.get("experiment"):
        parts.append(f"Experiment {meta['experiment']}.")
    parts.append(f"Policy {report.policy} (checkpoint {report.checkpoint_hash[:12]}){_training(meta)}.")
    if report.mixed:
        parts.append(f"MIXED PROTOCOLS, not comparable: {', '.join(report.protocols)}.")
    else:
        parts.append(f"Protocol {report.protocols[0]}.")
    parts.append(
        "Rates of suites and of the total are means over tasks of equal weight; intervals are 95 % Wilson "
        "intervals of the pooled counts."
    )
    return " ".join([*parts, *report.notes])


def _training(meta: Any) -> str:
    demonstrations = meta.get("demonstrations") or {}
    per_task, source = demonstrations.get("per_task"), str(demonstrations.get("source") or "unknown")
    seconds = (meta.get("seconds") or {}).get("train")
    if per_task is None:
        return ""
    kind = "scripted demonstrations" if source == "scripted" else "demonstrations"
    origin = "" if source in ("scripted", "unknown") else f" from {source.rstrip('/').rpartition('/')[2]}"
    time = f" in {seconds:.0f} s" if seconds else ""
    return f", trained{time} on {per_task} {kind} per task{origin}"


def cells(row: Row) -> tuple[str, ...]:
    """The texts of a row, in the order of ``HEADER``; what is not there is "-", never 0 %."""
    name = (row.suite or "all", "" if row.task is None else str(row.task))
    demos = "" if row.demonstrations is None else str(row.demonstrations)
    if row.skipped:
        return (*name, row.instruction, demos, "-", "-", "-", SKIPPED, "-")
    counts = (str(row.episodes), str(row.successes), str(row.errors))
    if row.rate is None or row.low is None or row.high is None:
        return (*name, row.instruction, demos, str(row.episodes), "-", str(row.errors), "-", "-")
    interval = f"{100 * row.low:.1f}-{100 * row.high:.1f}"
    return (*name, row.instruction, demos, *counts, f"{100 * row.rate:.1f}", interval)


def columns(report: Report) -> list[int]:
    """Which of ``HEADER`` to show: demonstrations only where their number is known."""
    known = any(row.demonstrations is not None for row in report.rows)
    return [index for index, name in enumerate(HEADER) if known or name != "demos"]


def to_csv(report: Report) -> str:
    """Comma-separated, unrounded, one line for each row and nothing else; rates are fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for row in report.rows:
        numbers = [
            "" if value is None else f"{value:.6f}" for value in (row.rate, row.low, row.high, row.pooled)
        ]
        writer.writerow(
            [
                row.level,
                row.suite,
                "" if row.task is None else row.task,
                row.instruction,
                "" if row.demonstrations is None else row.demonstrations,
                row.episodes,
                row.successes,
                row.errors,
                *numbers,
                f"skipped: {row.skipped}" if row.skipped else "",
                report.policy,
                report.checkpoint_hash,
                " ".join(row.protocols),
            ]
        )
    return text.getvalue()


def to_markdown(report: Report) -> str:
    """A table for a README, with the caption above and reasons for skipped tasks below."""
    shown = columns(report)
    header = [HEADER[index] for index in shown] + (["protocol"] if report.mixed else [])
    lines = [caption(report), "", _markdown_line(header)]
    lines.append("|" + "|".join(" ---: " if name in _NUMBERS else " --- " for name in header) + "|")
    for row in report.rows:
        texts = [cells(row)[index] for index in shown] + ([", ".join(row.protocols)] if report.mixed else [])
        if row.level != "task":
            texts = [f"**{text}**" if text else "" for text in texts]
        lines.append(_markdown_line(texts))
    reasons = [
        f"- {row.suite} {row.task}, {row.instruction}: {row.skipped}" for row in report.tasks if row.skipped
    ]
    if reasons:
        lines += ["", "Skipped:", "", *reasons]
    return "\n".join(lines) + "\n"


def _markdown_line(texts: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"


def latex_escape(text: str) -> str:
    """Text in which LaTeX sees no command."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_latex(report: Report) -> str:
    """A floating two-column table (``booktabs``), to be put into a paper with ``\\input``."""
    shown = columns(report)
    header = [HEADER[index] for index in shown] + (["protocol"] if report.mixed else [])
    kinds = "".join(
        "r" if name in _NUMBERS else "p{0.33\\linewidth}" if name == "instruction" else "l" for name in header
    )
    label = latex_escape(str(report.meta.get("experiment") or "results")).replace("\\_", "-")
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table*}[t]",
        "\\centering\\footnotesize",
        f"\\caption{{{latex_escape(caption(report))}}}",
        f"\\label{{tab:{label}}}",
        f"\\begin{{tabular}}{{@{{}}{kinds}@{{}}}}",
        "\\toprule",
        " & ".join(latex_escape(name) for name in header) + r" \\",
    ]
    previous = "suite"
    for row in report.rows:
        if previous != "task":
            lines.append("\\midrule")
        texts = [cells(row)[index] for index in shown] + ([", ".join(row.protocols)] if report.mixed else [])
        escaped = [_latex_cell(text, bold=row.level != "task") for text in texts]
        lines.append(" & ".join(escaped) + r" \\")
        previous = row.level
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table*}"]) + "\n"


def _latex_cell(text: str, *, bold: bool) -> str:
    text = latex_escape(text).replace("-", "--") if _is_range(text) else latex_escape(text)
    return f"\\textbf{{{text}}}" if bold and text else text


def _is_range(text: str) -> bool:
    first, dash, second = text.partition("-")
    return bool(dash) and first.replace(".", "").isdigit() and second.replace(".", "").isdigit()
