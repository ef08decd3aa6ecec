"""Errors of saving and loading: one class for each thing that can be wrong."""

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


class ForeignError(StorageError):
    """The files were not written by this package, or hold something other than what was requested."""


class NewerVersionError(StorageError):
    """The files were written by a later version of this package, in a format that this version cannot read."""


class OtherSpacesError(StorageError):
    """The files belong to an environment with other spaces, another number of copies or other wrappers."""


class MissingArgumentError(StorageError):
    """An argument could not be saved, for instance a function, and must be passed again."""


class NotStorableError(StorageError, TypeError):
    """A value has a type that cannot be saved without pickle."""
