// Many updates as one argument.
#pragma once

#include <string>
#include <vector>

#include "array_arg.hpp"
#include "fedge/reduce.hpp"
#include "fedge/robust.hpp"

namespace fedge::bindings {

// n rows of d floats: a matrix (n, d), or a sequence of n arrays (d,). Holds on to them, whatever other threads do to a
// list while the GIL is away.
struct Rows {
    explicit Rows(py::handle arg) {
        if (py::isinstance<py::array>(arg)) {
            const auto matrix = array_arg<const float>(arg, "updates", {"n", "d"});
            kept.push_back(py::reinterpret_borrow<py::object>(arg));
            d = matrix.shape[1];
            for (std::size_t i = 0; i < matrix.shape[0]; ++i) data.push_back(matrix.data + i * d);
        } else if (py::isinstance<py::sequence>(arg) && PyMemoryView_Check(arg.ptr()) == 0) {
            for (const py::handle item : py::reinterpret_borrow<py::sequence>(arg)) add(item);
        } else {
            throw py::type_error("want updates (n, d) float32 or a sequence of n arrays (d,); got " +
                                 std::string(py::str(py::type::of(arg).attr("__name__"))));
        }
        if (data.empty() || data.size() > max_rows) {
            throw py::value_error("want 1 to " + std::to_string(max_rows) + " updates; got " +
                                  std::to_string(data.size()));
        }
    }

    std::size_t n() const { return data.size(); }

    // The refusal of the first row that is not finite.
    [[noreturn]] void refuse() const {
        std::size_t which = 0;
        {
            const py::gil_scoped_release unlocked;
            which = first_not_finite(data.data(), n(), d);
        }
        throw py::value_error("update " + std::to_string(which) + " holds NaN or infinity");
    }

    std::vector<const float*> data;
    std::size_t d = 0;

  private:
    void add(py::handle item) {
        const std::string name = "updates[" + std::to_string(data.size()) + "]";
        const auto row =
            data.empty() ? array_arg<const float>(item, name.c_str(), {"d"})
                         : array_arg<const float>(item, name.c_str(), {{"d", d}});
        d = row.size();
        data.push_back(row.data);
        kept.push_back(py::reinterpret_borrow<py::object>(item));
    }

    std::vector<py::object> kept;
};

inline std::vector<double> weights_arg(py::handle arg, std::size_t n, double above) {
    const auto view = array_arg<const double>(arg, "weights", {{"n", n}});
    std::vector<double> weights(view.data, view.data + n);
    for (std::size_t i = 0; i < n; ++i) {
        if (weights[i] >= above && weights[i] <= 18446744073709551616.0) continue;
        throw py::value_error("want weights in " + std::string(above > 0.0 ? "[2**-64" : "[0") +
                              ", 2**64]; got " + py::repr(py::float_(weights[i])).cast<std::string>() +
                              " at " + std::to_string(i));
    }
    return weights;
}

inline std::size_t threads_arg(py::handle arg) { return count_arg(arg, "threads", 1, 256); }

}  // namespace fedge::bindings
