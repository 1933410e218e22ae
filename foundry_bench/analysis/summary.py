"""``summary.json``: the report for programs."""

from __future__ import annotations

from typing import Any

from foundry_bench.analysis.rates import CONFIDENCE, Report, Row

FORMAT = 1


def summarise(report: Report) -> dict[str, Any]:
    """Everything in the table, and what it was measured on, as plain JSON values. What is unknown is null."""
    meta = report.meta
    suites = []
    for suite in report.suites:
        tasks = [_numbers(row) for row in report.tasks if row.suite == suite.suite]
        suites.append({**_numbers(suite), "tasks": tasks})
    return {
        "format": FORMAT,
        "experiment": meta.get("experiment"),
        "suite": meta.get("suite"),
        "scale": meta.get("scale"),
        "policy": {**(meta.get("policy") or {}), "name": report.policy, "hash": report.checkpoint_hash},
        "protocol": meta.get("protocol"),
        "protocols": list(report.protocols),
        "mixed_protocols": report.mixed,
        "versions": {
            name: list(found) if len(found) > 1 else found[0] for name, found in report.versions.items()
        },
        "demonstrations": meta.get("demonstrations"),
        "skipped": list(meta.get("skipped") or []),
        "seconds": dict(meta.get("seconds") or {}),
        "episode_wall_seconds": round(report.wall_seconds, 3),
        "confidence": CONFIDENCE,
        "interval": "wilson",
        "notes": list(report.notes),
        "total": _numbers(report.total),
        "suites": suites,
    }


def _numbers(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"suite": row.suite} if row.suite else {}
    if row.level == "task":
        found |= {"task": row.task, "instruction": row.instruction, "demonstrations": row.demonstrations}
    found |= {
        "episodes": row.episodes,
        "successes": row.successes,
        "errors": row.errors,
        "rate": row.rate,
        "interval": None if row.low is None else [row.low, row.high],
    }
    if row.level == "task":
        return found | {"skipped": row.skipped or None}
    return found | {"pooled_rate": row.pooled}
