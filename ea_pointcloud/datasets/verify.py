"""Comparing a data set on disk with what was published, or with what its preparation noted."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ea_pointcloud.datasets._files import MANIFEST
from ea_pointcloud.datasets.catalog import CatalogEntry, entry_of_folder
from ea_pointcloud.datasets.layouts import LAYOUTS, Contents, recognize

_SHOWN = 5  # missing files that are named


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: in words.
        expected: as published, empty where nothing is.
        found: on disk.
    """

    what: str
    expected: str
    found: str

    @property
    def right(self) -> bool:
        """Whether it is as it should be."""
        return self.expected in ("", self.found)


def verify_folder(entry: CatalogEntry, folder: Path) -> list[Finding]:
    """Compare a folder with what was published: layout, files, checksums, counts.

    Raises:
        ValueError: if a file cannot be read.
    """
    layout = LAYOUTS[entry.layout]
    if layout.marker and not any(folder.glob(layout.marker)):
        return [Finding("layout", layout.title, "something else")]
    sums = [
        Finding(f"md5 of {name}", expected, file_digest(folder / name, "md5"))
        for name, expected in entry.md5.items()
    ]
    # The counts of files that are not what they should be say nothing more.
    missing = [each for each in sums if not each.right]
    return missing or [*sums, *_compare(entry.counts, layout.contents(folder))]


def verify_prepared(folder: Path) -> list[Finding]:
    """Compare a folder that ``data prepare`` made with the manifest in it.

    Raises:
        ValueError: if a file cannot be read.
    """
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    sums = [
        Finding(f"sha256 of {name}", expected, file_digest(folder / name, "sha256"))
        for name, expected in manifest["sha256"].items()
    ]
    missing = [each for each in sums if not each.right]
    expected = {"classes": len(manifest["classes"])}
    expected |= {split: sum(counts.values()) for split, counts in manifest["counts"].items()}
    return missing or [*sums, *_compare(expected, LAYOUTS["modelnet_h5"].contents(folder))]


def describe_written(
    folder: Path,
    class_names: Sequence[str],
    counts: Mapping[str, Mapping[str, int]],
    files: Iterable[str],
) -> dict[str, Any]:
    """What the manifest says of any folder that this package wrote, for :func:`verify_prepared`.

    Args:
        folder: with ``files`` in it.
        class_names: in the order of the labels.
        counts: shapes of each split and class.
        files: names, whose checksums are taken.
    """
    return {
        "classes": list(class_names),
        "counts": counts,
        "version": package_version(),
        "sha256": {name: file_digest(folder / name, "sha256") for name in files},
    }


def package_version() -> str:
    """Of this package."""
    try:
        return version("ea-pointcloud")
    except PackageNotFoundError:
        return "not installed"


def verify_listed(folder: Path) -> list[Finding]:
    """Count the shapes of a folder, and look for the files that its own lists name.

    The official numbers are expected where the folder has the name of a prepared set.

    Raises:
        ValueError: if the folder has no layout that can be told, or a file cannot be read.
    """
    key = recognize(folder)
    if key is None:
        raise ValueError(f"{folder} holds no list of files to verify; see data/README.md")
    contents = LAYOUTS[key].contents(folder)
    entry = entry_of_folder(folder.resolve().name)
    return _compare({} if entry is None else entry.counts, contents)


def count_deviations(entry: CatalogEntry, layout: str, folder: Path) -> list[Finding]:
    """Where the numbers of classes and shapes differ from the official ones."""
    contents = LAYOUTS[layout].contents(folder)
    return [each for each in _compare(entry.counts, contents) if not each.right]


def _compare(expected: Mapping[str, int], contents: Contents) -> list[Finding]:
    findings = [
        Finding(
            what if what in ("classes", "sets") else f"{what} shapes",
            f"{expected[what]:,}" if what in expected else "",
            f"{contents.counts.get(what, 0):,}",
        )
        for what in expected or contents.counts
    ]
    missing = contents.missing
    names = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    found = f"{len(missing)} ({names})" if missing else "0"
    return [*findings, Finding("missing files", "0", found)]


def file_digest(path: Path, kind: str) -> str:
    """The checksum of a file, ``"no such file"`` where there is none."""
    if not path.is_file():
        return "no such file"
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
