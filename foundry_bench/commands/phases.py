"""The commands that run phases of an experiment."""

from __future__ import annotations

from omegaconf import DictConfig

from foundry_bench.sweeps import pipeline


def train_and_eval(config: DictConfig) -> None:
    """``foundry-bench train-and-eval``."""
    pipeline.train_and_eval(config)


def demos(config: DictConfig) -> None:
    """``foundry-bench demos``."""
    pipeline.run_phases(config, ("demos",))


def train(config: DictConfig) -> None:
    """``foundry-bench train``."""
    pipeline.train(config)


def evaluate(config: DictConfig) -> None:
    """``foundry-bench eval``."""
    pipeline.run_phases(config, ("eval", "report"))


def report(config: DictConfig) -> None:
    """``foundry-bench report``."""
    pipeline.report(config)
