// CHECK(condition): says where and goes on. A test's main returns run(its cases).
#pragma once

#include <cstdio>
#include <stdexcept>

#include "fedge/isa.hpp"

namespace check {
inline int& failed() {
    static int count = 0;
    return count;
}
// 0 for success, 1 for failures, 77 where this machine lacks the instruction set that FEDGE_ISA asks for.
inline int run(void (*cases)()) {
    try {
        fedge::isa();
    } catch (const std::runtime_error& refusal) {
        std::puts(refusal.what());
        return 77;
    }
    cases();
    return failed() == 0 ? 0 : 1;
}
}  // namespace check

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
            ++check::failed();                                                                 \
        }                                                                                      \
    } while (false)
