#include <algorithm>

#include "rows_arg.hpp"

namespace fedge::bindings {
namespace {

py::array_t<double> sum_of(py::handle updates, py::handle weights_, py::handle start_, py::handle threads_) {
    const Rows rows(updates);
    const auto weights = weights_arg(weights_, rows.n(), 0.0);
    const double* const start =
        start_.is_none() ? nullptr : array_arg<const double>(start_, "start", {{"d", rows.d}}).data;
    const std::size_t threads = threads_arg(threads_);
    py::array_t<double> out(static_cast<py::ssize_t>(rows.d));
    double* const data = out.mutable_data();
    bool done = false;
    {
        const py::gil_scoped_release unlocked;
        done = weighted_sum(data, start, rows.data.data(), weights.data(), rows.n(), rows.d, threads);
    }
    if (!done && first_not_finite(rows.data.data(), rows.n(), rows.d) == rows.n()) {
        throw py::value_error("start holds NaN or infinity");
    }
    if (!done) rows.refuse();
    return out;
}

py::array_t<float> mean_of(py::handle updates, py::handle weights_, py::handle threads_) {
    const Rows rows(updates);
    const auto weights = weights_arg(weights_, rows.n(), 0.0);
    if (std::none_of(weights.begin(), weights.end(), [](double w) { return w > 0.0; })) {
        throw py::value_error("want weights of which one at least is positive; got only zeros");
    }
    const std::size_t threads = threads_arg(threads_);
    py::array_t<float> out(static_cast<py::ssize_t>(rows.d));
    float* const data = out.mutable_data();
    bool done = false;
    {
        const py::gil_scoped_release unlocked;
        done = weighted_mean(data, rows.data.data(), weights.data(), rows.n(), rows.d, threads);
    }
    if (!done) rows.refuse();
    return out;
}

}  // namespace

void bind_reduce(py::module_& m) {
    m.def(
        "accumulate_f32",
        [](py::handle acc_arg, py::handle x_arg, py::handle weight_arg) {
            const auto acc = array_arg<double>(acc_arg, "acc", {"d"});
            const auto x = array_arg<const float>(x_arg, "x", {{"d", acc.size()}});
            const double weight = real_arg(weight_arg, "weight", "in [0, 2**64]",
                                           [](double v) { return v >= 0.0 && v <= 18446744073709551616.0; });
            refuse_overlap(acc, "acc", x, "x");
            bool done = false;
            {
                const py::gil_scoped_release unlocked;
                done = accumulate_f32(acc.data, x.data, weight, x.size());
            }
            if (!done) throw py::value_error("x holds NaN or infinity; acc is untouched");
        },
        py::arg("acc"), py::arg("x"), py::arg("weight"));

    m.def(
        "accumulate_i32",
        [](py::handle acc_arg, py::handle x_arg) {
            const auto acc = array_arg<std::int64_t>(acc_arg, "acc", {"d"});
            const auto x = array_arg<const std::int32_t>(x_arg, "x", {{"d", acc.size()}});
            refuse_overlap(acc, "acc", x, "x");
            bool done = false;
            {
                const py::gil_scoped_release unlocked;
                done = accumulate_i32(acc.data, x.data, x.size());
            }
            if (!done) throw py::value_error("a coordinate of acc would leave int64; acc is untouched");
        },
        py::arg("acc"), py::arg("x"));

    m.def(
        "accumulate_u32",
        [](py::handle acc_arg, py::handle x_arg) {
            const auto acc = array_arg<std::uint32_t>(acc_arg, "acc", {"d"});
            const auto x = array_arg<const std::uint32_t>(x_arg, "x", {{"d", acc.size()}});
            refuse_overlap(acc, "acc", x, "x");
            const py::gil_scoped_release unlocked;
            accumulate_u32(acc.data, x.data, x.size());
        },
        py::arg("acc"), py::arg("x"));

    m.def("weighted_sum", &sum_of, py::arg("updates"), py::arg("weights"), py::kw_only(),
          py::arg("start") = py::none(), py::arg("threads") = 1);
    m.def("weighted_mean", &mean_of, py::arg("updates"), py::arg("weights"), py::kw_only(), py::arg("threads") = 1);

    m.def(
        "integer_l1_norm",
        [](py::handle values_arg) {
            const auto values = array_arg<const std::int32_t>(values_arg, "values", {"d"});
            const py::gil_scoped_release unlocked;
            return integer_l1_norm(values.data, values.size());
        },
        py::arg("values"));
}

}  // namespace fedge::bindings
