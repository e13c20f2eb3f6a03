"""What survives a power cut: atomic small files and SQLite opened so that a committed row is on the disk."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.errors import DeviceFault, LocalError


def write_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data`` so that a crash leaves the old file or the new one, never a part.

    Write, fsync, rename, fsync of the directory. Raises DeviceFault when the disk does not take it; ``path`` is then
    as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as fault:
        raise DeviceFault(f"cannot write {path}: {fault.strerror}") from fault


def make_directory(path: Path) -> Path:
    """Create ``path`` and its parents, for the owner's eyes only."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as fault:
        raise LocalError(f"cannot make the folder {path}: {fault.strerror}") from fault
    return path


def open_database(path: Path | str, schema: str, *, version: int, create: bool = True) -> sqlite3.Connection:
    """Open an SQLite database of ``schema`` version ``version``; ":memory:" for simulations.

    WAL with ``synchronous=FULL``: NORMAL lost committed rows at a simulated power cut, FULL lost none. Transactions
    are the caller's (autocommit otherwise). Raises DeviceFault when the file is damaged, the disk is at fault, or the
    file is empty and ``create`` is False; LocalError when a fedge of another format wrote it.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        if path != ":memory:":
            os.chmod(path, 0o600)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > version:
            raise LocalError(f"{path} was written by a newer fedge (format {found}, this one knows {version}): upgrade")
        if 0 < found < version:
            raise LocalError(
                f"{path} was written by an older fedge (format {found}): this one reads format {version} only"
            )
        if found == 0 and not create:  # a file cut to nothing is a valid, empty SQLite database
            raise DeviceFault(f"{path} is empty: what it held is lost; restore it from a backup")
        if found == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version={version}; COMMIT;")
    except BaseException as fault:
        if connection is not None:
            connection.close()
        if isinstance(fault, (sqlite3.Error, OSError)):
            raise DeviceFault(f"cannot open {path}: {fault}") from fault
        raise
    return connection


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """BEGIN IMMEDIATE ... COMMIT; ROLLBACK when anything in between, or the commit itself, fails."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
