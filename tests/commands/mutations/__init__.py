"""Rules that turn whole files into hostile ones: of checkpoints, of meshes and points, of archives."""

from tests.commands.mutations import archives, checkpoints, shapes
from tests.commands.mutations.rules import RULES, Rule

__all__ = ["RULES", "Rule", "archives", "checkpoints", "shapes"]
