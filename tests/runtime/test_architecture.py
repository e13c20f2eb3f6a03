"""Layers as a device checks them: the same shapes and counts as the native network, and explained where they misfit."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime import _kernels
from edge_runtime.architecture import (
    Conv,
    Dense,
    DepthwiseConv,
    Dropout,
    Elementwise,
    Embedding,
    Flatten,
    Gru,
    Norm,
    Pool,
    place,
)
from edge_runtime.errors import LocalError
from edge_runtime.tables import from_mapping, to_mapping
from edge_runtime.task import ModelSpec

small = st.integers(1, 4)
sizes = small | st.tuples(small, small)
paddings = st.integers(0, 2) | st.tuples(st.integers(0, 2), st.integers(0, 2))
activations = st.sampled_from(["identity", "relu", "tanh", "sigmoid", "softplus"])
flags = st.booleans()
layers = st.one_of(
    st.builds(Dense, small, activations, flags, flags),
    *(
        st.builds(Conv, small, sizes, sizes, paddings, activations, flags, flags, type=st.just(kind))
        for kind in ("conv1d", "conv2d")
    ),
    *(
        st.builds(DepthwiseConv, sizes, sizes, paddings, activations, flags, flags, type=st.just(kind))
        for kind in ("depthwise_conv1d", "depthwise_conv2d")
    ),
    st.builds(Pool, sizes, st.none() | sizes, paddings, type=st.sampled_from(["max_pool", "average_pool"])),
    st.builds(Norm, small, type=st.just("group_norm")),
    st.builds(Norm, type=st.just("layer_norm")),
    st.builds(Gru, small, flags, flags),
    st.builds(Embedding, small, small),
    st.builds(Flatten),
    st.builds(Dropout, st.floats(0, 0.99)),
    st.builds(Elementwise, type=st.sampled_from(["relu", "softplus"])),
)
shapes = st.tuples(st.integers(1, 9)) | st.tuples(st.integers(2, 9), small) | st.tuples(st.integers(2, 9), small, small)


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The native network drops leading ones: a sequence of one step is a vector to it."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


@st.composite
def fitting(draw: st.DrawFn) -> tuple[tuple[int, ...], list]:
    """A shape, and those of some layers that follow one another on it."""
    shape, chosen = draw(shapes), []
    for layer in draw(st.lists(layers, min_size=4, max_size=12)):
        with contextlib.suppress(ValueError):
            place(shape, [*chosen, layer])
            chosen.append(layer)
    return shape, chosen or [Flatten()]


@settings(max_examples=300)
@given(fitting())
def test_shapes_and_tensors_are_those_of_the_native_network(drawn) -> None:
    shape, chosen = drawn
    placed = place(shape, chosen)
    net = _kernels.Network(shape, [layer.native() for layer in placed], "mse")
    assert [squeezed(layer.gives) for layer in placed] == net.shapes()
    assert sum(layer.parameter_count for layer in placed) == net.parameter_count
    theirs = [(name, offset, math.prod(shape)) for name, offset, shape in net.layout()]
    ours = []
    for layer in placed:
        offset = layer.offset
        for name, tensor in layer.tensors.items():
            ours.append((f"{layer.number}.{name}", offset, math.prod(tensor)))
            offset += math.prod(tensor)
    assert ours == theirs


@given(shapes, st.lists(layers, min_size=1, max_size=4))
def test_what_the_native_network_refuses_is_refused_before_it_is_asked(shape, chosen) -> None:
    tables = [{key: value for key, value in to_mapping(layer).items() if key != "activation"} for layer in chosen]
    try:
        _kernels.Network(shape, tables, "mse")
    except (ValueError, TypeError):
        with pytest.raises(ValueError, match="layer"):
            place(shape, chosen)


@given(st.lists(layers, min_size=1, max_size=5))
def test_layers_survive_their_table(chosen) -> None:
    spec_table = {"shape": [9, 4], "layers": [to_mapping(layer) for layer in chosen]}
    try:
        spec = ModelSpec(layers=tuple(chosen), shape=(9, 4), loss="hinge")
    except ValueError:
        with pytest.raises(LocalError):
            from_mapping(ModelSpec, {**spec_table, "loss": "hinge"}, where="here")
        return
    assert from_mapping(ModelSpec, {**spec_table, "loss": "hinge"}, where="here") == spec


def misfit(shape: list[int], *tables: dict[str, object], **model: object) -> str:
    with pytest.raises(LocalError) as caught:
        from_mapping(ModelSpec, {"shape": shape, "layers": [*tables], **model}, where="task.toml: model")
    return str(caught.value).removeprefix("task.toml: model")


CONV = {"type": "conv1d", "filters": 64, "kernel": 5, "activation": "relu"}
POOL = {"type": "max_pool", "size": 2}

EXPLAINED = {
    "dense on a sequence": (
        ([187, 1], CONV, POOL, CONV, POOL, {"units": 5}),
        ": layer 4 (dense) takes a vector, layer 3 gives (43, 64): put a flatten layer before it",
    ),
    "an embedding of what no data are": (
        ([8, 1], {"type": "dropout", "rate": 0.5}, {"type": "embedding", "vocabulary": 5, "units": 2}),
        ": layer 1 (embedding) takes whole numbers of the data: put it first",
    ),
    "a convolution over time on an image": (
        ([28, 28, 1], CONV),
        ": layer 0 (conv1d) takes a sequence (steps, channels), the input is (28, 28, 1): use conv2d",
    ),
    "a convolution on a vector": (
        ([187], CONV),
        ": layer 0 (conv1d) takes a sequence (steps, channels), the input is (187,): give the model its shape, as in "
        '"shape = [187, 1]", and put flatten behind this layer',
    ),
    "windows larger than what is left": (
        ([8, 1], POOL, CONV),
        ": layer 1 (conv1d) has windows of 5, its input a length of 4, layer 0 gives (4, 1): take smaller windows, "
        "more padding, or less pooling before it",
    ),
    "padding as wide as the window": (
        ([9, 1], {**CONV, "padding": 5}),
        ": layer 0 (conv1d) has a padding of 5 for windows of 5, the most that makes sense is 4, the input is (9, 1)",
    ),
    "two sizes for a sequence": (
        ([9, 1], {**CONV, "kernel": [3, 3]}),
        ": layer 0 (conv1d) has two sizes for a sequence, the input is (9, 1): give one number",
    ),
    "channels in unequal groups": (
        ([9, 6], {"type": "group_norm", "groups": 4}, {"type": "flatten"}, {"units": 1}),
        ": layer 0 (group_norm) wants channels in 4 equal groups, the input is (9, 6)",
    ),
    "no groups": (
        ([9, 6], {"type": "group_norm"}),
        ": layers[0] (group_norm): group_norm takes a number of groups",
    ),
    "a sequence that is left over": (
        ([9, 6], {"type": "gru", "units": 3, "sequences": True}),
        ": the last layer gives (9, 3): put a flatten or dense layer behind it",
    ),
    "a gru over an age": (
        ([65_537, 1], {"type": "gru", "units": 1}),
        ": layer 0 (gru) takes at most 65536 steps, the input is (65537, 1): pool or convolve with a stride before it",
    ),
    "batch normalization": (
        ([9, 6], {"type": "batch_norm"}),
        ': layers[0]: no type "batch_norm": batch normalization mixes the examples of a batch, so no gradient belongs '
        "to one example and none can be clipped, and its running statistics would leave the device without noise; use "
        "group_norm or layer_norm",
    ),
    "a typing error in the type": (
        ([9, 1], {"type": "conv1", "filters": 3, "kernel": 2}),
        ": layers[0]: unknown type 'conv1'; did you mean \"conv1d\"?",
    ),
    "a key of another layer": (
        ([9, 1], {"type": "conv1d", "units": 3, "kernel": 2}),
        ": layers[0] (conv1d): unknown key 'units'; known keys: filters, kernel, stride, padding, activation, bias, "
        "frozen, type",
    ),
    "a typing error in a key": (
        ([9, 1], {"type": "conv1d", "filtres": 3, "kernel": 2}),
        ": layers[0] (conv1d): unknown key 'filtres'; did you mean \"filters\"?",
    ),
    "three sizes": (
        ([9, 9, 1], {"type": "conv2d", "filters": 3, "kernel": [1, 2, 3]}),
        ": layers[0] (conv2d): kernel: a length of 3 is outside 2..2",
    ),
    "nothing to train": (
        ([9], {"units": 2, "frozen": True}, {"type": "relu"}),
        ": every layer is frozen or has no parameters: there is nothing to train",
    ),
    "hours of work in few parameters": (
        ([1 << 20, 1], {"type": "conv1d", "filters": 1, "kernel": 65536}, {"type": "gru", "units": 1}),
        ": layer 1 (gru) takes at most",
    ),
    "hours of work": (
        ([1 << 18, 1], {"type": "conv1d", "filters": 1, "kernel": 65536}, {"type": "flatten"}, {"units": 1}),
        ": one example takes 1.3e+10 multiply-adds, the limit is 4.3e+09: take strides, pools or fewer filters",
    ),
    "an image of more values than memory": (
        ([1 << 24, 1 << 24, 1 << 24], {"type": "flatten"}, {"units": 1}),
        ": an input of 4722366482869645213696 values is above the limit of 16777216",
    ),
    "a layer that gives more than memory": (
        ([1 << 20, 1], {"type": "conv1d", "filters": 65536, "kernel": 1}),
        ": layer 0 (conv1d) gives (1048576, 65536), more than 16777216 values",
    ),
}


@pytest.mark.parametrize("case", EXPLAINED)
def test_layers_that_do_not_follow_one_another_are_explained(case: str) -> None:
    arguments, words = EXPLAINED[case]
    assert misfit(*arguments).startswith(words)


def test_losses_take_their_own_options_only() -> None:
    dense = {"units": 2}
    assert "class_weights go with softmax_cross_entropy" in misfit([3], dense, loss="mse", class_weights=[1.0, 2.0])
    assert "3 class_weights for 2 outputs" in misfit([3], dense, class_weights=[1.0, 2.0, 1.0])
    assert "huber_delta goes with huber" in misfit([3], dense, loss="mse", huber_delta=2.0)


def test_inputs_and_shape_say_the_same_or_one_of_them_nothing() -> None:
    one = ModelSpec(6, (Dense(2),))
    assert (one.shape, one.inputs) == ((6,), 6)
    assert ModelSpec(layers=(Dense(2),), shape=(6,)) == one
    assert "inputs is 5, the shape [6] has 6 values" in misfit([6], {"units": 2}, inputs=5)
    assert "give the shape of one example" in misfit([], {"units": 2})
    with pytest.raises(LocalError, match='the key "layers" is missing'):
        from_mapping(ModelSpec, {"shape": [6]}, where="here")


def test_the_bound_on_what_a_batch_holds_is_one() -> None:
    """Against the native workspace of a batch that goes through at once."""
    for spec in (
        ModelSpec(layers=(Conv(8, 5, padding=4, type="conv1d"), Flatten(), Dense(3)), shape=(90, 2)),
        ModelSpec(layers=(Gru(16, sequences=True), Flatten(), Dense(3)), shape=(30, 4)),
        ModelSpec(layers=(Norm(2, type="group_norm"), Pool(2, type="max_pool"), Flatten(), Dense(3)), shape=(64, 4)),
    ):
        net = _kernels.Network(spec.shape, [layer.native() for layer in spec.placed], spec.loss)
        batch = 64
        needed = net.workspace_bytes(batch, rows=batch) - net.workspace_bytes(1, rows=1)
        assert needed < 4 * 3 * (batch - 1) * spec.values  # values, their slopes, and what a layer keeps


def test_an_offer_is_checked_without_numpy_and_without_the_kernels() -> None:
    code = (
        "import sys; from edge_runtime.task import ModelSpec; from edge_runtime.architecture import *; "
        "m = ModelSpec(layers=(Conv(8, 5, type='conv1d'), Gru(3), Dense(2)), shape=(20, 2)); "
        "print(m.parameter_count, 'numpy' in sys.modules, 'edge_runtime._kernels' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [str(8 * 11 + 9 * (8 + 3) + 18 + 8), "False", "False"]


def test_fresh_parameters_follow_glorot_with_scales_of_one_and_zero_biases() -> None:
    from edge_runtime.model import initial_params

    spec = ModelSpec(layers=(Conv(40, 5, type="conv1d"), Norm(2, type="group_norm"), Gru(30), Dense(20)), shape=(20, 8))
    params = initial_params(spec, np.random.default_rng(0))
    conv, norm, gru, dense = spec.placed
    weight = conv.tensor("weight", params)
    bound = math.sqrt(6 / (5 * 8 + 5 * 40))
    assert 0.95 * bound < np.abs(weight).max() <= bound
    assert (norm.tensor("weight", params) == 1).all()
    for layer in (conv, norm, dense):
        assert (layer.tensor("bias", params) == 0).all()
    assert gru.tensor("weight_hh", params).std() > 0
    assert not initial_params(ModelSpec(4, (Dense(3),)), np.random.default_rng(0)).any()
