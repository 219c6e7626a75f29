"""Catalog of the public data sets: archives, contents, licences. Plain data only.

Checksums, sizes in bytes and counts are those published with a set or by libraries that download
it; None where none has been published. Mirrors are tried in order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ea_pointcloud._checks import check_choice

# In the order of the labels, which is that of the alphabet.
MODELNET40_CLASSES = (
    "airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair", "cone",
    "cup", "curtain", "desk", "door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard",
    "lamp", "laptop", "mantel", "monitor", "night_stand", "person", "piano", "plant", "radio",
    "range_hood", "sink", "sofa", "stairs", "stool", "table", "tent", "toilet", "tv_stand", "vase",
    "wardrobe", "xbox",
)  # fmt: skip

HUB = "https://huggingface.co/datasets"
STANFORD = "https://shapenet.cs.stanford.edu/media"


@dataclass(frozen=True)
class Archive:
    """One file to download, the same bytes from every mirror.

    Args:
        name: of the file.
        urls: mirrors, the first is tried first.
        checksum: ``"md5:..."`` or ``"sha256:..."``.
        size: bytes.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class CatalogEntry:
    """A data set that can be downloaded, by hand where its terms must be accepted first.

    Args:
        name: what the commands call it.
        title: what it is.
        layout: the key of its :class:`~ea_pointcloud.datasets.layouts.Layout`.
        folder: where it lies below the data root, under the name that other codes look for.
        archives: any of them gives the set; the first is tried first.
        megabytes: about what is downloaded, None where it is not published.
        licence: the terms in short.
        citation: the paper to cite.
        page: where the set is described.
        counts: official number of ``"classes"`` and of shapes in each split, or of the corrupted
            ``"sets"``.
        terms: the page where the terms must be accepted; such a set is not downloaded for you.
        md5: checksums of single files inside the folder.
        up: the axis that is up in the files.
        mirrored: whether the files are mirror images, (x, z, y) of the meshes; see
            :mod:`~ea_pointcloud.datasets.axes`.
        prepared: the folder that ``data prepare`` makes of it, for sets that need that.
    """

    name: str
    title: str
    layout: str
    folder: str
    archives: tuple[Archive, ...]
    megabytes: int | None
    licence: str
    citation: str
    page: str
    counts: Mapping[str, int]
    terms: str | None = None
    md5: Mapping[str, str] = field(default_factory=dict)
    up: str = "y"
    mirrored: bool = False
    prepared: str | None = None


def _archive(
    name: str, *urls: str, md5: str | None = None, size: int | None = None
) -> tuple[Archive, ...]:
    return (Archive(name, urls, f"md5:{md5}" if md5 else None, size),)


_MODELNET: dict[str, Any] = {
    "licence": "academic use only; the models belong to their authors (modelnet.cs.princeton.edu)",
    "citation": "Wu et al., 3D ShapeNets: A deep representation for volumetric shapes, CVPR 2015",
    "page": "https://modelnet.cs.princeton.edu",
}
_SHAPENETPART: dict[str, Any] = {
    "licence": "non-commercial research and education (shapenet.org/terms)",
    "citation": "Yi et al., A scalable active framework for region annotation in 3D shape "
    "collections, SIGGRAPH Asia 2016",
    "page": "https://shapenet.org",
    "counts": {"classes": 16, "train": 12137, "val": 1870, "test": 2874},
}

