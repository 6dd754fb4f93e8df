"""What an evaluation found, with everything that is needed to repeat it."""

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy
import scipy
import torch

from mfcdm.evaluation.protocol import Protocol
from mfcdm.version import __version__

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Score:
    """One number of a report.

    Args:
        key: "1nna-cd", "mmd-emd", "jsd" and so on.
        value: of the score; fractions are fractions, distances are in the units of the compared coordinates.
        low: lower end of its interval, None where there is none.
        high: upper end of it.
        floor_low: lower end of the noise floor: what two samples of one law give at these sizes.
        floor_high: upper end of it.
        interval: where the interval comes from.
        p_value: share of label permutations whose 1-NNA is at least as far from its null mean.
        best: value of a perfect generator, in the limit of many clouds.
    """

    key: str
    value: float
    low: float | None = None
    high: float | None = None
    floor_low: float | None = None
    floor_high: float | None = None
    interval: str = ""
    p_value: float | None = None
    best: float = 0.0


@dataclass(frozen=True)
class Report:
    """The scores of a generated set, and how they came about.

    Args:
        protocol: how the sets were compared.
        scores: in the order of the protocol's metrics.
        sizes: clouds a set, and their points: {"clouds": n, "fewest_points": N, "most_points": N, "dimension": D}.
        notes: sentences about what was drawn and left out.
        seconds: by part of the work.
        details: further numbers, such as the share of assignments saved.
        files: path, split and sha256 of both sets, where they come from files.
    """

    protocol: Protocol
    scores: Sequence[Score]
    sizes: Mapping[str, int]
    notes: Sequence[str]
    seconds: Mapping[str, float]
    details: Mapping[str, float]
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Score:
        """The score of a key.

        Raises:
            KeyError: if the protocol has no such score.
        """
        for score in self.scores:
            if score.key == key:
                return score
        raise KeyError(key)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "protocol": asdict(self.protocol),
            "sizes": dict(self.sizes),
            "scores": {score.key: {k: v for k, v in asdict(score).items() if k != "key"} for score in self.scores},
            "notes": list(self.notes),
            "details": dict(self.details),
            "seconds": dict(self.seconds),
            "files": {name: dict(about) for name, about in self.files.items()},
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Of what computes scores."""
    return {
        "mfcdm": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(),
    }
