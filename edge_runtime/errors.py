"""The error classes of the whole project, re-exported from the lowest layer."""

from firmware_bridge.errors import DeviceFault, FedgeError, LocalError, RemoteError

__all__ = ["DeviceFault", "FedgeError", "LocalError", "RemoteError"]
