#include "array_arg.hpp"
#include "fedge/reduce.hpp"

namespace fedge::bindings {

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
        "integer_l1_norm",
        [](py::handle values_arg) {
            const auto values = array_arg<const std::int32_t>(values_arg, "values", {"d"});
            const py::gil_scoped_release unlocked;
            return integer_l1_norm(values.data, values.size());
        },
        py::arg("values"));
}

}  // namespace fedge::bindings
