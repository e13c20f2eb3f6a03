// Objects that their constructor never saw. Class.__new__(Class) makes one, and pybind11 would then lend a method
// uninitialized memory in place of a value: a generator with whatever key lay there. Here it is no argument at all, and
// the call a TypeError. Every unit that binds includes this (array_arg.hpp).
#pragma once

#include <pybind11/pybind11.h>

#include "fedge/csprng.hpp"
#include "fedge/network.hpp"
#include "fedge/reservoir.hpp"

namespace fedge::bindings {

template <class T>
struct ConstructedCaster : pybind11::detail::type_caster_base<T> {
    bool load(pybind11::handle source, bool convert) {
        if (pybind11::isinstance<T>(source)) {
            auto* const object = reinterpret_cast<pybind11::detail::instance*>(source.ptr());
            if (!object->get_value_and_holder().holder_constructed()) return false;
        }
        return pybind11::detail::type_caster_base<T>::load(source, convert);
    }
};

}  // namespace fedge::bindings

namespace pybind11::detail {
template <>
class type_caster<fedge::Network> : public fedge::bindings::ConstructedCaster<fedge::Network> {};
template <>
class type_caster<fedge::NoiseReservoir> : public fedge::bindings::ConstructedCaster<fedge::NoiseReservoir> {};
template <>
class type_caster<fedge::SystemRng> : public fedge::bindings::ConstructedCaster<fedge::SystemRng> {};
template <>
class type_caster<fedge::SeededRng> : public fedge::bindings::ConstructedCaster<fedge::SeededRng> {};
}  // namespace pybind11::detail
