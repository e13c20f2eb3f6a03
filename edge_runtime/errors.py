"""The error classes of the whole project, re-exported from the lowest layer, and those that two rooms here share."""

from firmware_bridge.errors import DeviceFault, FedgeError, LocalError, RemoteError

__all__ = [
    "ColumnMissing",
    "DeviceFault",
    "ExtractorUnusable",
    "FedgeError",
    "LocalError",
    "NotEnoughYet",
    "RemoteError",
]


class ColumnMissing(LocalError):
    """The data lack a column that the task reads."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


class ExtractorUnusable(LocalError):
    """The model that a task wants to run first is not here or does not fit it, whatever the data are."""


class NotEnoughYet(LocalError):
    """A live sensor has not given one example so far; later it will."""
