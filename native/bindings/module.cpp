// The module edge_runtime._kernels. Every binding checks its arguments, releases the GIL and calls one kernel; what the
// functions promise is written in edge_runtime/_kernels.pyi.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "fedge/isa.hpp"

namespace fedge::bindings {
void bind_compress(pybind11::module_& m);
void bind_network(pybind11::module_& m);
void bind_privacy(pybind11::module_& m);
void bind_reduce(pybind11::module_& m);
void bind_robust(pybind11::module_& m);
}  // namespace fedge::bindings

PYBIND11_MODULE(_kernels, m) {
    try {
        m.attr("isa") = fedge::isa_name(fedge::isa());
    } catch (const std::runtime_error& refusal) {
        throw pybind11::import_error(refusal.what());
    }
    m.doc() = "Native kernels: training, clipping, noise, sums and encodings over flat NumPy arrays.";
    fedge::bindings::bind_network(m);
    fedge::bindings::bind_privacy(m);
    fedge::bindings::bind_reduce(m);
    fedge::bindings::bind_robust(m);
    fedge::bindings::bind_compress(m);
}
