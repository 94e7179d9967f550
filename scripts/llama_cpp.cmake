# Read right after llama-cpp-python's project() line (CMAKE_PROJECT_llama_cpp_INCLUDE): builds only what we load.

# llama.cpp's command line helpers are more than half of the compile time, and nothing in Python uses them.
# A normal variable wins over the cache entry that llama-cpp-python forces to ON (policy CMP0126).
set(LLAMA_BUILD_COMMON OFF)
set(LLAVA_BUILD OFF)

# One file a library, in the package, instead of three copies each in two places: a wheel holds no symbolic links.
set(CMAKE_INSTALL_BINDIR llama_cpp/lib)
set(CMAKE_INSTALL_LIBDIR llama_cpp/lib)
set(CMAKE_INSTALL_INCLUDEDIR llama_cpp/include)
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME ON)

# No AMX: on processors that have it, the first prompt of some tokens ends in a segmentation fault. Compilers (gcc 12
# for one) drop most of the tile configuration that llama.cpp builds on the stack, as their intrinsic names 8 of its 64
# bytes; llama.cpp's issue 20824 and pull request 26954.
include(CheckCCompilerFlag)
check_c_compiler_flag(-mno-amx-tile ANYSERVE_KNOWS_AMX)
if(ANYSERVE_KNOWS_AMX)
  add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
endif()

# With GGML_BACKEND_DL, the libraries for the different processors are found at run time in this folder; llama.cpp itself
# looks only beside the executable (python) and in the current directory.
if(ANYSERVE_BACKEND_DIR)
  add_compile_definitions(GGML_BACKEND_DIR="${ANYSERVE_BACKEND_DIR}")
endif()
