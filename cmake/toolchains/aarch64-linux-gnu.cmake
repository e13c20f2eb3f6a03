# 64-bit ARM boards (Raspberry Pi 3 and later under a 64-bit system), with Debian's cross-compiler.
# FEDGE_ROOT names an unpacked root of that architecture: its Python's headers, and its libraries for emulated tests.
set(FEDGE_TRIPLET aarch64-linux-gnu)
set(FEDGE_QEMU qemu-aarch64-static)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
include(${CMAKE_CURRENT_LIST_DIR}/debian.cmake)
