"""Native kernels: training, clipping, noise and sums over flat NumPy arrays (``native/``).

Arrays are C-contiguous and of exactly the dtype named; nothing is cast or copied. A wrong type (not an array, another
dtype, a float for a count) raises TypeError, a wrong value (shape, layout, range, read-only memory for an argument
written in place) ValueError, in words that name the value and the bound. Every call releases the GIL: while one runs,
no other thread may write to its arrays.

Kernels exist for several instruction sets and give the same bits on each. The widest that the machine has is taken,
unless the environment variable FEDGE_ISA names one: baseline, avx2 or avx512. The import raises ImportError where the
machine lacks it.
"""

from collections.abc import Sequence
from typing import Final, Literal, SupportsFloat, SupportsIndex, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

isa: Final[Literal["baseline", "avx2", "avx512"]]
"""The instruction set in use."""

@final
class Network:
    """A dense network as a plan over one flat float32 parameter buffer (P,).

    For each layer it holds W (O, I) row-major, then b (O). Immutable and without numbers of its own, so threads may
    share it. Sums run in a fixed order: the same inputs give the same bits on every call, however a batch is cut.
    """

    def __init__(self, widths: Sequence[SupportsIndex], activations: Sequence[str], loss: str) -> None:
        """``widths`` is [I, H1, ..., O] with one activation per step between them: identity, relu or tanh.

        ``loss`` is "softmax_cross_entropy" (labels (B,) int32) or "mse" (targets (B, O) float32; the mean over B and O
        of the squared error). Raises ValueError for other names, a width below 1, or more than 2**28 parameters.
        """
    @property
    def parameter_count(self) -> int:
        """P, the length of the parameter buffer."""
    def layout(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """Where each tensor lies: ("0.weight", offset, (O, I)), ("0.bias", offset, (O,)), ..., offsets counted in
        floats.
        """
    def workspace_bytes(self, batch: SupportsIndex) -> int:
        """Bytes that ``train`` takes beyond its arguments for minibatches of ``batch`` rows; other calls take less."""
    def predict(self, params: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The last layer's output (B, O) for ``x`` (B, I): logits where the loss is softmax_cross_entropy."""
    def loss(
        self, params: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.int32] | NDArray[np.float32]
    ) -> float:
        """The mean loss over the batch, summed in double precision."""
    def gradient(
        self,
        params: NDArray[np.float32],
        x: NDArray[np.float32],
        y: NDArray[np.int32] | NDArray[np.float32],
        out: NDArray[np.float32],
    ) -> float:
        """Overwrites ``out`` (P,) with the gradient of the mean loss, and returns that loss. ``out`` shares no memory
        with the rest.
        """
    def train(
        self,
        params: NDArray[np.float32],
        x: NDArray[np.float32],
        y: NDArray[np.int32] | NDArray[np.float32],
        order: NDArray[np.int32] | NDArray[np.int64],
        *,
        batch_size: SupportsIndex,
        learning_rate: SupportsFloat,
        momentum: SupportsFloat = 0.0,
        proximal: SupportsFloat = 0.0,
        anchor: NDArray[np.float32] | None = None,
        correction: NDArray[np.float32] | None = None,
    ) -> float:
        """Minibatch SGD on the unified local objective; ``params`` (P,) is updated in place.

        ``order`` (n_draws,) indexes the rows of ``x``, consumed ``batch_size`` at a time; the last batch may be short.
        Each step, in float32 and from zero velocity::

            d = g(w) + proximal * (w - anchor) + correction
            v = momentum * v + d
            w = w - learning_rate * v

        where g is the gradient of the batch's mean loss. FedProx: correction 0. FedDyn: correction -g_k, proximal
        alpha. SCAFFOLD: proximal 0, correction c_server - c_k. A nonzero ``proximal`` needs an ``anchor`` (P,), which
        may be ``params`` itself and then means its values on entry.

        Returns the mean loss over the draws, each taken before its batch's step. Where a weight becomes NaN or
        infinite, raises ValueError and leaves ``params`` as it was.
        """

def clip_l1(update: NDArray[np.float32], bound: SupportsFloat) -> float:
    """Scales ``update`` (d,) in place to an L1 norm of at most ``bound``, and returns the norm before.

    Within the bound nothing changes. Otherwise products round toward zero, so the norm keeps the bound up to the error
    of a double sum: a factor of 1 + (d / 8 + 8) 2**-53. NaN and infinity raise ValueError before anything else,
    ``update`` untouched.
    """

def clip_l2(update: NDArray[np.float32], bound: SupportsFloat) -> float:
    """``clip_l1`` for the L2 norm."""

def quantize_l1(update: NDArray[np.float32], clip: SupportsFloat, levels: SupportsIndex) -> NDArray[np.int32]:
    """``update`` (d,) clipped to L1 norm ``clip``, in units of clip / levels: (d,) with sum |q_j| <= levels EXACTLY.

    The bound holds for every finite input. Rounding is to nearest, ties to even; where that carries the sum over
    ``levels`` (1..2**30), the excess comes off one unit a coordinate, toward zero, from those rounded furthest outward,
    the lower index first among equals. Deterministic. NaN and infinity raise ValueError.
    """

def integer_l1_norm(values: NDArray[np.int32]) -> int:
    """sum |values_j|, exact: the check on a contribution's sensitivity."""

def discrete_laplace(rng: NoiseSource, count: SupportsIndex, log2_scale: SupportsIndex) -> NDArray[np.int64]:
    """``count`` independent integers X with P(X = x) proportional to r**max(x, -x - 1), r = 2**(-2**-log2_scale).

    Symmetric about -1/2, scale 2**log2_scale / ln 2, ``log2_scale`` 0..32. Added to integers whose L1 sensitivity is D
    it gives epsilon = D ln 2 / 2**log2_scale. Integer arithmetic only; instructions and addresses do not depend on the
    noise. Within 10 * 2**-65 of the law in total variation: ``docs/noise.md`` has the statement and its proof.
    """

def accumulate_f32(acc: NDArray[np.float64], x: NDArray[np.float32], weight: SupportsFloat) -> None:
    """``acc`` (d,) += ``weight`` * ``x`` (d,), 0 <= weight <= 2**64. NaN or infinity in ``x`` raises ValueError,
    ``acc`` untouched.
    """

def accumulate_i32(acc: NDArray[np.int64], x: NDArray[np.int32]) -> None:
    """``acc`` (d,) += ``x`` (d,), exactly and in any order the same. Leaving int64 raises ValueError, ``acc``
    untouched.
    """

@final
class SystemRng:
    """ChaCha20 with fast key erasure, seeded by getrandom(2) alone: the randomness for releases.

    It cannot be seeded, copied or pickled, and seeds itself anew in a forked child. Raises OSError where the system has
    no randomness to give. Threads may share one.
    """

    secure: Final[Literal[True]] = True
    def __init__(self) -> None: ...
    def bytes(self, n: SupportsIndex) -> bytes:
        """``n`` random bytes, at most 2**30."""

class seeded:
    """The submodule ``_kernels.seeded``: replayable randomness for simulations and tests, never for a release."""

    @final
    class SeededRng:
        """The generator of SystemRng, keyed by ``seed``: the same seed and calls give the same bytes anywhere."""

        secure: Final[Literal[False]] = False
        def __init__(self, seed: bytes) -> None:
            """``seed`` is exactly 32 bytes."""
        def bytes(self, n: SupportsIndex) -> bytes:
            """``n`` bytes, at most 2**30: keystream of a stream keyed with this generator's next 32 bytes."""

# For annotations only (import it under TYPE_CHECKING): the module has no such name.
NoiseSource: TypeAlias = SystemRng | seeded.SeededRng
