"""Extras: packages that only some rooms need, and the error without them."""

from __future__ import annotations


def missing_extra(error: ModuleNotFoundError, extra: str, module: str) -> ModuleNotFoundError:
    """Return the error for a module whose packages are not installed.

    Args:
        error: The error of the import.
        extra: The extra of goevent that installs the package.
        module: The module that needs it.
    """
    return ModuleNotFoundError(
        f"{module} needs the package {error.name}: pip install 'goevent[{extra}]'", name=error.name
    )
