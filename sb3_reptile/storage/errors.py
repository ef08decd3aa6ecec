"""Errors of saving and loading, one class for each thing that can be wrong, and warnings."""

import sys
import warnings

#: What constructors raise when they are called with invalid arguments; warnings, if they are raised as errors
CONSTRUCTION_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    Warning,
)


class StorageError(ValueError):
    """A saved file cannot be used, or a value cannot be saved. The subclasses say why."""


class DamagedError(StorageError):
    """The files were written by this package and have changed since: truncated, modified or incomplete."""


class UnreadableError(StorageError):
    """The system cannot read the files: permissions, a failing disk, or something that is not a file in its place."""


class ForeignError(StorageError):
    """The files were not written by this package, or hold something other than what was requested."""


class NewerVersionError(StorageError):
    """
    The files were written by a later version of this package, in a format that this version cannot read.

    :param intact: Whether the checksum matches. If not, they may be damaged instead.
    """

    def __init__(self, message: str, intact: bool = True) -> None:
        super().__init__(message)
        self.intact = intact


class OtherSpacesError(StorageError):
    """The files belong to an environment with other spaces, another number of copies or other wrappers."""


class MissingArgumentError(StorageError):
    """An argument could not be saved, for instance a function, and must be passed again."""


class ArgumentError(StorageError):
    """An argument given to ``resume()`` or ``load()`` does not go with what was saved: it cannot be changed."""


class NotOursError(StorageError, FileExistsError):
    """There is something at the path that this package did not save, and would have to delete."""


class InUseError(StorageError):
    """Another process uses the folder."""


class NotStorableError(StorageError, TypeError):
    """A value has a type that cannot be saved without pickle."""


def warn(message: str) -> None:
    """
    Warn of the first caller outside of this package.

    :param message: What to say
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("sb3_reptile.", "functools")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level - 1)
