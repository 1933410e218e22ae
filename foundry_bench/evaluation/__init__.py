"""Closed-loop evaluation: protocol, runner, records, videos. Imports neither torch nor a simulator."""

from foundry_bench.evaluation.protocol import Protocol
from foundry_bench.evaluation.records import EpisodeRecord, RecordWriter, latest, read_records
from foundry_bench.evaluation.runner import Machinery, evaluate

__all__ = ["EpisodeRecord", "Machinery", "Protocol", "RecordWriter", "evaluate", "latest", "read_records"]
