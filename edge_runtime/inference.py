"""Frozen LiteRT models that lie on the device and make features of its examples before the trained layers see them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import ExtractorUnusable, LocalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.features import Extract
    from edge_runtime.task import ExtractorSpec, InputSpec

MAX_FILE_BYTES = 64 << 20
MAX_FILES = 64


class Extractors:
    """Those that the owner has put into ``folder``, as files that end in .tflite; None: there are none here.

    A task names the one it wants by its SHA-256, so nobody runs another model by mistake or by a coordinator's trick.
    The last one asked for stays loaded.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._loaded: tuple[InputSpec, Extract] | None = None
        self._hashes: dict[tuple[int, int, int], str] = {}

    def of(self, inputs: InputSpec) -> Extract | None:
        """The function from examples (n, values) to (n, features) that ``inputs`` asks for; None where it asks for
        none. Raises ExtractorUnusable where the file is not here, LiteRT is not, or the model does not fit the task,
        all of it before any data are looked at.
        """
        spec = inputs.extractor
        if spec is None:
            return None
        if self._loaded is None or self._loaded[0] != inputs:
            self._loaded = None
            self._loaded = (inputs, _Model(self._read(spec), spec, math.prod(inputs.shape)))
        return self._loaded[1]

    def _read(self, spec: ExtractorSpec) -> bytes:
        for path in sorted(self._folder.glob("*.tflite"))[:MAX_FILES] if self._folder else []:
            try:
                status = path.stat()
                version = (status.st_ino, status.st_size, status.st_mtime_ns)
                if status.st_size > MAX_FILE_BYTES or self._hashes.get(version, spec.sha256) != spec.sha256:
                    continue
                data = path.read_bytes()
            except OSError:
                continue
            self._hashes[version] = hashlib.sha256(data).hexdigest()
            if self._hashes[version] == spec.sha256:  # of the very bytes that are run
                return data
        raise ExtractorUnusable(
            f"the extractor {spec.title} is not on this device: its owner puts the file, named *.tflite and at most "
            f"{MAX_FILE_BYTES >> 20} MiB, into the folder extractors of the device's home"
        )


class _Model:
    """One loaded model; call it with examples (n, values) float32."""

    def __init__(self, data: bytes, spec: ExtractorSpec, values: int) -> None:
        self._spec = spec
        try:
            self._interpreter = interpreter(data)
        except (ValueError, RuntimeError) as fault:
            raise ExtractorUnusable(f"LiteRT cannot load the extractor {spec.title}: {fault}") from None
        sources, sinks = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(sources) != 1:
            raise ExtractorUnusable(f"the extractor {spec.title} takes {len(sources)} inputs, one is possible")
        self._source, self._sink = sources[0], sinks[0]
        takes, gives = math.prod(self._source["shape"].tolist()), math.prod(self._sink["shape"].tolist())
        if takes != values:
            shape = self._source["shape"].tolist()
            raise ExtractorUnusable(
                f"the extractor {spec.title} takes {shape}, an example of the task has {values} values"
            )
        if gives != spec.features:
            raise ExtractorUnusable(f"the extractor {spec.title} gives {gives} features, the task says {spec.features}")
        for detail in (self._source, self._sink):
            if detail["dtype"] not in (np.float32, np.int8, np.uint8):
                kind = np.dtype(detail["dtype"])
                raise ExtractorUnusable(f"the extractor {spec.title} works on {kind}; want float32, int8 or uint8")

    def __call__(self, examples: NDArray[np.float32]) -> NDArray[np.float32]:
        features = np.empty((len(examples), self._spec.features), np.float32)
        shape = self._source["shape"]
        try:
            for row, example in enumerate(examples):
                self._interpreter.set_tensor(self._source["index"], _quantized(example.reshape(shape), self._source))
                self._interpreter.invoke()
                features[row] = _real(self._interpreter.get_tensor(self._sink["index"]), self._sink).reshape(-1)
        except (ValueError, RuntimeError) as fault:
            raise LocalError(f"the extractor {self._spec.title} failed: {fault}") from None
        if not np.isfinite(features).all():
            raise LocalError(f"the extractor {self._spec.title} gave NaN or an infinity")
        return features


def interpreter(data: bytes) -> Any:
    """A LiteRT interpreter for one example of the model ``data``, by whichever of the two packages is installed.

    Raises ExtractorUnusable where none is.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            raise ExtractorUnusable(
                "the task runs a LiteRT model, and LiteRT is not installed on this device: pip install 'fedge[tflite]'"
            ) from None
    made = Interpreter(model_content=data, num_threads=1)
    made.allocate_tensors()
    return made


def _quantized(values: NDArray[np.float32], detail: dict[str, Any]) -> NDArray[Any]:
    if detail["dtype"] == np.float32:
        return values
    scale, zero = detail["quantization"]
    bounds = np.iinfo(detail["dtype"])
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        steps = np.rint(values / scale) + zero if scale else values
    return np.clip(steps, bounds.min, bounds.max).astype(detail["dtype"])


def _real(values: NDArray[Any], detail: dict[str, Any]) -> NDArray[np.float32]:
    if detail["dtype"] == np.float32:
        return np.asarray(values)
    scale, zero = detail["quantization"]
    return np.asarray((values.astype(np.float32) - zero) * np.float32(scale or 1.0), np.float32)
