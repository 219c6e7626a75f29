"""Comparison of a data set on disk with what was published, or with its own manifest."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ea_pointcloud._files import read_json_object
from ea_pointcloud.datasets._files import MANIFEST, plain_name, remedy
from ea_pointcloud.datasets.catalog import CatalogEntry, entry_of_folder
from ea_pointcloud.datasets.layouts import LAYOUTS, Contents, Layout, recognize

_SHOWN = 5  # missing files that are named


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Args:
        what: was compared.
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
    return _compare_all(folder, "md5", entry.md5, entry.counts, layout)


def verify_prepared(folder: Path) -> list[Finding]:
    """Compare a folder that ``data prepare`` made with the manifest in it.

    Raises:
        ValueError: if a file cannot be read.
    """
    path = folder / MANIFEST
    manifest = read_json_object(path, remedy(path))
    try:
        expected = {"classes": len(manifest["classes"])}
        expected |= {split: sum(counts.values()) for split, counts in manifest["counts"].items()}
        sums = {plain_name(name, path): str(value) for name, value in manifest["sha256"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no manifest ({error!r:.80}); {remedy(path)}") from error
    return _compare_all(folder, "sha256", sums, expected, LAYOUTS["modelnet_h5"])


def verify_listed(folder: Path) -> list[Finding]:
    """Count the shapes of a folder, and look for the files that its own lists name.

    The official numbers are expected where the folder has the name of a prepared set.

    Raises:
        ValueError: if the layout of the folder is not recognised, or a file cannot be read.
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


def _compare_all(
    folder: Path, kind: str, sums: Mapping[str, str], counts: Mapping[str, int], layout: Layout
) -> list[Finding]:
    found = [
        Finding(f"{kind} of {name}", expected, file_digest(folder / name, kind))
        for name, expected in sums.items()
    ]
    # The counts of files that are not what they should be say nothing more.
    wrong = [each for each in found if not each.right]
    return wrong or [*found, *_compare(counts, layout.contents(folder))]


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


def file_digest(path: Path, kind: str, progress: Callable[[int], None] = lambda done: None) -> str:
    """The checksum of a file, ``"no such file"`` where there is none; reports the bytes done."""
    if not path.is_file():
        return "no such file"
    digest, done = hashlib.new(kind, usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
            done += len(chunk)
            progress(done)
    return digest.hexdigest()
