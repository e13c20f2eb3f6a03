// What the bindings of the network share: its arguments and its memory.
#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include "array_arg.hpp"
#include "fedge/network.hpp"
#include "fedge/reduce.hpp"

namespace fedge::bindings {

inline std::size_t addressable(std::size_t bytes, std::size_t batch) {
    if (bytes > static_cast<std::size_t>(PTRDIFF_MAX)) {
        throw py::value_error("a batch of " + std::to_string(batch) +
                              " needs more memory than this machine can address");
    }
    return bytes;
}

// Aligned to a cache line: vectors of no width then cross one.
struct AlignedDelete {
    void operator()(std::byte* p) const noexcept { ::operator delete[](p, std::align_val_t{64}); }
};
using Workspace = std::unique_ptr<std::byte[], AlignedDelete>;

inline Workspace workspace(std::size_t bytes, std::size_t batch) {
    const std::size_t size = addressable(bytes, batch);
    return Workspace(static_cast<std::byte*>(::operator new[](size, std::align_val_t{64})));
}

inline View<const float> params_arg(const Network& net, py::handle arg) {
    return array_arg<const float>(arg, "params", {{"P", net.parameter_count()}});
}

inline View<const float> x_arg(const Network& net, py::handle arg) {
    const auto x = array_arg<const float>(arg, "x", {"B", {"I", net.inputs()}});
    if (x.shape[0] == 0) throw py::value_error("want x with at least 1 row; got 0");
    const std::size_t bad = net.first_bad_input(x.data, x.shape[0]);
    if (bad < x.size()) {
        throw py::value_error("x[" + std::to_string(bad / x.shape[1]) + ", " + std::to_string(bad % x.shape[1]) +
                              "] is " + std::to_string(x.data[bad]) + ", which the " +
                              net.layers().front().layer->kind() + " layer cannot take");
    }
    return x;
}

// y for `rows` rows of x. Labels are read here and again by the kernel: nobody may write to y meanwhile.
inline Targets targets_arg(const Network& net, py::handle arg, std::size_t rows) {
    if (!net.loss().labelled()) {
        return {nullptr, array_arg<const float>(arg, "y", {{"B", rows}, {"O", net.outputs()}}).data};
    }
    const auto labels = array_arg<const std::int32_t>(arg, "y", {{"B", rows}});
    const std::size_t bad = first_out_of_range(labels.data, rows, net.outputs());
    if (bad < rows) {
        throw py::value_error("want labels y in [0, " + std::to_string(net.outputs()) + "); y[" + std::to_string(bad) +
                              "] is " + std::to_string(labels.data[bad]));
    }
    return {labels.data, nullptr};
}

inline Targets rows_from(const Network& net, Targets targets, std::size_t row) {
    if (targets.labels != nullptr) return {targets.labels + row, nullptr};
    return {nullptr, targets.values + row * net.outputs()};
}

// `out` (P), written in place and apart from what is read.
inline View<float> out_arg(const Network& net, py::handle arg, const View<const float>& params,
                           const View<const float>& x, Targets targets) {
    const auto out = array_arg<float>(arg, "out", {{"P", net.parameter_count()}});
    const std::size_t B = x.shape[0];
    refuse_overlap(out, "out", params, "params");
    refuse_overlap(out, "out", x, "x");
    if (targets.values != nullptr) {
        refuse_overlap(out, "out", View<const float>{targets.values, {B, net.outputs()}}, "y");
    }
    if (targets.labels != nullptr) refuse_overlap(out, "out", View<const std::int32_t>{targets.labels, {B, 1}}, "y");
    return out;
}

inline Mode mode_of(bool reproducible) { return {reproducible ? Arithmetic::reproducible : Arithmetic::fast}; }

inline Norm norm_arg(const std::string& name) {
    if (name == "l1") return Norm::l1;
    if (name == "l2") return Norm::l2;
    throw py::value_error("want norm l1 or l2; got '" + name + "'");
}

// One bound for all parameters, or an array with one for each layer that trains.
inline std::vector<double> bounds_arg(const Network& net, py::handle arg) {
    std::size_t trained = 0;
    for (std::size_t l = 0; l < net.layers().size(); ++l) trained += net.trains(l) ? 1 : 0;
    if (trained == 0) throw py::value_error("every layer is frozen: there is no gradient to clip");
    if (!py::isinstance<py::array>(arg)) return {real_arg(arg, "bound", "positive and finite", positive_and_finite)};
    const auto view = array_arg<const double>(arg, "bound", {{"trained layers", trained}});
    for (std::size_t i = 0; i < trained; ++i) {
        if (!positive_and_finite(view.data[i])) {
            throw py::value_error("want bound positive and finite; bound[" + std::to_string(i) + "] is " +
                                  std::to_string(view.data[i]));
        }
    }
    return {view.data, view.data + trained};
}

inline void refuse_not_finite(const View<const float>& x) {
    if (!all_finite(x.data, x.size())) throw py::value_error("x holds NaN or infinity");
}

}  // namespace fedge::bindings
