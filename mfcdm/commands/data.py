"""The data of a run: the clouds that it trains on, and those that it is validated against."""

import sys
from collections.abc import Sequence
from typing import cast

from torch import Tensor
from torch.utils.data import Dataset

from mfcdm.build import build, check_arguments
from mfcdm.commands.classes import in_turn
from mfcdm.datasets import CloudDataset, Clouds, Normalization, open_dataset, rescaled
from mfcdm.datasets.clouds import Scheme
from mfcdm.settings import Group
from mfcdm.training.validation import MIN_CLOUDS, held_out


class NothingHeldOut(Exception):
    """A data set has no clouds that training does not see; the text says why."""


def open_data(config: Group, trust: bool) -> CloudDataset:
    """The data set that a configuration names.

    Raises:
        FileNotFoundError: if its files are not there.
        ValueError: if it cannot be built or read.
    """
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    if config.get("_target_") == "mfcdm.datasets.open_dataset":  # a function of ours, which `build` does not know
        check_arguments(open_dataset, arguments, "dataset.")
        return open_dataset(**arguments)
    return cast(CloudDataset, build(config, Dataset, trust=trust))


def held_out_clouds(config: Group, trust: bool, training: Clouds, num_clouds: int, seed: int) -> Clouds:
    """At most `num_clouds` clouds of the data set's own split `val`, drawn by seed, as they are in its files.

    Test clouds are never used. A file without splits gives the same clouds for every split, so what comes out is
    compared with the training clouds.

    Args:
        config: of the training data.
        trust: as in `build`.
        training: the clouds of `config` as they are in its files.
        num_clouds: at most so many.
        seed: of the draw.

    Raises:
        NothingHeldOut: if there is no such split, it is too small, or it holds nothing but training clouds.
        ValueError: if one of the clouds cannot be used.
    """
    if config.get("split") is None:
        raise NothingHeldOut("the data set has no splits")
    try:
        dataset = open_data({**config, "split": "val"}, trust)
    except (ValueError, FileNotFoundError) as error:
        raise NothingHeldOut(str(error)) from error
    clouds = held_out(dataset, num_clouds, seed)
    if len(clouds) < MIN_CLOUDS:
        raise NothingHeldOut(f"split val has {len(clouds)} clouds, at least {MIN_CLOUDS} are needed")
    seen = {_fingerprint(cloud) for cloud in training.points()}
    if all(_fingerprint(cloud) in seen for cloud in clouds.points()):
        raise NothingHeldOut("split val holds training clouds only")
    return clouds


def clouds_to_show(
    config: Group, trust: bool, scheme: Scheme, count: int, num_points: int, labels: Sequence[int] = ()
) -> tuple[str, list[Tensor]]:
    """Real clouds for a picture, of at most `num_points` points each, and what they are.

    Args:
        config: of the training data.
        trust: as in `build`.
        scheme: of normalisation, which the generated clouds share.
        count: at most so many, held-out ones where there are any.
        num_points: the first so many of each.
        labels: classes that they take in turn; none for clouds of any class.

    Raises:
        FileNotFoundError: if the data are no longer there.
        ValueError: if they cannot be read.
    """
    enough = sys.maxsize if labels else max(count, MIN_CLOUDS)  # among few there may be none of a class
    training = Clouds.of(open_data(config, trust))
    try:
        title, clouds = "held-out data", held_out_clouds(config, trust, training, enough, seed=0)
        if labels and clouds.categories != training.categories:
            raise NothingHeldOut("the labels of split val mean other classes")
    except NothingHeldOut:
        title, clouds = "training data", training
    return title, [cloud[:num_points] for cloud in of_classes(rescaled(clouds, scheme), labels, count)]


def of_classes(clouds: Clouds, labels: Sequence[int], count: int) -> list[Tensor]:
    """The first clouds of a set, at most `count`; where labels are given, the next of each label in turn."""
    points = clouds.points()
    if not labels or clouds.labels is None:
        return points[:count]
    waiting = {label: iter((clouds.labels == label).nonzero()[:, 0].tolist()) for label in labels}
    found = [next(waiting[label], None) for label in in_turn(labels, count)]
    return [points[index] for index in found if index is not None]


def normalized(clouds: Clouds, normalization: Normalization) -> Clouds:
    """The clouds in the network's coordinates."""
    return Clouds.join([normalization.apply(x) for x in clouds.points()], clouds.labels, clouds.categories)


def _fingerprint(cloud: Tensor) -> tuple[int, bytes]:
    """What tells one cloud of a set from another: its size and its first points."""
    return len(cloud), cloud[:16].numpy().tobytes()
