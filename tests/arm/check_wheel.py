"""That a wheel is of the architecture its name says: its extensions' names, every ELF file's header, the C library.

``python tests/arm/check_wheel.py WHEEL aarch64|armv7l``
"""

import re
import struct
import sys
import zipfile
from pathlib import Path

# (the extensions' multiarch name, ELF class, ELF machine, flags that must be set)
KINDS = {
    "aarch64": ("aarch64-linux-gnu", 2, 183, 0),
    "armv7l": ("arm-linux-gnueabihf", 1, 40, 0x400),  # hard-float calls
}
NEWEST_GLIBC = (2, 36)  # Debian 12's, and Raspberry Pi OS's of that year


def check(wheel: Path, machine: str) -> None:
    """SystemExit says what is wrong with ``wheel``."""
    multiarch, elf_class, elf_machine, flags = KINDS[machine]
    tag = f"cp311-cp311-linux_{machine}"
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    metadata = next(data.decode() for name, data in files.items() if name.endswith(".dist-info/WHEEL"))
    want(wheel.stem.endswith(f"-{tag}"), f"{wheel.name}: want the tag {tag}")
    want(f"Tag: {tag}" in metadata.splitlines(), f"{wheel.name}: its metadata say {metadata!r}")
    elves = {name: data for name, data in files.items() if data.startswith(b"\x7fELF")}
    suffix = f".cpython-311-{multiarch}.so"
    expected = {
        f"edge_runtime/_kernels{suffix}",
        f"firmware_bridge/_codec{suffix}",
        "firmware_bridge/bin/fedge-sensor-host",
    }
    want(set(elves) == expected, f"{wheel.name}: want the binaries {sorted(expected)}; got {sorted(elves)}")
    for name, data in elves.items():
        at = 48 if data[4] == 2 else 36
        (found,) = struct.unpack_from("<H", data, 18)
        (found_flags,) = struct.unpack_from("<I", data, at)
        want(
            (data[4], data[5], found) == (elf_class, 1, elf_machine) and found_flags & flags == flags,
            f"{name}: ELF class {data[4]}, data {data[5]}, machine {found}, flags {found_flags:#x} are not {machine}'s",
        )
        newest = max(tuple(map(int, v)) for v in re.findall(rb"GLIBC_(\d+)\.(\d+)", data))
        want(newest <= NEWEST_GLIBC, f"{name}: asks for glibc {newest}, newer than {NEWEST_GLIBC}")
    print(f"{wheel.name}: {len(elves)} binaries of {machine}")


def want(condition: bool, otherwise: str) -> None:
    if not condition:
        sys.exit(otherwise)


if __name__ == "__main__":
    check(Path(sys.argv[1]), sys.argv[2])
