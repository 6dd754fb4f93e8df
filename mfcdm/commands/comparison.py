"""What samples are scored against: checked before they are drawn, done when they are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import torch

from mfcdm.checkpoint import Checkpoint
from mfcdm.commands.console import say
from mfcdm.commands.outputs import REPORT, SAMPLES
from mfcdm.commands.scoring import Opened, publish, score
from mfcdm.datasets import Clouds
from mfcdm.evaluation import Protocol, check_sets
from mfcdm.training.scores import RecordedRun


@dataclass(frozen=True)
class Comparison:
    """A comparison that waits for its samples.

    Args:
        reference: the clouds to compare with.
        protocol: how.
        device: of chamfer distances.
        run: the training run whose W&B run gets the scores, None for none.
    """

    reference: Opened
    protocol: Protocol
    device: str
    run: RecordedRun | None

    def check(self, model: Checkpoint, num_clouds: int, num_particles: Sequence[int]) -> None:
        """Refuse, before any is drawn, samples that could not be scored.

        Args:
            model: which they are drawn from.
            num_clouds: B.
            num_particles: cardinalities, which the clouds take in turn.

        Raises:
            ValueError: what `evaluate` would say of them.
        """
        dim = len(model.normalization.mean)
        planned = [torch.rand(size, dim) for size in islice(cycle(num_particles), num_clouds)]
        try:
            check_sets(Clouds.join(planned), self.reference.clouds, self.protocol)
        except ValueError as error:
            raise ValueError(f"evaluate={self.reference.about['path']}: {error}") from error
        scheme = model.config.get("normalization", "global")
        if scheme != "global" and self.protocol.normalization == "none":
            say(
                f"warning: training scaled each cloud by itself (normalization={scheme}), and so are the samples; "
                f"if those of evaluate={self.reference.about['path']} are not, protocol.normalization={scheme} "
                "brings both to one scale"
            )

    def finish(self, folder: Path) -> None:
        """Score the samples in a folder, write the report there, print the table, and record the scores."""
        generated = Opened.at(folder / SAMPLES, "train")
        publish(score(generated, self.reference, self.protocol, self.device), folder / REPORT, self.run)


def recorded_run(checkpoint: Path) -> RecordedRun | None:
    """The training run of a checkpoint, where a W&B run has recorded it."""
    try:
        return RecordedRun.of(checkpoint)
    except FileNotFoundError:
        return None
