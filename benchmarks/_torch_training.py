"""The same networks in PyTorch, trained plainly and by Opacus; and the MLP in scikit-learn.

Weights move between our layout (channels-last, input-major) and PyTorch's (channels-first, output-major).
"""

# mypy: ignore-errors
# The peers live in an environment of their own, so nothing here can be typed.

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks._nets import CLIP_L2, RATE, Job, Net


class TorchTrainer:
    """``torch.optim.SGD`` over the batches; ``dp`` names Opacus's way to clip: "hooks" or "ghost"."""

    def __init__(self, job: Job, *, dp: str | None = None) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch, self._job = torch, job
        self._model = _model(torch, job.net, private=dp is not None)
        # A copy with the strides that PyTorch gives: with those that NumPy leaves on a single channel it would convolve
        # channels-last, for which Opacus 1.6 computes other gradients than PyTorch.
        given = torch.from_numpy(_channels_first(job.x, job.net))
        self._x = torch.empty(given.shape).copy_(given)
        self._y = torch.from_numpy(job.y.astype(np.int64))
        self._batches = [torch.from_numpy(rows) for rows in job.batches()]
        self._criterion = torch.nn.CrossEntropyLoss()
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=RATE)
        self._step_model = self._model
        if dp is not None:
            self._wrap(dp)
        self.reset()

    def _wrap(self, dp: str) -> None:
        from opacus import GradSampleModule
        from opacus.grad_sample import GradSampleModuleFastGradientClipping
        from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
        from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

        warnings.filterwarnings(
            "ignore", "Full backward hook is firing"
        )  # as it does when Opacus is used as documented
        # No noise: what the two sides compute is then the same, and the peer's step is the cheaper for it.
        settings = {"noise_multiplier": 0.0, "max_grad_norm": CLIP_L2, "expected_batch_size": self._job.batch}
        if dp == "hooks":
            self._step_model = GradSampleModule(self._model, loss_reduction="mean")
            self._optimizer = DPOptimizer(self._optimizer, **settings)
        else:
            self._step_model = GradSampleModuleFastGradientClipping(
                self._model, max_grad_norm=CLIP_L2, use_ghost_clipping=True, loss_reduction="mean"
            )
            self._optimizer = DPOptimizerFastGradientClipping(self._optimizer, **settings)
            self._criterion = DPLossFastGradientClipping(self._step_model, self._optimizer, self._criterion, "mean")

    def reset(self) -> None:
        with self._torch.no_grad():
            for tensor, (at, shape, there, _) in zip(self._tensors(), _places(self._job.net), strict=True):
                ours = self._job.start[at : at + int(np.prod(shape))].reshape(shape)
                tensor.copy_(self._torch.from_numpy(np.ascontiguousarray(there(ours))))

    def run(self) -> None:
        for rows in self._batches:
            self._optimizer.zero_grad()
            loss = self._criterion(self._step_model(self._x[rows]), self._y[rows])
            loss.backward()
            self._optimizer.step()

    def params(self) -> NDArray[np.float32]:
        flat = np.empty_like(self._job.start)
        for tensor, (at, shape, _, back) in zip(self._tensors(), _places(self._job.net), strict=True):
            flat[at : at + int(np.prod(shape))] = back(tensor.detach().numpy()).ravel()
        return flat

    def _tensors(self) -> list:
        """In our order, which nn.GRU has and DPGRU has not: weights before biases, of the input before the state's."""
        named = sorted(
            self._model.named_parameters(), key=lambda one: (int(one[0][0]), "bias" in one[0], "hh" in one[0])
        )
        return [tensor for _, tensor in named]


class SklearnMlp:
    """``MLPClassifier.partial_fit`` over all batches in one call, as its ``fit`` would run them."""

    def __init__(self, job: Job) -> None:
        from sklearn.neural_network import MLPClassifier

        hidden = tuple(layer["units"] for layer in job.net.layers if layer["type"] == "dense")[:-1]
        self._job, self._x, self._y = job, job.x[job.order], job.y[job.order]
        self._model = MLPClassifier(
            hidden,
            solver="sgd",
            alpha=0.0,
            batch_size=job.batch,
            learning_rate_init=RATE,
            momentum=0.0,
            nesterovs_momentum=False,
            shuffle=False,
        )
        self._model.partial_fit(self._x, self._y, classes=np.arange(job.net.classes))
        self.reset()

    def reset(self) -> None:
        for tensor, (at, shape, _, _) in zip(self._tensors(), _places(self._job.net), strict=True):
            tensor[...] = self._job.start[at : at + tensor.size].reshape(shape)

    def run(self) -> None:
        self._model.partial_fit(self._x, self._y)

    def params(self) -> NDArray[np.float32]:
        return np.concatenate([tensor.ravel() for tensor in self._tensors()]).astype(np.float32)

    def _tensors(self) -> list[NDArray[np.float32]]:
        return [tensor for pair in zip(self._model.coefs_, self._model.intercepts_, strict=True) for tensor in pair]


