"""Whose fault an error is: the only question the layers above ask of an exception.

The classes live in the lowest package so that every layer can raise and catch the same ones; ``edge_runtime``
re-exports them. A message names the value, the bound it broke and what happens next.
"""

from __future__ import annotations

__all__ = ["DeviceFault", "FedgeError", "LocalError", "RemoteError"]


class FedgeError(Exception):
    """The base of every error that fedge raises on purpose."""


class LocalError(FedgeError):
    """Our caller or the owner's configuration is at fault: retrying the same call cannot help."""


class RemoteError(FedgeError):
    """The peer or its bytes are at fault: it sent what the protocol does not allow, or it went away."""


class DeviceFault(FedgeError):
    """The hardware, the disk or the operating system is at fault: retrying may help once somebody has seen to it."""
