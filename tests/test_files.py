from pathlib import Path

import pytest

from ea_pointcloud._files import write_whole


def test_writes_text_and_bytes_and_replaces(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "ü")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xbc"
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "a", "old")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(FileNotFoundError, match="no such folder; create it first"):
        write_whole(tmp_path / "none" / "a", "new")
