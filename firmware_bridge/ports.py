"""Serial ports: which there are, under names that survive a replug, and opening one for ourselves alone."""

from __future__ import annotations

import errno
import fcntl
import os
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import serial
from serial.tools import list_ports as _list_ports

from firmware_bridge.errors import DeviceFault, LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PortInfo", "PortNotReady", "list_ports", "open_port"]

_BY_ID = Path("/dev/serial/by-id")


class PortNotReady(DeviceFault):
    """The port is missing or went away: it may come back."""


@dataclass(frozen=True, slots=True)
class PortInfo:
    """A port. ``stable_name`` belongs to the device and not to the order of plugging, where the system offers one."""

    stable_name: str
    device: str
    description: str


def list_ports() -> list[PortInfo]:
    """The serial ports of this machine, those with a stable name first."""
    by_device = {str(link.resolve()): str(link) for link in _links(_BY_ID)}
    found = [
        PortInfo(by_device.get(port.device, port.device), port.device, port.description or "")
        for port in _list_ports.comports()
    ]
    return sorted(found, key=lambda port: (port.stable_name == port.device, port.stable_name))


def open_port(url: str, *, baud: int = 115200, dtr: bool | None = None) -> serial.SerialBase:
    """Opens ``url`` (a device, a pty, ``socket://host:port`` or ``rfc2217://host:port``) raw, without waiting, and,
    where it is a device, for this process alone.

    ``dtr``: the level of DTR and RTS after opening. None leaves what the driver does, which resets an Arduino; False
    keeps most ESP32 boards running. PortNotReady when the port is missing; LocalError when it is taken, forbidden or
    no port.
    """
    if "://" in url:
        return _open_url(url, baud)
    try:
        port = serial.Serial(baudrate=baud, timeout=0, write_timeout=0, exclusive=True)
        if dtr is not None:
            port.dtr = port.rts = dtr
        port.port = url
        port.open()
    except (serial.SerialException, OSError) as error:
        raise _explain(url, baud, error) from error
    except ValueError as error:
        raise LocalError(f"{url}: no line runs at {baud} baud: {error}") from error
    try:
        # flock() binds only those who ask for it; TIOCEXCL makes the kernel refuse every later open() but root's.
        fcntl.ioctl(port.fileno(), termios.TIOCEXCL)
    except OSError as error:
        port.close()
        raise DeviceFault(f"{url}: cannot be locked: {error.strerror}") from error
    return port


def _open_url(url: str, baud: int) -> serial.SerialBase:
    try:
        address = urlsplit(url)
        if address.scheme in ("socket", "rfc2217") and (not address.hostname or address.port is None):
            raise ValueError("host or port is missing")
        return serial.serial_for_url(url, baudrate=baud, timeout=0)
    except ValueError as error:
        raise LocalError(f"{url}: not an address: {error}; want socket://host:port or rfc2217://host:port") from error
    except (serial.SerialException, OSError) as error:
        raise PortNotReady(f"{url}: nobody answers: {error}") from error


def _explain(url: str, baud: int, error: Exception) -> DeviceFault | LocalError:
    number = getattr(error, "errno", None)
    if number is None and isinstance(error.__context__, OSError | termios.error):
        number = error.__context__.args[0]  # pyserial wraps both and keeps the number for neither
    match number:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO | errno.EIO:
            return PortNotReady(f"{url}: there is no such port now; `fedge bridge ports` lists those there are")
        case errno.EACCES | errno.EPERM:
            group = _group_of(url)
            return LocalError(
                f"{url}: no permission; join group {group} (sudo usermod -aG {group} $USER) and log in again"
            )
        case errno.EBUSY | errno.EAGAIN:
            return LocalError(f"{url}: in use by {_owner_of(url)}; a line has one owner, stop that one first")
        case errno.ENOTTY:
            return LocalError(f"{url}: not a serial port")
    return DeviceFault(f"{url}: cannot be opened at {baud} baud: {error}")


def _group_of(path: str) -> str:
    try:
        return Path(path).group()
    except (OSError, KeyError):
        return "dialout"


def _owner_of(path: str) -> str:
    """The process that has ``path`` open, as far as this user may look."""
    target = os.path.realpath(path)
    for process in _links(Path("/proc")):
        if process.name.isdigit() and process.name != str(os.getpid()):
            for link in _links(process / "fd"):
                try:
                    if os.readlink(link) == target:
                        name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                        return f"{name} (process {process.name})"
                except OSError:
                    continue
    return "another process, or this one"


def _links(directory: Path) -> Iterator[Path]:
    try:
        yield from sorted(directory.iterdir())
    except OSError:
        return
