"""Tensors on the wire: raw little-endian bytes with a dtype and a shape, bounded before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from edge_runtime.tables import Range

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DType = Literal["<f4", "<i1", "<i2", "<i4"]
ITEM_BYTES: dict[str, int] = {"<f4": 4, "<i1": 1, "<i2": 2, "<i4": 4}
MAX_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Tensor:
    """``data`` holds prod(shape) items of ``dtype``, row-major, little-endian. Raises ValueError where it does not."""

    dtype: DType
    shape: Annotated[tuple[Annotated[int, Range(0, MAX_ELEMENTS)], ...], Range(0, 4)]
    data: bytes

    def __post_init__(self) -> None:
        want_bytes = math.prod(self.shape) * ITEM_BYTES[self.dtype]
        if len(self.data) != want_bytes:
            raise ValueError(
                f"a tensor {self.dtype} of shape {list(self.shape)} takes {want_bytes} bytes, got {len(self.data)}"
            )

    @classmethod
    def of(cls, array: NDArray[Any]) -> Tensor:
        """The tensor of a float32, int8, int16 or int32 array."""
        dtype = array.dtype.newbyteorder("<").str.replace("|", "<")
        if dtype not in get_args(DType):
            raise TypeError(f"want a float32, int8, int16 or int32 array, got {array.dtype}")
        return cls(cast(DType, dtype), tuple(array.shape), array.astype(dtype, copy=False).tobytes())

    def array(self) -> NDArray[Any]:
        """A read-only view of the bytes as a NumPy array."""
        import numpy as np

        if not self.data:  # frombuffer refuses a buffer without bytes
            return np.empty(self.shape, np.dtype(self.dtype))
        return np.frombuffer(self.data, dtype=np.dtype(self.dtype)).reshape(self.shape)


def narrowest_integer(values: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """``values`` in the smallest of int8, int16 and int32 that holds them; OverflowError where none does."""
    import numpy as np

    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for dtype in (np.int8, np.int16, np.int32):
        bounds = np.iinfo(dtype)
        if bounds.min <= low and high <= bounds.max:
            return values.astype(dtype)
    raise OverflowError(f"values from {low} to {high} do not fit 32 bits")
