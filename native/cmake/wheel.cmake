# CMake reads this file right after llama-cpp-python's project() line (CMAKE_PROJECT_llama_cpp_INCLUDE). It changes
# llama.cpp's source and restricts the build to the libraries that we load.

# llama.cpp's command-line helpers take more than half of the compile time, and nothing in Python uses them.
# A normal variable wins over the cache entry that llama-cpp-python forces to ON (policy CMP0126).
set(LLAMA_BUILD_COMMON OFF)
set(LLAVA_BUILD OFF)

# Installs one file per library, in the package, instead of three copies in two places: wheels have no symbolic links.
set(CMAKE_INSTALL_BINDIR llama_cpp/lib)
set(CMAKE_INSTALL_LIBDIR llama_cpp/lib)
set(CMAKE_INSTALL_INCLUDEDIR llama_cpp/include)
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME ON)

include("${CMAKE_CURRENT_LIST_DIR}/processor.cmake")

# Once per build folder, since the patches don't fit a source that already has them.
if(NOT ANYSERVE_PATCHED)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/../apply.py" "${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp"
    RESULT_VARIABLE ANYSERVE_STATUS
    ERROR_VARIABLE ANYSERVE_ERROR)
  if(ANYSERVE_STATUS)
    message(FATAL_ERROR "${ANYSERVE_ERROR}")
  endif()
  set(ANYSERVE_PATCHED TRUE CACHE INTERNAL "llama.cpp's source is changed")
endif()

# With GGML_BACKEND_DL, the libraries of the processors are found in this folder at run time. llama.cpp itself searches
# only beside the executable (python) and in the current directory.
if(ANYSERVE_BACKEND_DIR)
  add_compile_definitions(GGML_BACKEND_DIR="${ANYSERVE_BACKEND_DIR}")
endif()
