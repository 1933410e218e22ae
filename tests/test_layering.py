"""The arrows between the packages, read from the import statements."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "foundry_bench"

#: What each part may import of foundry_bench. Modules at the root that anybody may use are not listed.
ALLOWED = {
    "envs": {"envs"},
    "data": {"data", "envs"},
    "policies": {"policies"},
    "training": {"training", "policies", "data"},
    "evaluation": {"evaluation", "policies", "data", "envs"},
    "analysis": {"analysis"},
    "configs": {"configs", "envs"},
    "sweeps": {"sweeps", "training", "evaluation", "policies", "data", "envs", "analysis", "configs"},
    "commands": {"commands", "sweeps", "configs", "envs", "analysis"},
}
LEAVES = {"errors", "runtime", "failures", "doctor", "__version__"}

SIMULATORS = {"mujoco", "robosuite", "libero", "OpenGL"}
FORBIDDEN = {
    "envs": {"torch", "transformers"},
    "data": {"torch", "transformers"},
    "policies": SIMULATORS | {"gymnasium"},
    "training": SIMULATORS | {"gymnasium"},
    "evaluation": SIMULATORS,
    "analysis": SIMULATORS | {"torch", "transformers", "gymnasium"},
    "configs": SIMULATORS | {"torch", "transformers"},
    "sweeps": SIMULATORS | {"transformers"},
    "commands": SIMULATORS | {"torch", "transformers"},
}


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every imported dotted name with its line, also inside functions, also for type checking only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "foundry_bench" else [base]
            yield from ((node.lineno, name) for name in names)


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_part_imports_only_what_lies_below(part: str) -> None:
    wrong = []
    for path in sorted((PACKAGE / part).rglob("*.py")):
        for line, name in imports_of(path):
            top, *rest = name.split(".")
            if top in FORBIDDEN[part]:
                wrong.append(f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}")
            if top == "foundry_bench" and rest and rest[0] not in ALLOWED[part] | LEAVES:
                wrong.append(f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_every_part_has_its_rule() -> None:
    parts = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert parts == set(ALLOWED)


def test_the_test_sees_imports_inside_functions(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("def f():\n    from foundry_bench import envs\n    import mujoco.viewer\n")
    assert [name for _, name in imports_of(module)] == ["foundry_bench.envs", "mujoco.viewer"]


@pytest.mark.parametrize(
    ("statement", "banned"),
    [
        ("import foundry_bench", {"torch", "mujoco", "hydra", "numpy"}),
        ("from foundry_bench.cli import main; main(['--help'])", {"torch", "mujoco", "hydra", "numpy"}),
        ("import foundry_bench.sweeps.pipeline", {"torch", "mujoco", "transformers", "matplotlib"}),
        ("import foundry_bench.envs.suites", {"torch", "mujoco", "robosuite"}),
        ("import foundry_bench.policies.base", {"torch", "mujoco"}),
        ("import foundry_bench.policies.architectures", {"torch", "mujoco", "scipy"}),
        ("import foundry_bench.policies.vla", {"mujoco", "diffusers", "transformers"}),
    ],
)
def test_import_loads_nothing_heavy(statement: str, banned: set[str]) -> None:
    code = f"import sys; {statement}; print('loaded:', *sorted(set(sys.modules) & {banned!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"
