"""A write either happens whole or leaves everything as it was."""

import errno
import json
import os
from pathlib import Path

import pytest

from marginals.errors import MarginalsError
from marginals.io import atomic
from marginals.io.atomic import atomic_write, write_bytes, write_json, write_text


def test_new_content_replaces_old_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    write_bytes(target, b"old")
    write_bytes(target, b"new and longer")
    assert target.read_bytes() == b"new and longer"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MarginalsError])
def test_an_exception_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.bin"
    write_bytes(target, b"old")
    with pytest.raises(error), atomic_write(target) as temporary:
        temporary.write_bytes(b"half of the ne")
        assert temporary.parent == tmp_path and temporary.suffix == ".bin"
        raise error("stop")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_the_old_file_is_whole_until_the_rename(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    write_bytes(target, b"old")
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_the_data_is_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda d: (calls.append("fsync"), fsync(d)))
    monkeypatch.setattr(atomic.os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_bytes(tmp_path / "a.bin", b"x")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device_becomes_a_sentence(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    write_bytes(target, b"old")
    with pytest.raises(MarginalsError, match="disk is full"), atomic_write(target) as temporary:
        temporary.write_bytes(b"part")
        Path("/dev/full").write_bytes(b"more than fits")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_full_disk_at_sync_time_is_caught_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(MarginalsError, match="disk is full"):
        write_bytes(tmp_path / "a.bin", b"x")
    assert os.listdir(tmp_path) == []


def test_an_error_spelled_out_by_a_rust_library_is_understood(tmp_path: Path) -> None:
    with pytest.raises(MarginalsError, match="disk is full"), atomic_write(tmp_path / "a"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "a"):
        raise RuntimeError("something else (os error 11)")


def test_leftovers_of_a_killed_writer_go_after_an_hour(tmp_path: Path) -> None:
    with pytest.raises(OSError), atomic_write(tmp_path / "a.bin") as temporary:
        name = temporary.name
        raise OSError("stop")
    fresh, old = tmp_path / name, tmp_path / name.replace(name.split(".")[2], "0" * 12)
    other = tmp_path / ".a.notes.tmp.bin"
    for file in (fresh, old, other):
        file.write_bytes(b"torn")
    for file in (old, other):
        os.utime(file, (0, 0))
    atomic._remove_leftovers.cache_clear()
    write_bytes(tmp_path / "a.bin", b"x")
    assert sorted(os.listdir(tmp_path)) == sorted([fresh.name, other.name, "a.bin"])


def test_a_missing_folder_and_a_folder_as_target_become_sentences(tmp_path: Path) -> None:
    with pytest.raises(MarginalsError, match="folder does not exist"):
        write_bytes(tmp_path / "none" / "a.bin", b"x")
    with pytest.raises(MarginalsError, match="is a folder"):
        write_bytes(tmp_path, b"x")
    assert os.listdir(tmp_path) == []


def test_somebody_elses_missing_file_is_not_reworded(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.bin"):
        (tmp_path / "source").read_bytes()


def test_permissions_and_links_survive(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    write_text(real, "old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_text_is_utf8_with_its_own_line_endings(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "α → λ\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "α → λ\r\n".encode()


def test_json_round_trip_and_refusals(tmp_path: Path) -> None:
    value = {"name": "Fréchet", "numbers": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value
    for bad in (float("nan"), float("inf"), object()):
        with pytest.raises(MarginalsError, match="as JSON"):
            write_json(tmp_path / "a.json", {"x": bad})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value
