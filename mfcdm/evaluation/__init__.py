"""Evaluation of generated clouds: a protocol, what it makes of two sets of clouds, and a report that says so."""

from mfcdm.evaluation.protocol import PROTOCOLS, Protocol
from mfcdm.evaluation.reading import checksum, read_clouds
from mfcdm.evaluation.report import Report, Score
from mfcdm.evaluation.scoring import check_sets, evaluate

__all__ = ["PROTOCOLS", "Protocol", "Report", "Score", "check_sets", "checksum", "evaluate", "read_clouds"]
