from dataclasses import dataclass
from typing import Any, Literal

import pytest
from torch import nn
from torch.utils.data import Dataset

from mfcdm.build import build, check_arguments
from mfcdm.datasets import ParametricShapes
from mfcdm.networks import ScoreNetwork
from mfcdm.samplers import Geometric, Langevin, PredictorCorrector, Sampler, UnderdampedLangevin
from mfcdm.sde import SDE, VPSDE, CosineVPSDE
from mfcdm.subdivision import Subdivision


class Own(nn.Module):
    """A user's own network."""

    def __init__(self, width: int = 3, inner: Any = None) -> None:
        super().__init__()
        self.width, self.inner = width, inner


HERE = f"{__name__}.Own"

# Each of these would run, delete, write or hand out something if its target were called.
HOSTILE = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "torch.load",
    "torch.nn.Linear",
    "mfcdm.build.inspect.Signature",
    "mfcdm.build.import_module",
    "mfcdm.checkpoint.os.system",
    "mfcdm.checkpoint.shutil.rmtree",
    "mfcdm.checkpoint.save",
    "mfcdm.checkpoint.Path",
    "mfcdm.sde.torch.load",
    "mfcdm.networks.score_network.nn.Linear",
    "mfcdm.networks.ScoreNetwork.load_state_dict",
    "mfcdm.networks.ScoreNetwork.__init__",
    "mfcdm.networks.layers.nn",
    "mfcdm._secret.Class",
    "mfcdm.networks.ScoreNetwork.__class__",
    "mfcdm.datasets.ParametricShapes",  # ours, but no network
    "mfcdm.networks.Absent",
    "mfcdm",
    "mfcdm.",
    "",
    ".mfcdm.networks.ScoreNetwork",
    "mfcdm..networks.ScoreNetwork",
    "MFCDM.networks.ScoreNetwork",
    "mfcdm.networks/ScoreNetwork",
    HERE,
]


@pytest.mark.parametrize("target", HOSTILE)
def test_hostile_targets_are_refused(target):
    with pytest.raises(ValueError, match="refused") as caught:
        build({"_target_": target}, nn.Module)
    assert repr(target) in str(caught.value)


@pytest.mark.parametrize("target", [None, 3, ["os.system"], {"_target_": "os.system"}, b"os.system"])
def test_targets_that_are_no_text_are_refused(target):
    with pytest.raises(ValueError, match="_target_"):
        build({"_target_": target}, nn.Module)
    with pytest.raises(ValueError, match="_target_"):
        build({}, nn.Module)


@pytest.mark.parametrize(
    "nested",
    [
        {"_target_": "os.getcwd"},
        [{"_target_": "os.getcwd"}],
        {"deep": {"deeper": [{"_target_": "os.getcwd"}]}},
        ({"_target_": "mfcdm.sde.VPSDE"},),
    ],
)
def test_nested_targets_are_refused(nested):
    with pytest.raises(ValueError, match="may not hold another _target_"):
        build({"_target_": "mfcdm.networks.ScoreNetwork", "radius": nested}, nn.Module)


@pytest.mark.parametrize("target", [*HOSTILE, "mfcdm.sde.VPSDE", "mfcdm.samplers.Sampler.sample"])
def test_hostile_targets_are_refused_inside_a_configuration_too(target):
    """Where an argument may be an object of ours, its target is under the same rule."""
    nested = {"_target_": target, "command": "touch hostile"}
    with pytest.raises(ValueError, match="refused: a checkpoint builds only a Sampler of mfcdm") as caught:
        build({"_target_": "mfcdm.samplers.PredictorCorrector", "predictor": nested}, Sampler)
    assert repr(target) in str(caught.value)
    with pytest.raises(ValueError, match="PredictorCorrector may not hold another _target_, as its predictor does"):
        build({"_target_": "mfcdm.samplers.PredictorCorrector", "predictor": [nested]}, Sampler)


def test_a_sampler_may_hold_one_of_ours():
    kinetic = {"_target_": "mfcdm.samplers.UnderdampedLangevin", "friction": 1.0}
    config = {"_target_": "mfcdm.samplers.PredictorCorrector", "predictor": kinetic}
    expected = PredictorCorrector(predictor=UnderdampedLangevin(friction=1.0))
    for trust in (False, True):
        assert build(config, Sampler, trust=trust) == expected
    with pytest.raises(ValueError, match="UnderdampedLangevin: frition is unknown"):
        build({**config, "predictor": {**kinetic, "frition": 1.0}}, Sampler)
    with pytest.raises(ValueError, match="must be another sampler"):
        build({**config, "predictor": config}, Sampler)


