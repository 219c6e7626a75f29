import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import NormalizeScale

from ea_pointcloud.datasets import ProceduralShapes
from ea_pointcloud.datasets.pyg import from_pyg, to_pyg
from ea_pointcloud.models import create_model


def test_there_and_back_through_pygs_loader() -> None:
    shapes = ProceduralShapes("test", num_shapes=4, num_points=50)
    graphs = [to_pyg(shapes[index]) for index in range(4)]
    assert torch.equal(graphs[2].part_label, shapes.part_label[2])
    back = from_pyg(next(iter(DataLoader(graphs, batch_size=4))))
    assert torch.equal(back["xyz"], shapes.xyz)
    assert bool(back["mask"].all())
    assert torch.equal(back["label"], shapes.label)
    assert NormalizeScale()(graphs[0]).pos.abs().max() < 1


def test_clouds_of_different_sizes_give_what_each_gives_alone() -> None:
    torch.manual_seed(0)
    model = create_model("ea_classifier_tiny", num_classes=5, feature_channels=2).eval()
    generator = torch.Generator().manual_seed(0)
    graphs = [
        Data(pos=torch.rand(n, 3, generator=generator), x=torch.rand(n, 2, generator=generator))
        for n in (40, 90, 7)
    ]
    batch = from_pyg(next(iter(DataLoader(graphs, batch_size=3))))
    assert batch["mask"].sum(1).tolist() == [40, 90, 7]
    with torch.no_grad():
        together = model(batch["xyz"], batch["features"], mask=batch["mask"])
        alone = torch.cat([model(graph.pos[None], graph.x[None]) for graph in graphs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    single = from_pyg(graphs[0])  # no batch vector
    assert single["xyz"].shape == (1, 40, 3)


def test_what_cannot_be_converted_says_why() -> None:
    with pytest.raises(
        ValueError, match=r"xyz must have shape \(N, 3\), got \(2, 5, 3\); index one"
    ):
        to_pyg({"xyz": torch.zeros(2, 5, 3), "label": torch.zeros(2)})
    with pytest.raises(
        ValueError, match=r"the PyG batch has no pos; set data.pos to the coordinat"
    ):
        from_pyg(Data(x=torch.zeros(3, 1)))
