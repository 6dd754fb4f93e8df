"""A run on one page: curves, samples beside their nearest training shapes, configuration, scores."""

from mfcdm.report.page import write_report
from mfcdm.report.samples import find_samples

__all__ = ["find_samples", "write_report"]
