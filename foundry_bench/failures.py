"""Failures of the machine rather than of the code, told apart from bugs."""

from __future__ import annotations

import errno
import shlex
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

RENDERING_HINT = (
    "headless rendering (EGL) does not work here; install Mesa (apt-get install libegl1 libegl-mesa0 "
    "libgl1-mesa-dri) or set MUJOCO_GL=osmesa, then check with: foundry-bench doctor"
)

_PLACE_ERRORS = (PermissionError, NotADirectoryError, IsADirectoryError)
_EGL_WORDS = ("eglquerystring", "egl device", "egl_", "libegl", "mujoco_gl", "opengl platform", "eglerror")


def environment_error(error: BaseException) -> str | None:
    """One line with the way out on a full disk, missing rendering or too little memory; else None."""
    for link in _chain(error):
        text = str(link)
        if getattr(link, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
            where = getattr(link, "filename", None)
            return (
                f"the disk is full{f' ({where})' if where else ''}; free some space and run the same command "
                "again: it goes on where it stopped (or choose another place: paths.results=DIR)"
            )
        if isinstance(link, _PLACE_ERRORS) and link.filename:
            why = (link.strerror or type(link).__name__).lower()
            return f"{link.filename}: {why}; choose another place with paths.results=DIR"
        if type(link).__name__ == "OutOfMemoryError":
            return "the GPU has too little memory; lower train.batch_size or use device=cpu"
        if isinstance(link, MemoryError):
            return "too little memory; use fewer simulator processes with executor.workers=1"
        if any(word in text.lower() for word in _EGL_WORDS):
            return f"{RENDERING_HINT} ({' '.join(text.split())[:120]})"
    return None


def save_traceback(error: BaseException, words: list[str]) -> Path:
    """Write the traceback to a file of its own in the temporary folder."""
    with tempfile.NamedTemporaryFile("w", prefix="foundry-bench-", suffix=".log", delete=False) as file:
        file.write(f"foundry-bench {shlex.join(words)}\n\n")
        file.writelines(traceback.format_exception(error))
    return Path(file.name)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__ or link.__context__
