"""Whether the validation score still improves, by more than its interval leaves open."""

import math
from dataclasses import dataclass

from mfcdm.training.validation import Scores


@dataclass
class Plateau:
    """The validation that none has measurably improved on since, and how many have tried.

    Let e = |1-NNA - 1/2|, with the ends l and u that the 95 % interval of the 1-NNA gives it. A later validation k has
    improved on S where the interval of the difference lies above 0:

        e_S - e_k > sqrt((e_S - l_S)^2 + (u_k - e_k)^2)

    It takes the two scores for independent. They share their held-out clouds and the noise that clouds are drawn from,
    so they err alike, and the rule asks for more than it has to: it calls no chance an improvement, but may overlook
    small ones. Many small ones add up, as all are compared with S.

    Args:
        step: of S, -1 before the first validation.
        score: 1-NNA of S.
        error: e_S.
        low: l_S.
        since: validations after S.

    Source: Newcombe, Interval estimation for the difference between independent proportions (1998), method 10.
    """

    step: int = -1
    score: float = math.nan
    error: float = math.inf
    low: float = math.inf
    since: int = 0

    def add(self, step: int, scores: Scores) -> None:
        """Take a validation in."""
        low, high = scores.error_interval
        known = math.hypot(self.error - self.low, high - scores.error) if self.step >= 0 else 0.0
        if self.error - scores.error > known:
            self.step, self.score, self.error, self.low, self.since = step, scores.score, scores.error, low, 0
        else:
            self.since += 1

    def sentence(self, scores: Scores) -> str:
        """What to say, with the newest scores."""
        low, high = (scores.values[f"validation/1nna-cd/{end}"] for end in ("low", "high"))
        return (
            f"the validation score has not improved beyond its interval since step {self.step} ({self.since} "
            f"validations): 1-NNA {self.score:.1%} there, {scores.score:.1%} ({low:.1%} to {high:.1%}) now"
        )
