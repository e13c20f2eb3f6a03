"""Updates in fewer bytes: few coordinates, few bits a coordinate, or signs alone, each with its bytes known beforehand.

All integers and floats are little-endian; codes are packed from the lowest bit up, and the bits left over are zero, so
that one update has one encoding and the decoder takes no other::

    byte  0     kind: 1 top-k by indices, 2 top-k by a bitmap, 3 quantized, 4 signs
    byte  1     bits a coordinate where it is quantized (1, 2, 4 or 8), else 0
    bytes 2-5   P, the number of coordinates
    top-k:      k (4 bytes), then either k indices, ascending, of as many bits as P - 1 takes, or P bits of which k are
                set, whichever is shorter; then k float32
    quantized:  norm (float32), then P codes
    signs:      scale (float32), then P bits, 1 for minus

Biased encodings (top-k, signs) lose what they leave out; :class:`ErrorFeedback` sends it later. None of this is
private: what noise has been added to is an integer vector, and that goes as it is.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edge_runtime.errors import LocalError, RemoteError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime._kernels import NoiseSource

_INDICES, _BITMAP, _QUANTIZED, _SIGNS = 1, 2, 3, 4
_HEAD = struct.Struct("<BBI")
MAX_NORM = 2.0**126


@dataclass(frozen=True)
class TopK:
    """The ``k`` coordinates of largest magnitude, the lower index first among equals.

    A contraction: ||x - C(x)||^2 <= (1 - k/P) ||x||^2 (Stich et al. 2018, lemma A.1). Biased; with error feedback it
    converges.
    """

    k: int


@dataclass(frozen=True)
class Quantized:
    """QSGD (Alistarh et al. 2017): stochastic rounding onto 2s + 1 levels up to the norm, s = 2^(bits - 1) - 1; with
    one bit, onto the two levels -norm and norm.

    Unbiased. With the L2 norm E||Q(x) - x||^2 <= min(P/s^2, sqrt(P)/s) ||x||^2; with the largest magnitude at most
    P/(4 s^2) max^2, which is less for vectors without outliers.
    """

    bits: Literal[1, 2, 4, 8]
    norm: Literal["l2", "max"] = "max"


@dataclass(frozen=True)
class Signs:
    """||x||_1 / P times the signs (Karimireddy et al. 2019); zero counts as its sign bit says.

    A contraction: ||x - C(x)||^2 = ||x||^2 - ||x||_1^2 / P. Biased; without error feedback it fails to converge.
    """


Encoding = TopK | Quantized | Signs


def encoded_bytes(encoding: Encoding, size: int) -> int:
    """How many bytes :func:`encode` makes of ``size`` coordinates, exactly."""
    match encoding:
        case TopK(k):
            return _HEAD.size + 4 + min(_packed(k, _index_bits(size)), _packed(size, 1)) + 4 * k
        case Quantized(bits):
            return _HEAD.size + 4 + _packed(size, bits)
        case Signs():
            return _HEAD.size + 4 + _packed(size, 1)


def encode(update: NDArray[np.float32], encoding: Encoding, rng: NoiseSource, *, take: bool = False) -> bytes:
    """``update`` (P,) float32 in bytes; ``rng`` rounds where rounding is stochastic.

    With ``take``, ``update`` is reduced in place by what the bytes decode to. Raises LocalError, ``update`` untouched,
    where it holds NaN or infinity, a magnitude or L2 norm beyond 2^126 (but for top-k), or fewer than k coordinates.
    """
    import numpy as np

    from edge_runtime import _kernels

    size = len(update)
    try:
        match encoding:
            case TopK(k):
                indices, values = _kernels.top_k(update, k, take=take)
                bits = _index_bits(size)
                if _packed(k, bits) <= _packed(size, 1):
                    kind, where = _INDICES, _kernels.pack_bits(indices, bits)
                else:
                    marks = np.zeros(size, np.uint8)
                    marks[indices] = 1
                    kind, where = _BITMAP, np.packbits(marks, bitorder="little").tobytes()
                return _HEAD.pack(kind, 0, size) + struct.pack("<I", k) + where + values.astype("<f4").tobytes()
            case Quantized(bits, norm_kind):
                norm = _kernels.l2_norm_above(update) if norm_kind == "l2" else _kernels.max_magnitude(update)
                codes = _kernels.quantize_stochastic(rng, update, norm, bits, take=take)
                return _HEAD.pack(_QUANTIZED, bits, size) + struct.pack("<f", norm) + codes
            case Signs():
                packed, scale = _kernels.pack_signs(update, take=take)
                return _HEAD.pack(_SIGNS, 0, size) + struct.pack("<f", scale) + packed
    except ValueError as fault:
        raise LocalError(f"the update cannot be encoded: {fault}") from None


def decode(data: bytes, size: int) -> NDArray[np.float32]:
    """The (``size``,) float32 that :func:`encode` made ``data`` of.

    ``size`` is what the receiver expects: nothing is allocated on the sender's word. Raises RemoteError for anything
    that is not exactly an encoding of ``size`` coordinates.
    """
    if len(data) < _HEAD.size + 4:
        raise RemoteError(f"an encoded update of {len(data)} bytes is too short for its head")
    kind, bits, declared = _HEAD.unpack_from(data)
    if declared != size:
        raise RemoteError(f"an encoded update of {declared} coordinates; want {size}")
    if (bits in (1, 2, 4, 8)) if kind == _QUANTIZED else bits == 0:
        try:
            match kind:
                case 1 | 2:
                    return _decode_top_k(data, size, bitmap=kind == _BITMAP)
                case 3:
                    return _decode_quantized(data, size, bits)
                case 4:
                    return _decode_signs(data, size)
        except ValueError as fault:
            raise RemoteError(f"an encoded update does not decode: {fault}") from None
    raise RemoteError(f"an encoded update of unknown kind {kind} with {bits} bits")


class ErrorFeedback:
    """What earlier encodings left out, added to the next update before it is encoded (Seide et al. 2014; Karimireddy et
    al. 2019): sum of decoded + residual = sum of updates, but for rounding.

    One a device and task. ``residual`` (P,) float32 is to be kept as durably as the model is.
    """

    def __init__(self, residual: NDArray[np.float32]) -> None:
        self.residual = residual

    def encode(self, update: NDArray[np.float32], encoding: Encoding, rng: NoiseSource) -> bytes:
        """``update`` (P,) with the residual; raises as :func:`encode` does, the residual untouched."""
        total = self.residual + update
        data = encode(total, encoding, rng, take=True)
        self.residual = total
        return data


def _packed(count: int, bits: int) -> int:
    return (count * bits + 7) // 8


def _index_bits(size: int) -> int:
    return max(1, (size - 1).bit_length()) if size else 1


def _want_bytes(data: bytes, want: int) -> None:
    if len(data) != want:
        raise ValueError(f"want {want} bytes, got {len(data)}")


def _want_zero_tail(packed: bytes, used_bits: int) -> None:
    if used_bits % 8 and packed[-1] >> used_bits % 8:
        raise ValueError("the bits after the last code are not zero")


def _decode_top_k(data: bytes, size: int, *, bitmap: bool) -> NDArray[np.float32]:
    import numpy as np

    from edge_runtime import _kernels

    (k,) = struct.unpack_from("<I", data, _HEAD.size)
    if k > size:
        raise ValueError(f"{k} of {size} coordinates")
    bits = _index_bits(size)
    index_bytes, map_bytes = _packed(k, bits), _packed(size, 1)
    if bitmap != (map_bytes < index_bytes):
        raise ValueError(f"{k} of {size} coordinates in the longer of two forms")
    begin = _HEAD.size + 4
    end = begin + min(index_bytes, map_bytes)
    _want_bytes(data, end + 4 * k)
    where = data[begin:end]
    if bitmap:
        _want_zero_tail(where, size)
        indices = np.flatnonzero(np.unpackbits(np.frombuffer(where, np.uint8), count=size, bitorder="little"))
        if len(indices) != k:
            raise ValueError(f"{len(indices)} coordinates marked, {k} declared")
    else:
        _want_zero_tail(where, k * bits)
        indices = _kernels.unpack_bits(where, bits, k).astype(np.int64)
        if k and (indices[-1] >= size or (np.diff(indices) <= 0).any()):
            raise ValueError("indices that do not ascend within the update")
    values = np.frombuffer(data, "<f4", offset=end) if k else np.empty(0, "<f4")
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")
    update = np.zeros(size, np.float32)
    update[indices] = values
    return update


def _scale(data: bytes) -> float:
    value: float = struct.unpack_from("<f", data, _HEAD.size)[0]
    if not (0.0 <= value <= MAX_NORM) or math.copysign(1.0, value) < 0:
        raise ValueError(f"a scale of {value}, want one in [0, 2**126]")
    return value


def _decode_quantized(data: bytes, size: int, bits: int) -> NDArray[np.float32]:
    from edge_runtime import _kernels

    packed = data[_HEAD.size + 4 :]
    _want_bytes(data, _HEAD.size + 4 + _packed(size, bits))
    _want_zero_tail(packed, size * bits)
    return _kernels.dequantize(packed, _scale(data), bits, size)


def _decode_signs(data: bytes, size: int) -> NDArray[np.float32]:
    from edge_runtime import _kernels

    packed = data[_HEAD.size + 4 :]
    _want_bytes(data, _HEAD.size + 4 + _packed(size, 1))
    _want_zero_tail(packed, size)
    return _kernels.unpack_signs(packed, _scale(data), size)
