"""The ``fedge`` command: hands its arguments to the part they name, and turns errors into one line for a person.

Parts are imported by name when they are asked for, so that a board neither loads nor needs the coordinator's.
"""

from __future__ import annotations

import importlib
import os
import sys

from edge_runtime.errors import DeviceFault, FedgeError, LocalError, RemoteError

_PARTS = {
    "demo": ("coordinator.demo", "run the whole thing here: a coordinator, devices, serial lines, a sensor, real data"),
    "coordinator": ("coordinator.cli", "on the laptop: init, invite, run, status, report, export, remove"),
    "device": ("edge_runtime.cli", "on the board: join, run, status, ledger, doctor"),
    "bridge": ("firmware_bridge.cli", "serial ports and microcontroller sensors: ports, watch, simulate, line"),
    "simulate": ("coordinator.simulate_cli", "thousands of devices in virtual time, on the same code"),
}
_FAULT = {LocalError: "error", RemoteError: "the other side", DeviceFault: "hardware or system"}
_EXIT = {LocalError: 2, RemoteError: 3, DeviceFault: 4}


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 for a mistake here, 3 for the other side's, 4 for the hardware's."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["--version"], ["-V"]):
        from edge_runtime import __version__

        print(f"fedge {__version__}")
        return 0
    if not arguments or arguments[0] not in _PARTS:
        return _usage(wrong=arguments[0] if arguments and not arguments[0].startswith("-") else None)
    module, _ = _PARTS[arguments[0]]
    try:
        part = importlib.import_module(module)
        return int(part.main(arguments[1:]))
    except FedgeError as fault:
        kind = next(kind for kind in _FAULT if isinstance(fault, kind)) if type(fault) is not FedgeError else LocalError
        print(f"fedge: {_FAULT[kind]}: {fault}", file=sys.stderr)
        return _EXIT[kind]
    except ModuleNotFoundError as missing:
        if missing.name in ("rich", "matplotlib", "safetensors", "coordinator"):
            print(f"fedge: this command needs {missing.name}: pip install 'fedge[coordinator]'", file=sys.stderr)
            return 2
        raise
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _usage(wrong: str | None) -> int:
    out = sys.stderr if wrong else sys.stdout
    if wrong:
        print(f'fedge: there is no command "{wrong}"\n', file=out)
    print("usage: fedge COMMAND ...   (fedge COMMAND --help tells more)\n", file=out)
    for name, (_, purpose) in _PARTS.items():
        print(f"  {name:<12} {purpose}", file=out)
    return 2 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
