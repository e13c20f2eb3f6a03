# What the two toolchains share. Programs and packages (Python, pybind11, Cython) are the build machine's; only Python's headers are
# the target's, for its pyconfig.h holds the sizes of the target's types.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_C_COMPILER ${FEDGE_TRIPLET}-gcc)
set(CMAKE_CXX_COMPILER ${FEDGE_TRIPLET}-g++)
set(CMAKE_FIND_ROOT_PATH /usr/${FEDGE_TRIPLET})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)

if(FEDGE_ROOT)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${FEDGE_QEMU} -L ${FEDGE_ROOT})
  set(PYBIND11_USE_CROSSCOMPILING ON)
  set(Python_INCLUDE_DIR ${FEDGE_ROOT}/usr/include/python3.11)
  # pyconfig.h includes <TRIPLET/python3.11/pyconfig.h>. After the cross-compiler's own directories, which hold the C library's.
  set(CMAKE_C_FLAGS_INIT "-idirafter ${FEDGE_ROOT}/usr/include")
  set(CMAKE_CXX_FLAGS_INIT ${CMAKE_C_FLAGS_INIT})
endif()
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES FEDGE_ROOT)
