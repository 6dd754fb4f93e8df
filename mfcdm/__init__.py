"""mfcdm: generative modelling of point clouds with mean-field chaos diffusion.

`import mfcdm` is instant; `mfcdm.sde`, `mfcdm.samplers` and the other modules are imported when first used.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from mfcdm.version import __version__

__all__ = ["__version__"]

_MODULES = frozenset(module.name for module in iter_modules(__path__))


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
