from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import Dataset

from mfcdm.branching import Branching
from mfcdm.build import build, check_arguments
from mfcdm.cli import config_folder
from mfcdm.datasets import open_dataset
from mfcdm.evaluation import PROTOCOLS, Protocol
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.samplers import Sampler
from mfcdm.sde import SDE, CosineVPSDE
from mfcdm.settings import EvaluateKeys, SampleKeys, TrainKeys
from mfcdm.subdivision import Subdivision
from mfcdm.training.loggers import Logger
from mfcdm.training.options import TrainerOptions
from mfcdm.training.validation import ValidationOptions

FOLDER = config_folder()
SIZES = {"dataset=shapes": ["dataset.num_clouds=2", "dataset.num_points=8"]}
EVERY = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.yaml"))
OPTIONS = [option for option in EVERY if not option.startswith("protocol/")]  # of train and sample
CATEGORIES = ("airplane", "chair", "headwear")  # experiments on an archive
COMMANDS = {"train": TrainKeys, "sample": SampleKeys, "evaluate": EvaluateKeys}
KINDS = {
    "sde": SDE,
    "subdivision": Subdivision,
    "branching": Branching,
    "network": nn.Module,
    "sampler": Sampler,
    "dataset": Dataset,
}


@pytest.fixture(scope="module", autouse=True)
def _in_the_folder():
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Miniature data sets by the option that reads them."""
    root = tmp_path_factory.mktemp("data")
    clouds = np.random.default_rng(0).normal(size=(3, 16, 3))
    np.save(root / "clouds.npy", clouds)
    off = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
    lists = root / "part/train_test_split/shuffled_train_file_list.json"
    for path, content in (
        (root / "folder/a.off", off),
        (root / "modelnet/ModelNet10/chair/train/chair_0001.off", off),
        (root / "part/03001627/a.txt", "0 0 0 1 0 0 12\n"),
        (lists, '["shape_data/03001627/a"]'),
        (root / "15k/02691156/train/a.npy", ""),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(content)
    np.save(root / "15k/02691156/train/a.npy", clouds[0])
    return {
        "dataset/archive": root / "clouds.npy",
        **{f"experiment/{name}{tail}": root / "clouds.npy" for name in CATEGORIES for tail in ("", "_gpu")},
        "dataset/folder": root / "folder",
        "dataset/modelnet": root / "modelnet",
        "dataset/shapenet15k": root / "15k",
        "dataset/shapenet_part": root / "part",
    }


def composed(command, *overrides):
    config = OmegaConf.to_container(compose(command, overrides=list(overrides)), resolve=True)
    check_arguments(COMMANDS[command], config, "")
    return config


def build_all(config):
    """Build every object of a configuration, as strictly as a stranger's checkpoint is built."""
    sde = build(config["sde"], SDE)
    subdivision = build(config["subdivision"], Subdivision, sde=sde)
    assert subdivision.times[-1] > sde.t_min
    build(config["objective"], MeanFieldScoreMatching, sde=sde, subdivision=subdivision)
    build(config["network"], nn.Module)
    build(config["sampler"], Sampler)
    build(config["branching"], Branching)
    check_arguments(TrainerOptions, config["trainer"], "trainer.")
    TrainerOptions(**{**config["trainer"], "max_steps": 1})  # the commands give a bound where none is set
    check_arguments(ValidationOptions, config["validation"], "validation.")
    ValidationOptions(**config["validation"])


def of_group(option, data):
    """The overrides that choose an option, with a path where it needs one."""
    group, name = option.split("/")
    given = [f"{group}={name}"]
    if option in data:
        given.append(f"dataset.path={data[option]}")
    return given


def test_all_yaml_files_are_tested():
    tested = {FOLDER / f"{name}.yaml" for name in (*COMMANDS, *EVERY)}
    assert set(FOLDER.rglob("*.yaml")) == tested


