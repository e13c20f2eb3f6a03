"""Native kernels: training, clipping, noise and sums over flat NumPy arrays (``native/``).

Arrays are C-contiguous and of exactly the dtype named; nothing is cast or copied. A wrong type (not an array, another
dtype, a float for a count) raises TypeError, a wrong value (shape, layout, range, read-only memory for an argument
written in place) ValueError, in words that name the value and the bound. Every call releases the GIL: while one runs,
no other thread may write to its arrays.

Kernels exist for several instruction sets and give the same bits on each. The widest that the machine has is taken,
unless the environment variable FEDGE_ISA names one: baseline, neon, avx2 or avx512. The import raises ImportError where
the machine lacks it. On aarch64 baseline has NEON and is the same as neon.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, SupportsFloat, SupportsIndex, TypeAlias, TypeVar, final, overload

import numpy as np
from numpy.typing import NDArray

isa: Final[Literal["baseline", "neon", "avx2", "avx512"]]
"""The instruction set in use."""

@final
class Network:
    """Layers in a row over one flat float32 parameter buffer (P,), and a loss.

    Immutable and without numbers of its own, so threads may share it. Examples are rows of x (B, I), each row-major and
    channels-last: (I,) values, (T, C) steps or (H, W, C) pixels. Every sum runs in one order, so a batch cut in pieces
    gives the same bits. With ``reproducible`` every operation rounds by itself, and x86-64, aarch64 and armv7 give the
    same bits too; without, fused multiply-add is used where the processor has it.
    """

    def __init__(
        self, shape: Sequence[SupportsIndex], layers: Sequence[Mapping[str, Any]], loss: str | Mapping[str, Any]
    ) -> None:
        """``shape`` is that of one example: (I,), (T, C) or (H, W, C). Each of ``layers`` is a dict with its "type":

        - dense: units, bias=True. Weight (I, units).
        - conv1d: filters, kernel, stride=1, padding=0, bias=True. Weight (1, kernel, C, filters).
        - conv2d: the same with kernel, stride and padding a number or [height, width]. Weight (KH, KW, C, filters).
        - depthwise_conv1d, depthwise_conv2d: kernel, stride=1, padding=0, bias=True. Weight (KH, KW, C).
        - max_pool, average_pool: size, stride=size, padding=0; one number for a sequence, one or two for an image.
        - group_norm: groups, epsilon=1e-5. layer_norm (over the channels of each position): epsilon=1e-5.
        - gru: units, sequences=False. Weights (C, 3 units), (units, 3 units): gates r, z, n; two biases.
        - embedding: vocabulary, units. Takes (T, 1) whole numbers.
        - flatten; dropout: rate=0.5; relu, tanh, sigmoid, softplus.

        ``frozen=True`` keeps a layer's parameters as they are. ``loss`` is a name or a dict with its "type":
        softmax_cross_entropy (labels y (B,) int32; class_weights, one for each class), or with y (B, O) float32
        binary_cross_entropy (of logits), mse, huber (delta=1), hinge (y is -1 or 1), each a mean over O.

        Raises ValueError where shapes cannot follow each other, naming the layer, for unknown types and keys, and for
        more than 2**28 parameters.
        """
    @property
    def parameter_count(self) -> int:
        """P, the length of the parameter buffer."""
    @property
    def trained_count(self) -> int:
        """How many of them are not frozen."""
    @property
    def inputs(self) -> int:
        """I, the values of one example."""
    @property
    def outputs(self) -> int:
        """O, the values of the last layer."""
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of every layer's output for one example."""
    def layout(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """Where each tensor lies: ("0.weight", offset, (I, O)), ("0.bias", offset, (O,)), ..., offsets counted in
        floats, the number the layer's position.
        """
    def initial(self) -> list[tuple[int, int, float, float]]:
        """What fresh parameters are: (offset, size, bound, value), uniform in +-bound (Glorot & Bengio 2010) or, where
        the bound is 0, the value.
        """
    def workspace_bytes(
        self,
        batch: SupportsIndex,
        *,
        optimizer: str = "sgd",
        momentum: bool = False,
        per_example: bool = False,
        noise: bool = False,
        rows: SupportsIndex | None = None,
    ) -> int:
        """Bytes that ``train`` takes beyond its arguments for minibatches of ``batch`` rows; other calls take less.
        ``per_example`` with clipping, ``noise`` for ``train_privately``.
        """
    def predict(
        self, params: NDArray[np.float32], x: NDArray[np.float32], *, reproducible: bool = False
    ) -> NDArray[np.float32]:
        """The last layer's output (B, O) for ``x`` (B, I): logits where the loss is a cross-entropy."""
    def loss(
        self,
        params: NDArray[np.float32],
        x: NDArray[np.float32],
        y: NDArray[np.int32] | NDArray[np.float32],
        *,
        reproducible: bool = False,
    ) -> float:
        """The mean loss over the batch, summed in double precision."""
    def gradient(
        self,
        params: NDArray[np.float32],
        x: NDArray[np.float32],
        y: NDArray[np.int32] | NDArray[np.float32],
        out: NDArray[np.float32],
        *,
        reproducible: bool = False,
    ) -> float:
        """Overwrites ``out`` (P,) with the gradient of the mean loss, zero where frozen, and returns that loss. ``out``
        shares no memory with the rest.
        """
    def clipped_gradient(
        self,
        params: NDArray[np.float32],
        x: NDArray[np.float32],
        y: NDArray[np.int32] | NDArray[np.float32],
        out: NDArray[np.float32],
        *,
        bound: SupportsFloat | NDArray[np.float64],
        norm: Literal["l1", "l2"] = "l2",
        reproducible: bool = False,
    ) -> NDArray[np.float64]:
        """Overwrites ``out`` (P,) with the SUM over the batch of each example's gradient g times min(1, bound / |g|).

        ``bound`` is one for the whole gradient, or (trained layers,) float64, one for each from the lowest up. Returns
        the norms before, (bounds, B). An example whose gradient is not finite adds nothing, and its norm says so.
        """
    def train(
        self,
        params: NDArray[np.float32],
        x: NDArray[np.float32],
        y: NDArray[np.int32] | NDArray[np.float32],
        order: NDArray[np.int32] | NDArray[np.int64],
        *,
        batch_size: SupportsIndex,
        learning_rate: SupportsFloat | NDArray[np.float32],
        optimizer: Literal["sgd", "adam", "adamw"] = "sgd",
        momentum: SupportsFloat = 0.0,
        nesterov: bool = False,
        weight_decay: SupportsFloat = 0.0,
        beta1: SupportsFloat = 0.9,
        beta2: SupportsFloat = 0.999,
        epsilon: SupportsFloat = 1e-8,
        proximal: SupportsFloat = 0.0,
        anchor: NDArray[np.float32] | None = None,
        correction: NDArray[np.float32] | None = None,
        dropout_key: bytes | None = None,
        rows: SupportsIndex | None = None,
        reproducible: bool = False,
        clip: SupportsFloat | NDArray[np.float64] | None = None,
        norm: Literal["l1", "l2"] = "l2",
    ) -> float:
        """Minibatch training on the unified local objective; ``params`` (P,) is updated in place.

        ``order`` (n_draws,) indexes the rows of ``x``, consumed ``batch_size`` at a time; the last batch may be short.
        ``learning_rate`` is one for all steps or (steps,). Each step, in float32 and from zero velocity::

            d = g(w) + proximal * (w - anchor) + correction + weight_decay * w
            v = momentum * v + d
            w = w - learning_rate * v                   (nesterov: d + momentum * v)

        where g is the gradient of the batch's mean loss; with ``clip`` the sum of the clipped gradients of
        ``clipped_gradient`` over ``batch_size``. "adam" (Kingma & Ba 2015) and "adamw" (Loshchilov & Hutter 2019)
        descend along the same d. FedProx: correction 0. FedDyn: correction -g_k, proximal alpha. SCAFFOLD: proximal 0,
        correction c_server - c_k. A nonzero ``proximal`` needs an ``anchor`` (P,), which may be ``params`` itself and
        then means its values on entry. Dropout acts with a ``dropout_key`` of 32 bytes. ``rows`` go through the network
        at a time, to bound memory; it changes no bits without ``clip``.

        Returns the mean loss over the draws, each taken before its batch's step. Where a weight becomes NaN or
        infinite, raises ValueError and leaves ``params`` as it was.
        """
    def train_privately(
        self,
        params: NDArray[np.float32],
        x: NDArray[np.float32],
        y: NDArray[np.int32] | NDArray[np.float32],
        *,
        rng: NoiseSource,
        steps: SupportsIndex,
        sampling: SupportsIndex,
        expected_batch: SupportsFloat,
        most_rows: SupportsIndex,
        clip: SupportsFloat | NDArray[np.float64],
        norm: Literal["l1", "l2"],
        grid: SupportsFloat,
        log2_scale: SupportsIndex | None = None,
        sigma: SupportsIndex | None = None,
        adaptive: tuple[float, float, float, float, int] | None = None,
        reservoir: NoiseReservoir | None = None,
        learning_rate: SupportsFloat | NDArray[np.float32],
        optimizer: Literal["sgd", "adam", "adamw"] = "sgd",
        momentum: SupportsFloat = 0.0,
        nesterov: bool = False,
        weight_decay: SupportsFloat = 0.0,
        beta1: SupportsFloat = 0.9,
        beta2: SupportsFloat = 0.999,
        epsilon: SupportsFloat = 1e-8,
        proximal: SupportsFloat = 0.0,
        anchor: NDArray[np.float32] | None = None,
        correction: NDArray[np.float32] | None = None,
        dropout_key: bytes | None = None,
        rows: SupportsIndex | None = None,
        reproducible: bool = False,
    ) -> dict[str, float]:
        """Differentially private SGD (Abadi et al. 2016) with ``steps`` steps; ``params`` (P,) is updated in place.

        Each step takes every row of ``x`` by itself with probability ``sampling`` / 2**64 (at most ``most_rows``),
        sums their clipped gradients, rounds the sum to multiples of ``grid``, adds noise on that grid to every trained
        parameter, discrete Laplace of ``log2_scale`` or discrete Gaussian of ``sigma``, and divides by
        ``expected_batch``; an empty batch is a step like any other. Sampling and noise come from ``rng``. What the
        guarantee is for these numbers: ``edge_runtime.privacy.dpsgd``, which is the way to call this.

        ``adaptive`` (quantile, rate, lowest, highest, scale) lets the bound follow a quantile of the norms (Andrew et
        al. 2021) by a count with the same kind of noise; ``grid`` is then that of a bound of 1. A ``reservoir`` of this
        ``log2_scale`` has the noise ready; ``rng`` is then a SystemRng.

        Returns loss (the mean), draws (rows used), within (of them within every bound), refused (of them without a
        finite gradient) and clip (the bound that a next step would have): all but the last depend on the data and are
        for the device's owner alone. Raises as ``train``.
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

def quantize_l2(update: NDArray[np.float32], clip: SupportsFloat, levels: SupportsIndex) -> NDArray[np.int32]:
    """``quantize_l1`` for the L2 norm: sum q_j**2 <= levels**2 EXACTLY."""

def integer_l1_norm(values: NDArray[np.int32]) -> int:
    """sum |values_j|, exact: the check on a contribution's sensitivity."""

@overload
def discrete_laplace(
    rng: NoiseSource, count: SupportsIndex, log2_scale: SupportsIndex, *, out: None = None
) -> NDArray[np.int64]:
    """``count`` independent integers X with P(X = x) proportional to r**max(x, -x - 1), r = 2**(-2**-log2_scale).

    Symmetric about -1/2, scale 2**log2_scale / ln 2, ``log2_scale`` 0..32. Added to integers whose L1 sensitivity is D
    it gives epsilon = D ln 2 / 2**log2_scale. Integer arithmetic only; instructions and addresses do not depend on the
    noise. Within 10 * 2**-65 of the law in total variation: ``docs/noise.md`` has the statement and its proof.

    ``out`` (count,), int64 or up to log2_scale 24 int32, is overwritten and returned: memory that is used again costs
    no page faults. Both widths get the same numbers.
    """

@overload
def discrete_laplace(rng: NoiseSource, count: SupportsIndex, log2_scale: SupportsIndex, *, out: Draws) -> Draws: ...
@overload
def discrete_gaussian(
    rng: NoiseSource, count: SupportsIndex, sigma: SupportsIndex, *, out: None = None
) -> NDArray[np.int64]:
    """``count`` independent integers X with P(X = x) proportional to exp(-x**2 / (2 sigma**2)), ``sigma`` 1..2**30.

    Added to integers whose L2 sensitivity is D it gives rho = D**2 / (2 sigma**2) of concentrated differential privacy
    (Canonne, Kamath & Steinke 2020). Integer arithmetic only; the time of a trial does not depend on the
    noise, and the number of trials says nothing about it. Within 2**-64 of the law in total variation, a draw:
    ``docs/noise.md``, section 8.

    ``out`` as for ``discrete_laplace``; int32 up to sigma 2**27.
    """

@overload
def discrete_gaussian(rng: NoiseSource, count: SupportsIndex, sigma: SupportsIndex, *, out: Draws) -> Draws: ...
@overload
def laplace_share(
    rng: NoiseSource, count: SupportsIndex, log2_scale: SupportsIndex, shares: SupportsIndex, *, out: None = None
) -> NDArray[np.int64]:
    """``count`` differences of two Polya variables: one of ``shares`` parts of discrete Laplace noise.

    The sum of ``shares`` such arrays, each from a generator of its own, has P(x) proportional to q**abs(x), q =
    2**(-2**-log2_scale): symmetric about 0, unlike ``discrete_laplace``, and of the same cost epsilon = D ln 2 /
    2**log2_scale. Shares may be added modulo 2**32. ``log2_scale`` 0..24, ``shares`` 1..2**20. Instructions and
    addresses do not depend on the noise. Within 2**-64 of the law in total variation, a coordinate of the whole sum:
    ``docs/noise.md``, section 9. ``out`` as for ``discrete_laplace``, int32 at any scale.
    """

@overload
def laplace_share(
    rng: NoiseSource, count: SupportsIndex, log2_scale: SupportsIndex, shares: SupportsIndex, *, out: Draws
) -> Draws: ...
def accumulate_f32(acc: NDArray[np.float64], x: NDArray[np.float32], weight: SupportsFloat) -> None:
    """``acc`` (d,) += ``weight`` * ``x`` (d,), 0 <= weight <= 2**64. NaN or infinity in ``x`` raises ValueError,
    ``acc`` untouched.
    """

def accumulate_i32(acc: NDArray[np.int64], x: NDArray[np.int32]) -> None:
    """``acc`` (d,) += ``x`` (d,), exactly and in any order the same. Leaving int64 raises ValueError, ``acc``
    untouched.
    """

def accumulate_u32(acc: NDArray[np.uint32], x: NDArray[np.uint32]) -> None:
    """``acc`` (d,) += ``x`` (d,) modulo 2**32: sums of masked vectors."""

# Many updates are a matrix (n, d) float32 or a sequence of n arrays (d,). Where one holds NaN or infinity, ValueError
# names it ("update 3 holds NaN or infinity"): no rule lets it win, and leaving it out is the caller's policy. Threads
# share out the coordinates; their number (1..256) does not change a bit of any result.

def weighted_sum(
    updates: Updates,
    weights: NDArray[np.float64],
    *,
    start: NDArray[np.float64] | None = None,
    threads: SupportsIndex = 1,
) -> NDArray[np.float64]:
    """``start`` (zero) + sum of ``weights`` (n,) times ``updates``, (d,): the bits of accumulate_f32 once an update, in
    one pass. 0 <= weights <= 2**64. Nothing that was passed in changes, so a refused update leaves no trace.
    """

def weighted_mean(updates: Updates, weights: NDArray[np.float64], *, threads: SupportsIndex = 1) -> NDArray[np.float32]:
    """sum w_i u_i / sum w_i, (d,), summed in double and rounded once. Weights as above, one at least positive."""

def coordinate_median(updates: Updates, *, threads: SupportsIndex = 1) -> NDArray[np.float32]:
    """The median of each coordinate (Yin et al. 2018, definition 1), (d,); of the middle two their mean. -0 sorts
    before +0, so that the order of the updates leaves no mark.
    """

def trimmed_mean(updates: Updates, trim: SupportsIndex, *, threads: SupportsIndex = 1) -> NDArray[np.float32]:
    """The mean of each coordinate without its ``trim`` largest and ``trim`` smallest values (Yin et al. 2018,
    definition 2), (d,), 2 * trim < n. Summed in double from the least up: the order of the updates leaves no mark.
    """

def squared_distances(updates: Updates, *, threads: SupportsIndex = 1) -> NDArray[np.float64]:
    """||u_i - u_j||**2, (n, n), symmetric, zero on the diagonal. From differences, not from a Gram matrix, so what all
    updates have in common does not drown them: each within a factor of 1 +- 70 * 2**-24, near 1 +- 2**-24 in practice.
    """

def geometric_median(
    updates: Updates,
    weights: NDArray[np.float64],
    start: NDArray[np.float32],
    *,
    smoothing: SupportsFloat,
    rounds: SupportsIndex,
    threads: SupportsIndex = 1,
) -> NDArray[np.float32]:
    """``rounds`` steps of smoothed Weiszfeld from ``start`` (d,) (Pillutla et al. 2022, algorithm 2), (d,):
    z = sum b_i u_i / sum b_i with b_i = w_i / max(smoothing, ||z - u_i||), in double. 2**-64 <= weights <= 2**64,
    1e-100 <= smoothing <= 1e100.
    """

def centered_clipping(
    updates: Updates,
    start: NDArray[np.float32],
    *,
    radius: SupportsFloat,
    rounds: SupportsIndex,
    threads: SupportsIndex = 1,
) -> NDArray[np.float32]:
    """From v = ``start`` (d,), ``rounds`` times v = v + mean of (u_i - v) min(1, radius / ||u_i - v||) (Karimireddy et
    al. 2021, equation 3), (d,), in double. radius > 0, infinity allowed.
    """

def pack_bits(codes: NDArray[np.uint32], bits: SupportsIndex) -> bytes:
    """``codes`` (n,) of ``bits`` (1..32) each, from the lowest bit of the first byte up; the last bits are zero. Raises
    ValueError for a code that takes more.
    """

def unpack_bits(packed: bytes, bits: SupportsIndex, count: SupportsIndex) -> NDArray[np.uint32]:
    """The ``count`` codes in exactly as many bytes as they take; what is beyond the last in its byte is not looked
    at.
    """

def top_k(
    x: NDArray[np.float32], k: SupportsIndex, *, take: bool = False
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Indices (k,), ascending, and values (k,) of the largest magnitudes in ``x`` (d,); among equals the lower index
    first. ``take`` leaves zeros in their places: ``x`` is then what was not sent. Raises ValueError where ``x`` holds
    NaN or infinity, ``x`` untouched.
    """

def max_magnitude(x: NDArray[np.float32]) -> float:
    """max |x_i|, 0 for an empty ``x`` (d,). Raises ValueError where ``x`` holds NaN or infinity."""

def l2_norm_above(x: NDArray[np.float32]) -> float:
    """||x||_2, rounded up to a float32: no |x_i| exceeds it. Infinity where no float32 is large enough. Raises
    ValueError where ``x`` holds NaN or infinity.
    """

def quantize_stochastic(
    rng: NoiseSource, x: NDArray[np.float32], norm: SupportsFloat, bits: SupportsIndex, *, take: bool = False
) -> bytes:
    """QSGD (Alistarh et al. 2017): ``x`` (d,) on the levels -s..s times norm / s, s = 2**(bits - 1) - 1, each on one
    of the two levels around it so that its expectation is its value (to 2**-31 of a level). ``bits`` is 1, 2, 4
    or 8; one bit has the two levels -norm and norm. Packed as by pack_bits, codes counted from the lowest level.

    ``norm``, a float32 of at most 2**126, bounds |x_i|. ``take`` subtracts in ``x`` what the codes stand for. Raises
    ValueError for a larger |x_i|, NaN or infinity, ``x`` untouched.
    """

def dequantize(packed: bytes, norm: SupportsFloat, bits: SupportsIndex, count: SupportsIndex) -> NDArray[np.float32]:
    """What ``count`` codes stand for, (count,). Raises ValueError for a code beyond the last level."""

def pack_signs(x: NDArray[np.float32], *, take: bool = False) -> tuple[bytes, float]:
    """The sign bits of ``x`` (d,), 1 for minus, packed by eights, and their scale ||x||_1 / d as a float32 (Karimireddy
    et al. 2019). ``take`` subtracts scale * sign in ``x``. Raises ValueError for NaN, infinity or |x_i| > 2**126, ``x``
    untouched.
    """

def unpack_signs(packed: bytes, scale: SupportsFloat, count: SupportsIndex) -> NDArray[np.float32]:
    """``scale`` with the signs, (count,)."""

def add_mask(values: NDArray[np.uint32], key: bytes, nonce: bytes) -> None:
    """``values`` (d,) += mask modulo 2**32, in place. Word j of the mask is word j of ChaCha20's keystream (RFC 8439,
    block counter from 0, little-endian words) under ``key`` (32 bytes) and ``nonce`` (12 bytes). One pair of the two
    serves one vector: a second one under the same mask reveals their difference.
    """

def subtract_mask(values: NDArray[np.uint32], key: bytes, nonce: bytes) -> None:
    """Undoes ``add_mask``; two parties of which one adds and the other subtracts leave no trace in the sum."""

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

@final
class NoiseReservoir:
    """Discrete Laplace draws of one ``log2_scale`` (0..24), made ahead of need by a thread of lower priority.

    From the system's randomness alone. Every draw leaves once and is wiped where it lay; ``close`` and the end of the
    object wipe the rest. What the store lacks is drawn on the spot, so that ``take`` waits for nobody. In a forked
    child the store would be the parent's noise: there, and once closed, taking raises ValueError. Threads may share
    one. Raises OSError where the system has no randomness or no thread to give.
    """

    secure: Final[Literal[True]] = True
    def __init__(self, log2_scale: SupportsIndex, capacity: SupportsIndex) -> None:
        """Room for ``capacity`` draws of 4 bytes, 1..2**26, rounded up to a multiple of 8192."""
    @overload
    def take(self, count: SupportsIndex, *, out: None = None) -> NDArray[np.int64]:
        """``count`` draws as of ``discrete_laplace``, into ``out`` (count,) if there is one."""
    @overload
    def take(self, count: SupportsIndex, *, out: Draws) -> Draws: ...
    def add_to(self, values: NDArray[np.int64]) -> None:
        """``values`` (d,) += d draws, in place."""
    def close(self) -> None: ...
    @property
    def ready(self) -> int:
        """Draws in the store."""
    @property
    def capacity(self) -> int: ...
    @property
    def log2_scale(self) -> int: ...

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

# For annotations only (import them under TYPE_CHECKING): the module has no such names.
NoiseSource: TypeAlias = SystemRng | seeded.SeededRng
Updates: TypeAlias = NDArray[np.float32] | Sequence[NDArray[np.float32]]
Draws = TypeVar("Draws", NDArray[np.int32], NDArray[np.int64])
