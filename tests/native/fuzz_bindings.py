"""Throws wrong arguments at every function of ``_kernels``: each call works or raises a TypeError, ValueError,
MemoryError or OverflowError; nothing crashes, writes past an array, or writes into read-only memory.

    python tests/native/fuzz_bindings.py [--seed S] [--calls N | --seconds T] [--only INDEX]

Functions are found by looking at the module; one without an entry in ``binding_calls.CALLS`` is an error, as is an
entry whose valid calls do not work, so that a mutant fails for its mutation and not for something else. Call number
INDEX of a seed is the same wherever it runs; the number of the last call begun is in the file that --progress names,
for calls that end the process.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from binding_calls import CALLS, Call

from edge_runtime import _kernels

ALLOWED = (TypeError, ValueError, MemoryError, OverflowError)
GUARD = 64  # bytes before and after an array
PATTERN = 0xA5
DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u4", "u8", "?", "c8", ">f4", ">i4", "M8[s]", "S3", "O"]
# Nothing between: a count of a few million is valid and only takes long.
INTEGERS = [-(2**200), -(2**63), -(2**31), -1, 0, 1, 2, 3, 5, 7, 64, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**200]
REALS = [-0.0, 0.0, 5e-324, 1e-300, 1e-30, 0.5, 1.0, 3.0, 1e30, 1e300, float("inf"), float("-inf"), float("nan"), -1.0]
OTHERS: list[Any] = [
    None,
    True,
    "x",
    "",
    b"",
    b"x" * 32,
    b"x" * 33,
    (),
    [],
    {},
    [1.0],
    (1, 2),
    object(),
    1j,
    np.float32(1),
    np.int64(3),
]


def discover() -> dict[str, Any]:
    """{"clip_l1": ..., "Network.train": ..., "seeded.SeededRng": ...}: functions, constructors, methods, properties."""
    found: dict[str, Any] = {}

    def walk(place: Any, prefix: str) -> None:
        for name, value in vars(place).items():
            if name.startswith("_"):
                continue
            if isinstance(value, type):
                if "__init__" in vars(value) and value.__init__ is not object.__init__:
                    found[prefix + name] = value
                walk(value, f"{prefix}{name}.")
            elif type(value).__name__ == "module":
                walk(value, f"{prefix}{name}.")
            elif callable(value) or isinstance(value, property):
                found[prefix + name] = value

    walk(_kernels, "")
    return found


def guarded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(a copy with the same contents, the memory around it). Arrays of objects stay as they are."""
    if array.dtype.hasobject or array.nbytes > 1 << 20:
        return array, np.full(2 * GUARD, PATTERN, np.uint8)
    memory = np.full(array.nbytes + 2 * GUARD, PATTERN, np.uint8)
    copy = memory[GUARD : GUARD + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy, memory


def untouched(memory: np.ndarray) -> bool:
    return bool((memory[:GUARD] == PATTERN).all() and (memory[-GUARD:] == PATTERN).all())


# --- mutations: each takes the random source and a valid value


def misaligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    return memory[1:].view(array.dtype).reshape(array.shape)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def extreme(rng: random.Random, array: np.ndarray) -> np.ndarray:
    array = array.copy()
    if array.size:
        kind = array.dtype.kind
        worst = [np.nan, np.inf, -np.inf, 3e38, 1e-45] if kind == "f" else [-1]
        if kind in "iu":
            worst = [np.iinfo(array.dtype).min, np.iinfo(array.dtype).max]
        with np.errstate(over="ignore"):
            array.flat[rng.randrange(array.size)] = rng.choice(worst)
    return array


def resized(rng: random.Random, array: np.ndarray) -> np.ndarray:
    shape = list(array.shape) or [1]
    axis = rng.randrange(len(shape))
    shape[axis] = rng.choice([0, 1, max(shape[axis] - 1, 0), shape[axis] + 1, 2 * shape[axis], 1000])
    return np.resize(array, shape) if array.size and array.dtype.kind != "O" else np.zeros(shape, array.dtype)


def huge(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """More elements than there is memory, all the same one."""
    most = 2**40 if sys.maxsize > 2**32 else 2**30 // array.dtype.itemsize
    return np.broadcast_to(np.zeros((), array.dtype), (most,) if rng.random() < 0.5 else (most // 16, 16))


ARRAY_MUTATIONS: list[Callable[[random.Random, np.ndarray], Any]] = [
    extreme,
    extreme,
    resized,
    resized,
    huge,
    lambda rng, a: a.astype(rng.choice(DTYPES)) if a.dtype.kind not in "OMS" else a,
    lambda rng, a: misaligned(a) if a.dtype.kind != "O" else a,
    lambda rng, a: read_only(a),
    lambda rng, a: a[None],
    lambda rng, a: a.reshape(-1),
    lambda rng, a: a.T,
    lambda rng, a: np.asfortranarray(a),
    lambda rng, a: a[::-1] if a.ndim else a,
    lambda rng, a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
    lambda rng, a: a[:0] if a.ndim else a,
    lambda rng, a: a.reshape(-1)[0] if a.size else a,
    lambda rng, a: np.array(1, a.dtype) if a.dtype.kind != "O" else a,
    lambda rng, a: np.broadcast_to(a, (3, *a.shape)),
    lambda rng, a: a.tolist(),
    lambda rng, a: memoryview(a) if a.dtype.kind in "fiu" else a,
    lambda rng, a: a.astype(a.dtype.newbyteorder()),
    lambda rng, a: np.ma.masked_array(a),
]


def mutate(rng: random.Random, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.size < 1 << 20:
        if rng.random() < 0.9:
            return rng.choice(ARRAY_MUTATIONS)(rng, value)
        return rng.choice(OTHERS)
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.7:
        items = list(value)
        at = rng.randrange(len(items))
        match rng.randrange(3):
            case 0:
                items[at] = mutate(rng, items[at])
            case 1:
                del items[at]
            case _:
                items.insert(at, items[at])
        return type(value)(items)
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {k: v for k, v in value.items() if k != key} | {"units": rng.choice(INTEGERS)}
        return value | {key: mutate(rng, value[key])}
    if isinstance(value, int) and rng.random() < 0.7:
        return rng.choice(INTEGERS)
    if isinstance(value, float) and rng.random() < 0.7:
        return rng.choice(REALS)
    return rng.choice(rng.choice([INTEGERS, REALS, OTHERS, OTHERS]))


def mutant(rng: random.Random, call: Call, target: Any) -> Call:
    """``call`` with up to three changes."""
    arguments, options = list(call.arguments), dict(call.options)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        places: list[Any] = [*range(len(arguments)), *options]
        if not places:
            break
        place = rng.choice(places)
        at = arguments if isinstance(place, int) else options
        match rng.randrange(12):
            case 0:  # two arguments are one
                other = rng.choice(places)
                at[place] = arguments[other] if isinstance(other, int) else options[other]
            case 1:  # or lie across each other
                other = rng.choice(places)
                there = arguments[other] if isinstance(other, int) else options[other]
                if isinstance(there, np.ndarray) and there.ndim == 1 and there.size > 1:
                    at[place] = there[1:]
            case 2 if isinstance(place, int) and place == len(arguments) - 1:
                del arguments[place]
            case 3 if arguments and isinstance(arguments[0], type(call.arguments[0])) and call.method:
                kind = type(arguments[0])
                arguments[0] = kind.__new__(kind)  # never initialized
            case _:
                at[place] = mutate(rng, at[place])
    return Call(tuple(arguments), options, call.method)


def perform(target: Any, call: Call) -> Any:
    if isinstance(target, property):
        return target.__get__(*call.arguments)
    return target(*call.arguments, **call.options)


def attempt(target: Any, call: Call) -> str | None:
    """Calls, and says what was wrong with how it went."""
    guards, frozen, kept = [], [], {}

    def guard(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            return value
        if not value.flags.writeable and value.nbytes < 1 << 20:
            frozen.append((value, value.copy()))
        if value.base is not None or not (value.flags.c_contiguous and value.flags.writeable and value.flags.aligned):
            return value
        if id(value) not in kept:  # an argument given twice stays one
            kept[id(value)], memory = guarded(value)
            guards.append(memory)
        return kept[id(value)]

    arguments = tuple(map(guard, call.arguments))
    options = {name: guard(value) for name, value in call.options.items()}
    try:
        perform(target, Call(arguments, options))
    except ALLOWED:
        pass
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    if not all(map(untouched, guards)):
        return "wrote outside an array"
    if any(now.tobytes() != before.tobytes() for now, before in frozen):
        return "wrote into read-only memory"
    return None


def one(name: str, target: Any, seed: int, index: int) -> str | None:
    rng = random.Random(f"{seed}/{index}/{name}")
    return attempt(target, mutant(rng, CALLS[name](rng), target))


def valid(name: str, target: Any) -> None:
    """Fifty valid calls work."""
    for index in range(50):
        perform(target, CALLS[name](random.Random(f"valid/{index}")))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--only", type=int)
    parser.add_argument("--progress", default=os.devnull)
    options = parser.parse_args()
    faulthandler.enable()
    found = discover()
    if found.keys() != CALLS.keys():
        print(f"functions without an entry in binding_calls.py: {sorted(found.keys() - CALLS.keys())}", file=sys.stderr)
        print(f"entries without a function: {sorted(CALLS.keys() - found.keys())}", file=sys.stderr)
        return 1
    for name, target in found.items():
        valid(name, target)
    names = list(found)
    progress = os.open(options.progress, os.O_WRONLY | os.O_CREAT, 0o644)
    ends_s = time.monotonic() + options.seconds if options.seconds else None
    index = failures = 0
    while index < options.calls if ends_s is None else time.monotonic() < ends_s:
        if options.only is None or options.only == index:
            name = names[index % len(names)]
            os.pwrite(progress, b"%-20d" % index, 0)
            with np.errstate(all="ignore"):
                fault = one(name, found[name], options.seed, index)
            if fault is not None:
                failures += 1
                print(f"{name} {fault} (--seed {options.seed} --only {index})", file=sys.stderr)
        index += 1
    print(f"{index} calls of {len(names)} functions, seed {options.seed}: {failures} went wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