def _channels_first(x: NDArray[np.float32], net: Net) -> NDArray[np.float32]:
    if net.layers[0]["type"] in ("dense", "gru"):
        return x.reshape(len(x), *net.shape)
    return np.ascontiguousarray(np.moveaxis(x.reshape(len(x), *net.shape), -1, 1))


def _model(torch, net: Net, *, private: bool):
    nn, parts, (*_, channels) = torch.nn, [], net.shape
    shapes = [net.shape, *net.native().shapes()]
    for layer, below in zip(net.layers, shapes, strict=False):
        channels = below[-1]
        match layer["type"]:
            case "dense":
                parts.append(nn.Linear(channels, layer["units"]))
            case "conv1d":
                parts.append(nn.Conv1d(channels, layer["filters"], layer["kernel"]))
            case "conv2d":
                parts.append(nn.Conv2d(channels, layer["filters"], layer["kernel"]))
            case "max_pool":
                parts.append((nn.MaxPool1d if len(net.shape) == 2 else nn.MaxPool2d)(layer["size"]))
            case "relu":
                parts.append(nn.ReLU())
            case "flatten":
                parts.append(nn.Flatten())
            case "gru":
                parts.append(_last_state(torch, channels, layer["units"], private=private))
    return nn.Sequential(*parts)


def _last_state(torch, inputs: int, units: int, *, private: bool):
    if private:
        from opacus.layers import DPGRU as Gru
    else:
        Gru = torch.nn.GRU

    class LastState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = Gru(inputs, units, batch_first=True)

        def forward(self, x):
            return self.gru(x)[0][:, -1]

    return LastState()


def _places(net: Net) -> list[tuple[int, tuple[int, ...], Callable, Callable]]:
    """Each tensor's offset and shape in our buffer, and the ways to and from PyTorch's tensor, in PyTorch's order."""
    native = net.native()
    shapes = [net.shape, *native.shapes()]
    found = []
    for name, at, shape in native.layout():
        number = int(name.partition(".")[0])
        kind, below = net.layers[number]["type"], shapes[number]
        there = back = _same
        if name.endswith("weight") and kind == "conv1d":
            there, back = _conv1d_there, _conv1d_back
        elif name.endswith("weight") and kind == "conv2d":
            there, back = _conv2d_there, _conv2d_back
        elif len(shape) == 2 and kind == "dense":
            spread = shapes[number - 1] if number and net.layers[number - 1]["type"] == "flatten" else below
            there, back = _dense_ways(spread)
        elif len(shape) == 2:
            there = back = np.transpose
        found.append((at, shape, there, back))
    return found


def _same(w: NDArray[np.float32]) -> NDArray[np.float32]:
    return w


def _conv1d_there(w: NDArray[np.float32]) -> NDArray[np.float32]:
    return w.reshape(w.shape[-3:]).transpose(2, 1, 0)  # (1, K, C, O) or (K, C, O) to (O, C, K)


def _conv1d_back(w: NDArray[np.float32]) -> NDArray[np.float32]:
    return w.transpose(2, 1, 0)


def _conv2d_there(w: NDArray[np.float32]) -> NDArray[np.float32]:
    return w.transpose(3, 2, 0, 1)  # (KH, KW, C, O) to (O, C, KH, KW)


def _conv2d_back(w: NDArray[np.float32]) -> NDArray[np.float32]:
    return w.transpose(2, 3, 1, 0)


def _dense_ways(spread: tuple[int, ...]) -> tuple[Callable, Callable]:
    """A dense layer over a flattened (..., C): PyTorch flattened (C, ...)."""

    def there(w: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.moveaxis(w.reshape(*spread, -1), -2, 0).reshape(w.shape).T

    def back(w: NDArray[np.float32]) -> NDArray[np.float32]:
        first = w.T.reshape(spread[-1], *spread[:-1], -1)
        return np.moveaxis(first, 0, -2).reshape(w.shape[::-1])

    return there, back
