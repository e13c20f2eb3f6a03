// CHECK(condition): says where and goes on. A test's main returns failures().
#pragma once

#include <cstdio>

namespace check {
inline int& failed() {
    static int count = 0;
    return count;
}
inline int failures() { return failed() == 0 ? 0 : 1; }
}  // namespace check

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
            ++check::failed();                                                                 \
        }                                                                                      \
    } while (false)
