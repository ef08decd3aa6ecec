"""What can be wrong with something saved, one error for each."""


class StorageError(ValueError):
    """Something saved cannot be used, or something cannot be saved. The errors below say which."""


class DamagedError(StorageError):
    """It was saved by this package, and is not as it was saved: truncated, changed, or incomplete."""


class ForeignError(StorageError):
    """It was not saved by this package, or is something else than what was asked for."""


class NewerVersionError(StorageError):
    """It was saved by a later version of this package, in a format that this one does not know."""


class OtherSpacesError(StorageError):
    """It belongs to an environment with other spaces, another number of copies, or other wrappers."""


class MissingArgumentError(StorageError):
    """It needs an argument that could not be saved, a function for instance: it must be given again."""


class NotStorableError(StorageError, TypeError):
    """A value of a kind that could only be saved as code."""
