"""The data of a run: the clouds that it trains on, and those that it is validated against."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import Tensor
from torch.utils.data import Dataset

from mfcdm.build import build, check_arguments
from mfcdm.commands.classes import in_turn
from mfcdm.datasets import (
    CloudDataset,
    Clouds,
    MappedClouds,
    Normalization,
    clouds_of,
    open_archive,
    open_dataset,
    rescaled,
)
from mfcdm.datasets.clouds import Scheme
from mfcdm.settings import Group
from mfcdm.training.augmentation import Augmentation
from mfcdm.training.batches import Batches, BatchesAhead
from mfcdm.training.validation import MIN_CLOUDS, held_out
from mfcdm.wording import counted

# Functions of ours, which `build` does not know: they choose a class by what lies at a path.
OPENERS: dict[object, Callable[..., CloudDataset]] = {
    "mfcdm.datasets.open_dataset": open_dataset,
    "mfcdm.datasets.CloudArchive": open_archive,
}


class NothingHeldOut(Exception):
    """A data set has no clouds that training does not see; the text says why."""


def open_data(config: Group, trust: bool) -> CloudDataset:
    """The data set that a configuration names.

    Raises:
        FileNotFoundError: if its files are not there; of a relative path it says from where.
        ValueError: if it cannot be built or read.
    """
    try:
        return _opened(config, trust)
    except FileNotFoundError as error:
        path = config.get("path")
        if path is None or Path(path).is_absolute():
            raise
        said = f"{error.filename}: {error.strerror}" if error.strerror else str(error)
        raise FileNotFoundError(f"{said}; dataset.path={path} is relative to {Path.cwd()}") from error


def _opened(config: Group, trust: bool) -> CloudDataset:
    if not isinstance(config, Mapping):
        raise ValueError(f"dataset={config} must be a group of keys with a _target_")
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    if (opener := OPENERS.get(config.get("_target_"))) is not None:
        check_arguments(opener, arguments, "dataset.")
        return opener(**arguments)
    return cast(CloudDataset, build(config, Dataset, trust=trust))


def read_clouds(config: Group, trust: bool) -> Clouds:
    """The clouds of a data set as they are in its files: those of a mapped archive stay there until they are needed.

    Raises:
        FileNotFoundError: if its files are not there.
        ValueError: if it cannot be built or read, or one of its clouds cannot be used.
    """
    return clouds_of(open_data(config, trust))


def read_augmentation(config: Group) -> Augmentation:
    """How training clouds are changed; runs of earlier versions say nothing about it.

    Raises:
        ValueError: if an option is unknown or out of its range.
    """
    options = config.get("augmentation") or {}
    check_arguments(Augmentation, options, "augmentation.")
    return Augmentation(**options)


def batches_of(clouds: Clouds, batch_size: int, seed: int, num_particles: int, augmentation: Augmentation) -> Batches:
    """What every step sees: read ahead in a thread where clouds are in files, or have to be changed.

    Of a cloud in a file at most 2 N_K points are read: N_K for the objective, and as many for a learned branching,
    which compares particles with fresh ones.

    Args:
        clouds: normalised.
        batch_size: clouds a batch.
        seed: of the run.
        num_particles: N_K, of the last level.
        augmentation: of every cloud.

    Raises:
        ValueError: if the clouds cannot be changed so.
    """
    augmentation.check_dim(clouds.x.shape[2])
    in_files = isinstance(clouds, MappedClouds)
    kind = BatchesAhead if in_files or augmentation.active else Batches
    return kind(clouds, batch_size, seed, 2 * num_particles if in_files else None, augmentation)


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
        raise NothingHeldOut(f"split val has {counted(len(clouds), 'cloud')}, at least {MIN_CLOUDS} are needed")
    unseen = {_fingerprint(cloud) for cloud in clouds.each()}
    for index in range(len(training)):
        unseen.discard(_fingerprint(training.cloud(index)))
        if not unseen:
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
    training = read_clouds(config, trust)
    try:
        title, clouds = "held-out data", held_out_clouds(config, trust, training, enough, seed=0)
        if labels and clouds.categories != training.categories:
            raise NothingHeldOut("the labels of split val mean other classes")
    except NothingHeldOut:
        title, clouds = "training data", training
    return title, [cloud[:num_points] for cloud in of_classes(rescaled(clouds, scheme), labels, count)]


def of_classes(clouds: Clouds, labels: Sequence[int], count: int) -> list[Tensor]:
    """The first clouds of a set, at most `count`; where labels are given, the next of each label in turn."""
    if not labels or clouds.labels is None:
        return [clouds.cloud(index) for index in range(min(count, len(clouds)))]
    waiting = {label: iter((clouds.labels == label).nonzero()[:, 0].tolist()) for label in labels}
    found = [next(waiting[label], None) for label in in_turn(labels, count)]
    return [clouds.cloud(index) for index in found if index is not None]


def normalized(clouds: Clouds, normalization: Normalization) -> Clouds:
    """The clouds in the network's coordinates."""
    return clouds.map(lambda x, _: normalization.apply(x), pointwise=True)


def _fingerprint(cloud: Tensor) -> tuple[int, bytes]:
    """What tells one cloud of a set from another: its size and its first points."""
    return len(cloud), cloud[:16].numpy().tobytes()
