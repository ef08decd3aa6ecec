"""Saving without pickle: folders of arrays with checksums, and values as JSON. Imports no other part of the package."""

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
