"""Saving without pickle: folders of arrays with checksums, and values as JSON. Imports no other part of the package."""

from sb3_reptile.storage.errors import (
    ArgumentError,
    DamagedError,
    ForeignError,
    InUseError,
    MissingArgumentError,
    NewerVersionError,
    NotOursError,
    NotStorableError,
    OtherSpacesError,
    StorageError,
    UnreadableError,
)

__all__ = [
    "ArgumentError",
    "DamagedError",
    "ForeignError",
    "InUseError",
    "MissingArgumentError",
    "NewerVersionError",
    "NotOursError",
    "NotStorableError",
    "OtherSpacesError",
    "StorageError",
    "UnreadableError",
]