_ALL = (
    CatalogEntry(
        name="modelnet10",
        title="ModelNet10, meshes (OFF)",
        layout="meshes",
        folder="ModelNet10",
        archives=_archive(
            "ModelNet10.zip",
            "https://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip",
            "https://vision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip",
            md5="18f4c73879802c35aa6178f8e773a99e",
            size=473_402_300,
        ),
        megabytes=473,
        counts={"classes": 10, "train": 3991, "test": 908},
        up="z",
        prepared="modelnet10_ply_hdf5_2048",
        **_MODELNET,
    ),
    CatalogEntry(
        name="modelnet40",
        title="ModelNet40, meshes (OFF)",
        layout="meshes",
        folder="ModelNet40",
        archives=_archive(
            "ModelNet40.zip",
            "https://modelnet.cs.princeton.edu/ModelNet40.zip",
            md5="79bcee68fdf02f581938ba15f4cdca51",
        ),
        megabytes=2000,
        counts={"classes": 40, "train": 9843, "test": 2468},
        up="z",
        # Not the name of the published HDF5 files: figures on the two cannot be compared.
        prepared="modelnet40_meshes_ply_hdf5_2048",
        **_MODELNET,
    ),
    CatalogEntry(
        name="modelnet40_ply_hdf5_2048",
        title="ModelNet40, 2,048 points (HDF5): what 'train modelnet40' reads",
        layout="modelnet_h5",
        folder="modelnet40_ply_hdf5_2048",
        archives=_archive(
            "modelnet40_ply_hdf5_2048.zip",
            f"{HUB}/Msun/modelnet40/resolve/main/modelnet40_ply_hdf5_2048.zip",
            "https://github.com/ma-xu/pointMLP-pytorch/releases/download/"
            "Modenet40_dataset/modelnet40_ply_hdf5_2048.zip",
            f"{STANFORD}/modelnet40_ply_hdf5_2048.zip",
            md5="c9ab8e6dfb16f67afdab25e155c79e59",
        ),
        megabytes=435,
        mirrored=True,
        # Three training shapes of the meshes are missing from the published files.
        counts={"classes": 40, "train": 9840, "test": 2468},
        md5={
            "ply_data_train0.h5": "3176385ffc31a7b6b5af22191fd920d1",
            "ply_data_train1.h5": "e3f613fb500559403b34925112754dc4",
            "ply_data_train2.h5": "0c56e233a090ff87c3049d4ce08e7d8b",
            "ply_data_train3.h5": "9d2af465adfa33a3285c369f3ca66c45",
            "ply_data_train4.h5": "dff38de489b2c41bfaeded86c2208984",
            "ply_data_test0.h5": "e9732e6d83b09e79e9a7617df058adee",
            "ply_data_test1.h5": "aba4b12a67c34391cc3c015a6f08ed4b",
        },
        **_MODELNET,
    ),
    CatalogEntry(
        name="modelnet40_normal_resampled",
        title="ModelNet40, 10,000 points with normals (text)",
        layout="modelnet_txt",
        folder="modelnet40_normal_resampled",
        archives=_archive(
            "modelnet40_normal_resampled.tar.gz",
            f"{HUB}/Pointcept/modelnet40_normal_resampled-compressed/resolve/main/"
            "modelnet40_normal_resampled.tar.gz",
            md5="46ed374f8ef5f7504ec4870298772ac2",
        )
        + _archive(
            "modelnet40_normal_resampled.zip", f"{STANFORD}/modelnet40_normal_resampled.zip"
        ),
        megabytes=1600,
        counts={"classes": 40, "train": 9843, "test": 2468},
        mirrored=True,
        prepared="modelnet40_normal_ply_hdf5_2048",
        **_MODELNET,
    ),
    CatalogEntry(
        name="shapenetpart",
        title="ShapeNetPart, 2,048 points (HDF5): what 'train shapenetpart' reads",
        layout="parts_h5",
        folder="shapenet_part_seg_hdf5_data",
        archives=_archive(
            "shapenet_part_seg_hdf5_data.zip", f"{STANFORD}/shapenet_part_seg_hdf5_data.zip"
        ),
        megabytes=346,
        md5={
            "ply_data_train0.h5": "e7152ff588ae6c87eb1156823df05855",
            "ply_data_train1.h5": "b4894a082211418b61b5a707fedb4f56",
            "ply_data_train2.h5": "508eeeee96053b90388520c37df3a8b8",
            "ply_data_train3.h5": "88574c3d5c61d0f3156b9e02cd6cda03",
            "ply_data_train4.h5": "418cb01104740bf1353b792331cb5878",
            "ply_data_train5.h5": "26e65c8827b08f7c340cd03f902e27e8",
            "ply_data_val0.h5": "628b4b3cbc17765de2114d104e51b9c9",
            "ply_data_test0.h5": "fa3fb32b179128ede32c2c948ed83efc",
            "ply_data_test1.h5": "5eb63ae378831c665282c8f22b6c1249",
        },
        **_SHAPENETPART,
    ),
    CatalogEntry(
        name="shapenetpart_normal",
        title="ShapeNetPart with normals (text)",
        layout="parts_txt",
        folder="shapenetcore_partanno_segmentation_benchmark_v0_normal",
        archives=_archive(
            "shapenetcore_partanno_segmentation_benchmark_v0_normal.zip",
            f"{HUB}/wangps/shapenet_segmentation/resolve/main/"
            "shapenetcore_partanno_segmentation_benchmark_v0_normal.zip",
            f"{STANFORD}/shapenetcore_partanno_segmentation_benchmark_v0_normal.zip",
        ),
        megabytes=674,
        **_SHAPENETPART,
    ),
    CatalogEntry(
        name="scanobjectnn",
        title="ScanObjectNN, scans of real objects (HDF5)",
        layout="scanobjectnn",
        folder="ScanObjectNN",
        archives=_archive(
            "h5_files.zip",
            "https://hkust-vgd.ust.hk/scanobjectnn/h5_files.zip",
            md5="36876af479f9ad39abad5ebcd89038dd",
            size=13_099_259_542,
        ),
        megabytes=13_100,
        licence="research only, after accepting the terms of use",
        citation="Uy et al., Revisiting point cloud classification, ICCV 2019",
        page="https://hkust-vgd.github.io/scanobjectnn",
        terms="https://hkust-vgd.github.io/scanobjectnn",
        counts={"train": 11416, "test": 2882},
    ),
    CatalogEntry(
        name="modelnet40_c",
        title="ModelNet40-C, 15 corruptions at 5 severities (NPY)",
        layout="modelnet40_c",
        folder="modelnet40_c",
        archives=_archive(
            "modelnet40_c.zip",
            "https://zenodo.org/records/6017834/files/modelnet40_c.zip?download=1",
            md5="c4a7fffaa52c80b33f7b3a0ac7782d3b",
            size=1_970_686_633,
        ),
        megabytes=1971,
        licence="CC BY 4.0",
        citation="Sun et al., Benchmarking robustness of 3D point cloud recognition against common "
        "corruptions, 2022",
        page="https://zenodo.org/records/6017834",
        counts={"sets": 75, "test": 2468},
        mirrored=True,
    ),
    CatalogEntry(
        name="modelnet_c",
        title="ModelNet-C (PointCloud-C), 7 corruptions at 5 levels (HDF5)",
        layout="modelnet_c",
        folder="modelnet_c",
        archives=_archive(
            "modelnet_c.zip",
            "https://drive.usercontent.google.com/download"
            "?id=1KE6MmXMtfu_mgxg4qLPdEwVD5As8B0rm&export=download&confirm=t",
        ),
        megabytes=None,
        licence="CC BY-NC-SA 4.0",
        citation="Ren et al., Benchmarking and analyzing point cloud classification under "
        "corruptions, ICML 2022",
        page="https://pointcloud-c.github.io/download.html",
        counts={"sets": 35, "test": 2468},
        mirrored=True,
    ),
)

CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in _ALL}


def entry_of_folder(folder_name: str) -> CatalogEntry | None:
    """The entry whose folder, or whose prepared folder, has this name; None for others."""
    every = CATALOG.values()
    return next((each for each in every if folder_name in (each.folder, each.prepared)), None)


def find_entry(name: str) -> CatalogEntry:
    """The entry called ``name``, by its own name or that of its folder, in any case.

    Raises:
        ValueError: if there is none; lists the names.
    """
    plain = name.lower().replace("-", "_")
    for entry in CATALOG.values():
        if plain in (entry.name, entry.folder.lower()):
            return entry
    check_choice("name", name, CATALOG)
    raise AssertionError  # an exact name was found above
