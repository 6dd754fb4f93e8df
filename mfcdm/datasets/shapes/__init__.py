"""Procedural shapes: a function per category draws the triangles (F, 3, 3) of a shape from a random stream."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mfcdm.datasets.shapes.airplane import airplane
from mfcdm.datasets.shapes.chair import chair
from mfcdm.datasets.shapes.lamp import lamp
from mfcdm.datasets.shapes.mug import mug
from mfcdm.datasets.shapes.surface import Surface
from mfcdm.datasets.shapes.table import table

SHAPES: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "airplane": airplane,
    "chair": chair,
    "table": table,
    "mug": mug,
    "lamp": lamp,
}

__all__ = ["SHAPES", "Surface"]
