import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import mfcdm.datasets
from mfcdm.datasets import CloudArchive, CloudFolder, ParametricShapes, open_dataset

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "dataset"
# Training on the test files too would be a mistake.
EXCEPTIONS = {"folder": {"split": "train"}}


def test_a_path_decides_what_is_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 5, 3)))
    (tmp_path / "folder" / "val").mkdir(parents=True)
    (tmp_path / "folder" / "val" / "a.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    assert isinstance(open_dataset(tmp_path / "a.npy"), CloudArchive)
    folder = open_dataset(str(tmp_path / "folder"), "val", num_points=7)
    assert isinstance(folder, CloudFolder)
    assert [len(item["x"]) for item in folder] == [7]
    with pytest.raises(ValueError, match="no split 'train'"):
        open_dataset(tmp_path / "folder")
    shapes = open_dataset(num_clouds=3, num_points=7)
    assert isinstance(shapes, ParametricShapes)
    assert len(shapes) == 3
    with pytest.raises(FileNotFoundError, match="gone is neither a file nor a folder"):
        open_dataset(tmp_path / "gone")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_hold_every_argument_with_its_default(path):
    config = yaml.safe_load(path.read_text())
    target = getattr(mfcdm.datasets, config.pop("_target_").removeprefix("mfcdm.datasets."))
    expected = {}
    for name, parameter in inspect.signature(target).parameters.items():
        default = "???" if parameter.default is parameter.empty else parameter.default
        expected[name] = list(default) if isinstance(default, tuple) else default
    expected |= EXCEPTIONS.get(path.stem, {})
    expected.pop("dtype", None)  # no plain value
    assert config == expected


def test_readers_are_imported_only_when_used():
    code = "import mfcdm.datasets, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"trimesh", "h5py", "torch_geometric"} & set(done.stdout.split())