def test_defaults_build():
    build_all(composed("train"))
    build(composed("sample", "checkpoint=somewhere")["sampler"], Sampler)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_with_train_and_builds(option, data):
    config = composed("train", *of_group(option, data))
    build_all(config)
    if option == "dataset/auto":
        check_arguments(open_dataset, {key: value for key, value in config["dataset"].items() if key != "_target_"}, "")
    elif option.startswith("dataset/"):
        assert len(build(config["dataset"], Dataset)) >= 1


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.startswith("sampler/")])
def test_every_sampler_composes_with_sample(option):
    config = composed("sample", "checkpoint=somewhere", option.replace("/", "="))
    build(config["sampler"], Sampler)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_are_those_of_the_library(name):
    keys = composed("evaluate", "generated=a", "reference=b", f"protocol={name}")["protocol"]
    check_arguments(Protocol, keys, "")
    written = {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}
    assert Protocol(**written) == PROTOCOLS[name]
    assert set(PROTOCOLS) == {option.removeprefix("protocol/") for option in EVERY if option.startswith("protocol/")}


def test_loggers_build_as_strictly_as_everything_else(tmp_path):
    assert composed("train")["logger"]["mode"] == "offline"
    assert composed("train", "logger=none")["logger"] == {"_target_": None}
    config = composed("train", "logger=wandb", "logger.mode=disabled")
    assert isinstance(build(config["logger"], Logger, folder=tmp_path, config=config), Logger)
    config = composed("train", "logger=wandb", "+logger.projct=a")
    with pytest.raises(ValueError, match="projct is unknown"):
        build(config["logger"], Logger, folder=tmp_path, config=config)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.split("/")[0] in KINDS])
def test_unknown_keys_are_refused_by_what_is_built(option, data):
    group = option.split("/")[0]
    if option == "dataset/auto":
        pytest.skip("a function, called by the command; tests/commands covers it")
    config = composed("train", *of_group(option, data), f"+{group}.unheard_of=1")
    with pytest.raises(ValueError, match="unheard_of is unknown"):
        build(config[group], KINDS[group], sde=CosineVPSDE())


@pytest.mark.parametrize("key", ["seeed", "network.widht", "trainer.steps", "sampler.steps"])
def test_unknown_keys_are_refused_by_composition(key):
    with pytest.raises(ConfigCompositionException, match=key.replace(".", r"\.")):
        compose("train", overrides=[f"{key}=1"])


def test_unknown_keys_at_the_top_are_refused():
    with pytest.raises(ValueError, match=r"^steps is unknown"):
        composed("train", "+steps=3")
    with pytest.raises(ValueError, match=r"^steps is unknown"):
        composed("sample", "checkpoint=somewhere", "+steps=3")


def test_sizes_are_ordered():
    def parameters(name):
        network = build(composed("train", f"network={name}")["network"], nn.Module)
        return sum(weight.numel() for weight in network.parameters())

    assert parameters("tiny") < parameters("small") < parameters("base")


@pytest.mark.parametrize("name", [*CATEGORIES, "shapes"])
def test_the_gpu_variant_is_the_same_experiment(name, data):
    here, there = (composed("train", *of_group(f"experiment/{name}{tail}", data)) for tail in ("", "_gpu"))
    assert here["name"] == there["name"] == name
    for same in ("dataset", "subdivision", "sde", "objective"):
        assert here[same] == there[same]
    assert there["trainer"]["accelerator"] == "cuda"


def test_small_is_the_default_of_the_library():
    from mfcdm.networks import ScoreNetwork

    configured = build(composed("train", "network=small")["network"], nn.Module)
    shapes = {name: weight.shape for name, weight in ScoreNetwork().state_dict().items()}
    assert {name: weight.shape for name, weight in configured.state_dict().items()} == shapes


def test_configurations_lie_beside_the_package_in_a_clone():
    assert Path(__file__).resolve().parents[1] / "configs" == FOLDER
