"""The command line: help, mistakes, exit codes."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest

from foundry_bench import cli
from foundry_bench.commands import COMMANDS, Command
from foundry_bench.errors import FoundryError

Capture = pytest.CaptureFixture[str]


def run(*words: str) -> int:
    return cli.main(list(words))


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make the command `demos` fail with an error."""

    def fail(_: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(Command, "load", lambda self: fail)


def test_overview_names_every_command(capsys: Capture) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert run() == 0
    assert capsys.readouterr().out == text


def test_overview_takes_less_than_a_second() -> None:
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "foundry_bench", "--help"], check=True, capture_output=True)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_each_command_shows_its_keys_and_examples(name: str, capsys: Capture) -> None:
    assert run(name, "--help") == 0
    text = capsys.readouterr().out
    command = COMMANDS[name]
    assert all(f"  {key} (" in text for key in command.keys)
    assert all(f"foundry-bench {example}" in text for example in command.examples)
    assert max(map(len, text.splitlines())) <= 130
    assert run("help", name) == 0
    assert capsys.readouterr().out == text


def test_examples_compose() -> None:
    from foundry_bench.configs.compose import compose

    for command in COMMANDS.values():
        for example in command.examples:
            found, words = cli.split(example.split())
            assert found is command
            compose(words)


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        (["demos", "suite=libero"], "demos", ["suite=libero"]),
        (["demos", "replay", "here"], "demos replay", ["data.path=here"]),
        (
            ["data", "convert", "debug=true", "a", "b"],
            "data convert",
            ["debug=true", "data.path=a", "data.out=b"],
        ),
        (["data", "inspect", "a", "b"], "data inspect", ["data.path=a", "b"]),
        (["cache", "--list"], "cache", ["--list"]),
    ],
)
def test_arguments_without_keys(words: list[str], name: str, rest: list[str]) -> None:
    command, found = cli.split(words)
    assert (command.name, found) == (name, rest)


def test_datasets_are_looked_at_and_converted(here: Path, capsys: Capture) -> None:
    from tests.data.demo_files import TASK, write

    write(here / "human" / "libero_goal" / f"{TASK}_demo.hdf5", "libero")
    assert run("data", "inspect", "human") == 0
    text = capsys.readouterr().out
    assert "HDF5, libero: 2 episodes, 13 frames, 20 per second" in text
    assert "put the bowl on it" in text
    assert (here / "results/inspect/human.png").is_file()
    assert run("data", "convert", "human", "copy", "demos.format=video") == 0
    assert "2 episodes in copy" in capsys.readouterr().out
    assert run("data", "inspect", "copy", "data.out=sheet.png") == 0
    assert "LeRobotDataset v3.0, h264: 2 episodes, 13 frames" in capsys.readouterr().out
    assert (here / "sheet.png").is_file()
    renamed = ["data.to=lerobot", "data.cameras={front: agentview}", "demos.image_format=jpeg"]
    assert run("data", "convert", "copy", "again", *renamed) == 0
    capsys.readouterr()
    assert run("data", "inspect", "again") == 0
    assert "cameras: front, 16 px" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "inspect"], "data.path is missing: name a dataset's folder or an HDF5 file"),
        (["data", "inspect", "nowhere"], "nowhere: there is no such file or folder"),
        (["data", "inspect", "a", "b"], "b: expected key=value"),
        (["data", "convert", "human"], "data.out is missing: foundry-bench data convert FROM TO"),
        (["data", "convert", "human", "human/inside"], "human/inside: lies in what is read (human)"),
        (["data"], "data: no such command, did you mean 'data "),
        (["demos", "replay", "human", "replay.mode=x"], "replay.mode=x: no such choice"),
    ],
)
def test_mistakes_with_datasets(here: Path, capsys: Capture, words: list[str], message: str) -> None:
    from tests.data.demo_files import TASK, write

    write(here / "human" / "libero_goal" / f"{TASK}_demo.hdf5", "libero")
    assert run(*words) == 2
    assert message in capsys.readouterr().err


def test_every_entry_can_be_loaded() -> None:
    assert all(callable(command.load()) for command in COMMANDS.values())


def test_version(capsys: Capture) -> None:
    from foundry_bench import __version__

    assert run("--version") == 0
    assert capsys.readouterr().out == f"foundry-bench {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lst",), "did you mean 'list'?"),
        (("suite=libero",), "a command comes first"),
        (("train-and-eval", "suite=libero_spatal"), "did you mean 'libero_spatial'"),
        (("train-and-eval", "scale=qick"), "did you mean 'quick'?"),
        (("demos", "demos.per_tusk=3"), "did you mean 'demos.per_task'"),
        (("demos", "tasks=[99]"), "libero_spatial has tasks 0 to 9"),
        (("demos", "tasks={libero_gaol:[1]}"), "did you mean 'libero_goal'"),
        (("train", "train.samples=abc"), "a whole number"),
        (("train", "checkpoint=x"), "this command takes none"),
        (("train-and-eval", "checkpoint=x"), "foundry-bench eval"),
        (("eval",), "no checkpoint"),
        (("eval", "checkpoint=nowhere"), "nowhere"),
        (("report", "experiment=nothing"), "no such experiment"),
        (("list", "scale=quick"), "list takes only"),
        (("doctor", "suite=libero"), "doctor takes only"),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(
    words: tuple[str, ...], said: str, here: Path, capsys: Capture
) -> None:
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert "Traceback" not in captured.err + captured.out


def test_debug_shows_the_traceback_and_keeps_the_exit_code(capsys: Capture) -> None:
    assert run("demos", "tasks=[99]", "debug=true") == 2
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert run("demos", "tasks=[0, 1]") == 130
    assert capsys.readouterr().err.strip().endswith("foundry-bench demos 'tasks=[0, 1]'")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "the disk is full (/data/x)"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), "/data: permission denied"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/data/x"), "paths.results=DIR"),
        (ImportError("Cannot initialize a EGL device display."), "libegl1"),
        (AttributeError("'NoneType' object has no attribute 'eglQueryString'"), "libegl1"),
        (MemoryError(), "executor.workers=1"),
        (FoundryError("this and that"), "this and that"),
    ],
)
def test_failures_of_the_machine_are_explained(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    failing(monkeypatch, error)
    assert run("demos") == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1


def test_failure_behind_another_is_found(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    error = RuntimeError("could not write")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    failing(monkeypatch, error)
    assert run("demos") == 2
    assert "the disk is full" in capsys.readouterr().err


def test_unforeseen_error_leaves_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    failing(monkeypatch, ValueError("one\ntwo"))
    assert run("demos", "suite=libero_goal") == 1
    text = capsys.readouterr().err
    assert text.startswith("unexpected ValueError: one two\n")
    log = Path(text.split("traceback in ")[1].split(";")[0])
    assert "foundry-bench demos suite=libero_goal" in log.read_text()
    assert "ValueError" in log.read_text()
    log.unlink()


def test_list_shows_tasks_and_instructions(capsys: Capture) -> None:
    assert run("list", "suite=libero_goal") == 0
    text = capsys.readouterr().out
    assert "turn on the stove" in text
    assert "libero_spatial" in text


@pytest.mark.parametrize("words", ["list", "--help"])
def test_reader_that_stops_reading_gets_no_complaint(words: str) -> None:
    command = f"{sys.executable} -u -m foundry_bench {words} | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_public_names_are_found_where_they_are_said_to_be() -> None:
    import foundry_bench

    for name in foundry_bench.__all__:
        assert getattr(foundry_bench, name) is not None
    with pytest.raises(AttributeError):
        foundry_bench.nothing  # noqa: B018
