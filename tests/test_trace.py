"""How many files a reader follows: from a path to a class, and from coordinates to logits."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

PACKAGE = Path(__file__).parent.parent / "ea_pointcloud"

# Lists the files of the package whose functions run; what runs at an import does not count.
TRACE = """
import json, sys
from pathlib import Path

package, seen = Path(sys.argv[1]), set()


def profile(frame, event, _):
    if event != "call" or not frame.f_code.co_filename.startswith(str(package)):
        return
    above = frame
    while above is not None:
        if above.f_code.co_name == "<module>" and above.f_code.co_filename.startswith(str(package)):
            return
        above = above.f_back
    seen.add(Path(frame.f_code.co_filename).relative_to(package).as_posix())


def traced(call):
    sys.setprofile(profile)
    try:
        call()
    except SystemExit:
        pass
    sys.setprofile(None)
    print(json.dumps(sorted(seen)))

"""


def traced(code: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", TRACE + code, str(PACKAGE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_from_a_file_to_a_class(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.xyz", np.random.default_rng(0).normal(size=(300, 3)))
    code = "from ea_pointcloud.cli import main; sys.argv[1:] = sys.argv[2:]; traced(main)"
    files = traced(code, "classify", str(tmp_path / "a.xyz"))
    # Layers and operators have a test of their own below.
    files = [file for file in files if not file.startswith(("nn/", "ops/"))]
    assert len(files) <= 26, files


def test_from_coordinates_to_logits() -> None:
    code = (
        "import torch; from ea_pointcloud import create_model\n"
        "model = create_model('ea_classifier_tiny', num_classes=4).eval()\n"
        "xyz = torch.randn(2, 300, 3); model(xyz); traced(lambda: model(xyz))"
    )
    files = traced(code)
    # Behind the contract of an operator lie its implementations.
    files = [file for file in files if not file.startswith("ops/_")]
    assert len(files) <= 9, files
