"""Between the flat buffer and the tensors of PyTorch's ``state_dict``, as ``torch.nn.Sequential`` names them.

The buffer is input-major and channels-last, PyTorch output-major and channels-first. A vector that ``flatten`` made of
a sequence or an image therefore has its values in another order there, and so have the layers behind it that see them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.architecture import Conv, Dense, DepthwiseConv, Flatten, Gru, Norm, Placed, Shape
from edge_runtime.errors import LocalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.task import ModelSpec

MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class Slot:
    """One tensor: its name in PyTorch, its stretch of the buffer and its shape there, and the way between the two."""

    name: str
    offset: int
    shape: Shape
    outward: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    inward: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    layer: Placed

    @property
    def stretch(self) -> slice:
        return slice(self.offset, self.offset + math.prod(self.shape))

    @property
    def torch_shape(self) -> Shape:
        return self.outward(np.broadcast_to(np.float32(0), self.shape)).shape


def state_dict(spec: ModelSpec, params: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The tensors of ``params`` (P,): "0.weight" (O, I), "0.bias" (O,), "2.weight" and so on, each C-contiguous.

    Raises LocalError for a model that PyTorch's order of values cannot express.
    """
    return {
        slot.name: np.ascontiguousarray(slot.outward(params[slot.stretch].reshape(slot.shape))) for slot in slots(spec)
    }


@dataclass(frozen=True)
class Loaded:
    """``params`` with the file's tensors in their places; the layers that the file had, and those it had not."""

    params: NDArray[np.float32]
    taken: tuple[int, ...]
    fresh: tuple[int, ...]


