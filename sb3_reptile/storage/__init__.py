"""Saving without pickle: folders of checked arrays, and the values that can be told in JSON."""

from sb3_reptile.storage.errors import (
    DamagedError,
    ForeignError,
    MissingArgumentError,
    NewerVersionError,
    NotStorableError,
    OtherSpacesError,
    StorageError,
)

__all__ = [
    "DamagedError",
    "ForeignError",
    "MissingArgumentError",
    "NewerVersionError",
    "NotStorableError",
    "OtherSpacesError",
    "StorageError",
]
