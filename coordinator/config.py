"""A coordinator's settings: ``coordinator.toml`` in its home."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from edge_runtime.durable import write_file
from edge_runtime.errors import LocalError
from edge_runtime.tables import Range, from_mapping, to_toml
from edge_runtime.transports import host_port

_FILE = "coordinator.toml"
Address = Annotated[str, Range(1, 200)]


@dataclass(frozen=True)
class Config:
    """``listen``: where the server binds. ``advertise``: what join codes say. ``serial``: lines it serves,
    ``PORT[@BAUD]``.
    """

    listen: Address
    advertise: Address
    serial: tuple[Address, ...] = ()

    def listen_address(self) -> tuple[str, int]:
        """Host and port. Raises LocalError when ``listen`` is not of the form HOST:PORT."""
        return host_port(self.listen, want="HOST:PORT to listen on, for example 0.0.0.0:7433")


def load_config(home: Path) -> Config:
    """Raises LocalError when ``home`` was not initialised or its file does not fit."""
    path = home / _FILE
    if not path.exists():
        raise LocalError(f"{home} is not a coordinator's folder; make one with: fedge coordinator init --home {home}")
    try:
        return from_mapping(Config, tomllib.loads(path.read_text(encoding="utf-8")), where=str(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise LocalError(f"cannot read {path}: {fault}") from None


def save_config(home: Path, config: Config) -> None:
    """Write the file."""
    text = (
        "# listen: where the server binds\n"
        "# advertise: what join codes tell devices\n"
        "# serial: lines it serves, PORT[@BAUD]\n"
    )
    write_file(home / _FILE, (text + to_toml(config)).encode(), mode=0o644)