def test_builds_our_own_classes():
    sde = build({"_target_": "mfcdm.sde.VPSDE", "beta_max": 10.0}, SDE)
    assert (type(sde), sde.beta_max) == (VPSDE, 10.0)
    sampler = build({"_target_": "mfcdm.samplers.Geometric", "num_steps": 7}, Sampler)
    assert (type(sampler), sampler.num_steps) == (Geometric, 7)
    dataset = build({"_target_": "mfcdm.datasets.ParametricShapes", "num_clouds": 2}, Dataset)
    assert (type(dataset), len(dataset)) == (ParametricShapes, 2)


def test_builds_by_class_method_and_passes_what_no_configuration_holds():
    config = {"_target_": "mfcdm.subdivision.Subdivision.dyadic", "num_particles": 64, "num_levels": 2}
    by_default = build(config, Subdivision)
    given = build(config, Subdivision, sde=VPSDE())
    assert by_default == Subdivision.dyadic(64, 2, sde=CosineVPSDE())
    assert given == Subdivision.dyadic(64, 2, sde=VPSDE())
    assert given != by_default
    # a target that has no such argument is built without it
    assert isinstance(build({"_target_": "mfcdm.samplers.Langevin"}, Sampler, sde=VPSDE()), Langevin)


def test_trust_allows_foreign_and_nested_targets():
    nested = {"_target_": "mfcdm.samplers.Langevin", "num_steps": 5}
    own = build({"_target_": HERE, "width": 4, "inner": nested}, nn.Module, trust=True)
    assert (own.width, own.inner) == (4, Langevin(num_steps=5))


def test_trusted_target_must_still_make_what_is_needed():
    with pytest.raises(ValueError, match="made a Langevin, but a Module is needed"):
        build({"_target_": "mfcdm.samplers.Langevin"}, nn.Module, trust=True)
    with pytest.raises(ValueError, match=r"nowhere\.at\.All cannot be built"):
        build({"_target_": "nowhere.at.All"}, nn.Module, trust=True)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"widht": 3}, "ScoreNetwork: widht is unknown; known are dim, width"),
        ({"width": "abc"}, "ScoreNetwork: width must be a whole number, got 'abc'"),
        ({"width": True}, "ScoreNetwork: width must be a whole number, got True"),
        ({"width": None}, "ScoreNetwork: width must be a whole number, got None"),
        ({"radius": 1.0}, "ScoreNetwork: radius must be a list, each a number, got 1.0"),
        ({"radius": ["a", "b"]}, r"ScoreNetwork: radius must be a list, each a number, got \['a', 'b'\]"),
        ({"prediction": "x"}, "ScoreNetwork: prediction must be one of v, noise, got 'x'"),
        ({"width": -1}, "width must be >= 1, got -1"),
    ],
)
def test_bad_arguments_are_named(entries, sentence, trust):
    with pytest.raises(ValueError, match=sentence):
        build({"_target_": "mfcdm.networks.ScoreNetwork", **entries}, ScoreNetwork, trust=trust)


def test_inherited_fields_are_checked():
    with pytest.raises(ValueError, match="num_steps must be a whole number, got 'x'"):
        build({"_target_": "mfcdm.samplers.Geometric", "num_steps": "x"}, Sampler)


def test_missing_arguments_are_named():
    with pytest.raises(ValueError, match="dyadic: num_levels is missing"):
        build({"_target_": "mfcdm.subdivision.Subdivision.dyadic", "num_particles": 64}, Subdivision)


def a_function(
    count: int, share: float, kind: Literal["a", "b"], name: str | None = None, sizes: tuple[int, ...] = (), **rest: Any
) -> None:
    """Annotated in the ways that configurations meet."""


@dataclass
class WithKeyword:
    """Takes a key whose name no parameter can have."""

    class_: str | None = None
    end_: int = 0


def test_a_key_that_is_a_keyword_is_meant_by_a_parameter_with_an_underscore():
    check_arguments(WithKeyword, {"class": "chair", "end_": 3}, "x.")
    for bad, sentence in (
        ({"class": 3}, r"^x\.class must be text or null, got 3$"),
        ({"class_": "chair"}, r"^x\.class_ is unknown; known are class, end_$"),
        ({"end": 3}, r"^x\.end is unknown"),
    ):
        with pytest.raises(ValueError, match=sentence):
            check_arguments(WithKeyword, bad, "x.")
    built = build({"_target_": f"{__name__}.WithKeyword", "class": "chair"}, WithKeyword, trust=True)
    assert built.class_ == "chair"


def test_whole_numbers_are_numbers_and_null_is_allowed_where_annotated():
    good = {"count": 1, "share": 1, "kind": "a", "name": None, "sizes": [1, 2], "anything": object()}
    check_arguments(a_function, good, "x.")
    for key, bad in {"count": 1.0, "share": "1", "kind": "c", "name": 3, "sizes": [1.5]}.items():
        with pytest.raises(ValueError, match=rf"^x\.{key} must be "):
            check_arguments(a_function, {**good, key: bad}, "x.")
