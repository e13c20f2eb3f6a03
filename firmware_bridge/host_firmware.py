"""The sensor firmware that runs on this computer: the board for those who have none."""

from __future__ import annotations

from pathlib import Path

from firmware_bridge import _codec
from firmware_bridge.errors import LocalError

__all__ = ["host_firmware_path"]


def host_firmware_path() -> Path:
    """Where ``fedge-sensor-host`` is installed: beside the compiled codec, in ``bin/``. LocalError if it is not."""
    path = Path(_codec.__file__).parent / "bin" / "fedge-sensor-host"
    if not path.is_file():
        raise LocalError(f"{path}: missing; the package was built without its executable, install it again")
    return path
