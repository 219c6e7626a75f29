"""What is written and printed: formulas, escape sequences, long names, files of other people."""

import csv
import fcntl
import json
import logging
import os
from pathlib import Path

import pytest

from ea_pointcloud._files import printable, read_json_object, write_whole
from ea_pointcloud.cli import _common, main
from ea_pointcloud.cli._csv_log import CsvLog
from ea_pointcloud.cli._resume import OutputFolder
from ea_pointcloud.inference.batch import Found, find_files

MADE_WITH = {"command": "classify", "model": "m", "weights": "w"}
COLUMNS = ["file", "label", "prob", "error"]


@pytest.mark.parametrize("name", ["=1+1", "+cmd|'/c calc'!A0", "-2+3", "@SUM(A1)", "'=x", "'", "a"])
def test_no_cell_is_a_formula(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.csv"
    with CsvLog(path, COLUMNS, MADE_WITH, force=False) as log:
        log.write([name, name, "-0.5", ""])
    with path.open(newline="") as file:
        cells = list(csv.reader(file))[1]
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)
    assert cells[2] == "-0.5"  # a number stays one
    assert (cells[0] == name) == (name == "a")
    found = [Found(name, name), Found("other", "other")]
    with CsvLog(path, COLUMNS, MADE_WITH, force=False) as log:
        assert log.begin(found) == (1, 0)
        assert list(log.missing(found)) == ["other"]


def test_a_file_of_someone_else_is_kept(tmp_path: Path) -> None:
    settings = tmp_path / "res.csv.json"
    for content in ('{"mine": 1}', "[1]", "no JSON", "[" * 100_000):
        settings.write_text(content)
        with pytest.raises(FileExistsError, match=r"res\.csv\.json .* something else"):
            CsvLog(tmp_path / "res.csv", COLUMNS, MADE_WITH, force=False).__enter__()
        assert settings.read_text() == content
        assert not (tmp_path / "res.csv").exists()
    with CsvLog(tmp_path / "res.csv", COLUMNS, MADE_WITH, force=True):
        pass
    (tmp_path / "res.csv").unlink()  # one of ours may be written again
    with CsvLog(tmp_path / "res.csv", COLUMNS, MADE_WITH, force=False):
        pass


def folder_of(path: Path, *, force: bool = False) -> OutputFolder:
    return OutputFolder(path, "ply", {**MADE_WITH, "command": "segment"}, [], force=force)


def test_a_settings_file_in_the_output_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "segment.json").write_text('{"mine": 1}')
    found = [Found("a.ply", "a.ply")]
    with folder_of(tmp_path) as store, pytest.raises(FileExistsError, match="something else"):
        store.begin(found)
    assert json.loads((tmp_path / "segment.json").read_text()) == {"mine": 1}
    with folder_of(tmp_path, force=True) as store:
        assert store.begin(found) == (0, 0)
    with folder_of(tmp_path) as store:
        assert store.begin(found) == (0, 0)


def test_one_process_writes_into_an_output_folder(tmp_path: Path) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    found = [Found("a.ply", "a.ply")]
    with (
        folder_of(tmp_path, force=True) as store,
        pytest.raises(FileExistsError, match="written by another process"),
    ):
        store.begin(found)
    os.close(other)
    with folder_of(tmp_path) as store:
        assert store.begin(found) == (0, 0)


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "\x07", "\u202egnp.exe", "\x9b31m", "\udcff"])
def test_no_terminal_obeys_a_file(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.text import Text

    _common.print_table([[text, Text(f"part {text}", "red")]], ("file", "class"))
    _common.print_text(f"name: {text}")
    _common.say(f"wrote {text}")
    record = logging.makeLogRecord({"msg": "%s is left out", "args": (text,)})
    assert text not in _common.HarmlessFormatter().format(record)

    def fail() -> None:
        raise ValueError(f"{text} is no cloud")

    monkeypatch.setattr("ea_pointcloud.cli.app", fail)
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr()
    assert text not in shown.out + shown.err
    assert printable(text) in shown.err


def test_text_stays_as_it_is() -> None:
    assert printable("größe 椅子\nsecond line") == "größe 椅子\nsecond line"


def test_names_of_any_length(tmp_path: Path) -> None:
    for name in ("a" * 255, "ö" * 127, "b" * 244 + ".json"):
        write_whole(tmp_path / name, "x")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_link_beside_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / f".a.{os.getpid()}.partial").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "a", "new")
    assert (tmp_path / "precious").read_text() == "kept"
    assert (tmp_path / "a").read_text() == "new"


def test_a_thousand_folders(tmp_path: Path) -> None:
    home, deep = Path.cwd(), 1100
    os.chdir(tmp_path)
    try:
        for _ in range(deep):
            Path("d").mkdir()
            os.chdir("d")
        Path("a.xyz").write_text("0 0 0\n")
        (found,) = find_files([str(tmp_path)], recursive=True)
    finally:  # pytest's own cleaning up is recursive
        Path("a.xyz").unlink(missing_ok=True)
        while Path.cwd() != tmp_path:
            os.chdir("..")
            Path("d").rmdir()
        os.chdir(home)
    assert found.relative == "d/" * deep + "a.xyz"


@pytest.mark.parametrize("text", ["5", "[]", "null", "NaN", "{", "[" * 100_000, "\udcff"])
def test_json_that_is_no_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"a\.json .*; copy it again"):
        read_json_object(path, "copy it again")
