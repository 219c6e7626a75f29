"""Run folders and recipes from elsewhere: nothing outside is deleted, written or read."""

import json
from importlib import resources
from pathlib import Path

import pytest
import torch

from ea_pointcloud.training.callbacks import RunCheckpoint
from ea_pointcloud.training.checkpoints import (
    WholeCheckpoints,
    furthest,
    refuse_links,
    remove_leftovers,
)
from ea_pointcloud.training.recipe import load_recipe


@pytest.mark.parametrize("path", ["/x/..", "..", "/etc/passwd", "checkpoints/../../precious", ""])
def test_no_path_is_taken_from_a_checkpoint(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    own = folder / "best.ckpt"
    own.write_bytes(b"weights")
    callback = RunCheckpoint(folder, filename="best", monitor="val/oa", mode="max")
    score = torch.tensor(0.5)
    callback.load_state_dict(
        {
            "dirpath": path,
            "best_model_path": path,
            "kth_best_model_path": path,
            "last_model_path": path,
            "best_k_models": {path: score},
            "best_model_score": score,
            "kth_value": score,
        }
    )
    assert callback.best_model_path == callback.kth_best_model_path == str(own)
    assert callback.best_k_models == {str(own): score}
    assert callback.last_model_path == ""
    assert Path(str(callback.dirpath)) == folder


def test_a_score_without_its_checkpoint_is_none(tmp_path: Path) -> None:
    callback = RunCheckpoint(tmp_path, filename="best", monitor="val/oa", mode="max")
    callback.load_state_dict({"best_model_score": torch.tensor(0.5)})
    assert (callback.best_model_path, callback.best_k_models) == ("", {})


def test_removing_a_checkpoint_never_removes_a_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "precious").write_text("kept")
    with pytest.raises(OSError, match="inner"):
        WholeCheckpoints().remove_checkpoint(tmp_path / "inner")
    with pytest.raises(OSError, match=r"\.\."):
        WholeCheckpoints().remove_checkpoint(tmp_path / "inner" / "..")
    (tmp_path / "link").symlink_to(tmp_path / "inner" / "precious")
    WholeCheckpoints().remove_checkpoint(tmp_path / "link")
    assert (tmp_path / "inner" / "precious").read_text() == "kept"


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # pyright: ignore[reportReturnType]


def test_reading_a_checkpoint_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "last.ckpt"
    torch.save({"epoch": Payload()}, path)
    with pytest.raises(ValueError, match="is damaged"):
        furthest(tmp_path)
    with pytest.raises(Exception, match="Weights only load failed"):
        WholeCheckpoints().load_checkpoint(path, weights_only=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [[1], {"epoch": "one"}, {"epoch": {}}, {"epoch": 1, "batches_done": "x"}, b"\x80junk"],
)
def test_what_a_checkpoint_may_hold(tmp_path: Path, content: object) -> None:
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "within.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"within\.ckpt is damaged"):
        furthest(tmp_path)


@pytest.mark.parametrize("link", ["checkpoints", "metrics.csv", ".lock", "checkpoints/best.ckpt"])
def test_links_are_refused(tmp_path: Path, link: str) -> None:
    run, away = tmp_path / "run", tmp_path / "away"
    (run / "checkpoints").mkdir(parents=True)
    away.mkdir()
    if link == "checkpoints":
        (run / link).rmdir()
    (run / link).symlink_to(away)
    with pytest.raises(ValueError, match="is a link, which is not followed"):
        refuse_links(run)
    (tmp_path / "runs").symlink_to(away)
    refuse_links(tmp_path / "runs")  # one's own name for the folder itself


def test_leftovers_are_removed_inside_alone(tmp_path: Path) -> None:
    run, away = tmp_path / "run", tmp_path / "away"
    (run / ".best-1").mkdir(parents=True)
    away.mkdir()
    (away / "precious").write_text("kept")
    (run / ".last-2").symlink_to(away)
    remove_leftovers(run)
    assert (away / "precious").read_text() == "kept"
    assert not (run / ".best-1").exists()


NAMES = ["../../x", "/etc/x", "..", ".hidden", "a\\b", "a\x1b[2J", "x" * 101]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / "own.yaml"
    packaged = (resources.files("ea_pointcloud") / "recipes" / "procedural.yaml").read_text()
    path.write_text(f"name: {json.dumps(name)}\n{packaged}")
    with pytest.raises(ValueError, match="name must be a plain name"):
        load_recipe(path)


def test_nothing_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    path = tmp_path / "own.yaml"
    for key in ("name", "data.root"):
        with pytest.raises(ValueError, match=r"\$\{\.\.\.\} is not replaced") as error:
            load_recipe("procedural", [f"{key}=${{oc.env:SECRET}}"])
        assert "hunter2" not in str(error.value)
    path.write_text("name: ${oc.env:SECRET}\n")
    with pytest.raises(ValueError, match=r"own\.yaml: \$\{\.\.\.\} is not replaced"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: " + "[" * 50_000, "nested more than 16 deep"),
        ("name: " + "{a: " * 5_000, "nested more than 16 deep"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", r"\*a repeats another value"),
        ("name: " + "x" * 200_000, "a recipe at most"),
        ("- 1\n- 2\n", "own.yaml"),
        ("5", "own.yaml"),
        ("name: !!python/object/apply:os.system [touch ran]", "own.yaml"),
        ("\x00", "own.yaml"),
    ],
    ids=["lists", "maps", "laughs", "long", "list", "number", "python", "bytes"],
)
def test_yaml_that_exhausts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_recipe(path)
    assert not (tmp_path / "ran").exists()
