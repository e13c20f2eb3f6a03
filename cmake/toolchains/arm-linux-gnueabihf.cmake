# 32-bit ARM boards with a hard-float system (Raspberry Pi 2, Zero 2 W and later under a 32-bit system; not the first Pi and
# Zero, whose processors are ARMv6). The compiler's own choice is ARMv7-A with VFPv3-D16 and without NEON, which is what
# Debian's armhf promises; what is faster with NEON is compiled for it unit by unit and chosen at run time.
set(FEDGE_TRIPLET arm-linux-gnueabihf)
set(FEDGE_QEMU qemu-arm-static)
set(CMAKE_SYSTEM_PROCESSOR armv7l)
include(${CMAKE_CURRENT_LIST_DIR}/debian.cmake)