def load_state_dict(spec: ModelSpec, tensors: Mapping[str, NDArray[np.float32]], fresh: NDArray[np.float32]) -> Loaded:
    """``fresh`` (P,) with the ``tensors`` put in: the inverse of :func:`state_dict`.

    A layer of which no tensor is there keeps its fresh values, as the new head of a model that others trained. Raises
    LocalError for a tensor that has no place, of another shape or not finite, for a layer in parts, and for none at
    all.
    """
    params = fresh.copy()
    known = {slot.name: slot for slot in slots(spec)}
    for name, tensor in tensors.items():
        if name not in known:
            raise LocalError(f'the tensor "{name[:60]}" has no place in this model; it has {", ".join(known)}')
        slot = known[name]
        if tensor.shape != slot.torch_shape or tensor.dtype != np.float32:
            want = f"float32 {list(slot.torch_shape)}"
            raise LocalError(f'the tensor "{name}" is {tensor.dtype} {list(tensor.shape)}, the model wants {want}')
        if not np.isfinite(tensor).all():
            raise LocalError(f'the tensor "{name}" holds NaN or an infinity')
        params[slot.stretch] = slot.inward(tensor).reshape(-1)
    by_layer: dict[int, list[str]] = {}
    for name, slot in known.items():
        by_layer.setdefault(slot.layer.number, []).append(name)
    for names in by_layer.values():
        missing = [name for name in names if name not in tensors]
        if missing and len(missing) < len(names):
            raise LocalError(f'the tensor "{missing[0]}" is missing beside the others of its layer')
    taken = tuple(number for number, names in by_layer.items() if names[0] in tensors)
    if not taken:
        raise LocalError(f"there is no tensor of this model; it has {', '.join(known)}")
    return Loaded(params, taken, tuple(number for number in by_layer if number not in taken))


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors of a .safetensors or .npz file; text beside them in an .npz is left out.

    Raises LocalError for anything else. PyTorch's own .pt files run code when they are read, so they are not taken.
    """
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
        raise LocalError(
            f"{path} is a pickle, which may run anything when it is read; save the weights with "
            "safetensors.torch.save_file(model.state_dict(), FILE.safetensors)"
        )
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise LocalError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        if path.suffix == ".npz":
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return {name: array for name, array in arrays.items() if array.dtype.kind != "U"}
        if path.suffix != ".safetensors":
            raise LocalError(f"cannot tell what {path} is: want a .safetensors or .npz file")
        from safetensors.numpy import load

        return dict(load(path.read_bytes()))
    except (LocalError, ModuleNotFoundError):
        raise
    except OSError as fault:
        raise LocalError(f"cannot read {path}: {fault.strerror or fault}") from None
    except Exception as fault:  # zip, zlib, NumPy's header parser, safetensors: each has errors of its own
        raise LocalError(f"cannot read the tensors of {path}: {fault or type(fault).__name__}") from None


def tensor_file(tensors: dict[str, NDArray[np.float32]], metadata: dict[str, str]) -> tuple[str, bytes]:
    """The name and the contents of a file with ``tensors``: safetensors, or npz where that is not installed."""
    try:
        from safetensors.numpy import save
    except ImportError:
        file = io.BytesIO()
        np.savez(file, **{name: np.asarray(text) for name, text in metadata.items()}, **tensors)  # type: ignore[arg-type]
        return "model.npz", file.getvalue()
    return "model.safetensors", save(tensors, metadata)


def slots(spec: ModelSpec) -> Iterator[Slot]:
    """Every tensor of the model in the order of the buffer."""
    flattened: Shape = ()  # what the last flatten made a vector of, while its order still shows
    for placed in spec.placed:
        if isinstance(placed.layer, Flatten) and len(placed.takes) > 1:
            flattened = placed.takes
        offset = placed.offset
        for name, shape in placed.tensors.items():
            outward, inward = _ways(placed, name, flattened)
            torch_name = f"{name}_l0" if isinstance(placed.layer, Gru) else name
            yield Slot(f"{placed.number}.{torch_name}", offset, shape, outward, inward, placed)
            offset += math.prod(shape)
        if isinstance(placed.layer, Dense):
            flattened = ()
    if math.prod(flattened[:-1]) > 1:
        raise LocalError("the outputs are those of a flatten, in another order in PyTorch: put a dense layer behind it")


_Way = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]


def _ways(placed: Placed, name: str, flattened: Shape) -> tuple[_Way, _Way]:
    """From the buffer's shape of one tensor to PyTorch's, and back."""
    weight = name.startswith("weight")
    match placed.layer:
        case Dense() if weight:
            reorder, restore = _flatten_ways(flattened)
            return (lambda w: reorder(w).T), (lambda w: restore(w.T))
        case Norm(groups=groups) if flattened:
            if groups is not None and groups > 1:
                raise LocalError(
                    f"layer {placed.entry} (group_norm) stands behind a flatten: its groups are channels here and "
                    "positions in PyTorch's order, so no other framework can hold this model; put it before the flatten"
                )
            return _flatten_ways(flattened)
        case Conv() if weight:  # (K..., C, O) and (O, C, K...)
            return (lambda w: np.moveaxis(w, (-1, -2), (0, 1))), (lambda w: np.moveaxis(w, (0, 1), (-1, -2)))
        case DepthwiseConv() if weight:  # (K..., C) and (C, 1, K...)
            return (lambda w: np.moveaxis(w, -1, 0)[:, None]), (lambda w: np.moveaxis(w[:, 0], 0, -1))
        case Gru() if weight:
            return np.transpose, np.transpose
        case _:
            return _same, _same


def _flatten_ways(flattened: Shape) -> tuple[_Way, _Way]:
    """The first axis from the order (..., C), as this flatten leaves it, to PyTorch's (C, ...), and back."""
    if not flattened:
        return _same, _same
    *positions, channels = flattened

    def outward(w: NDArray[np.float32]) -> NDArray[np.float32]:
        split = w.reshape(math.prod(positions), channels, *w.shape[1:])
        return np.ascontiguousarray(np.swapaxes(split, 0, 1)).reshape(w.shape)

    def inward(w: NDArray[np.float32]) -> NDArray[np.float32]:
        split = w.reshape(channels, math.prod(positions), *w.shape[1:])
        return np.ascontiguousarray(np.swapaxes(split, 0, 1)).reshape(w.shape)

    return outward, inward


def _same(w: NDArray[np.float32]) -> NDArray[np.float32]:
    return w
