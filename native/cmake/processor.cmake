# Compiler flags for llama.cpp's code on this processor: for our wheel, and for the benchmark's peers.
# CMake reads this file right after a project() line (CMAKE_PROJECT_INCLUDE or CMAKE_PROJECT_<name>_INCLUDE).

# gcc's intrinsic declares only 8 of the 64 bytes that it loads. So gcc optimises away the rest of the tile configuration,
# which llama.cpp builds on the stack, and on processors with AMX the first prompt of some tokens causes a segmentation
# fault (llama.cpp's issue 20824 and pull request 26954). The header replaces the intrinsic by one with all 64 bytes.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include ${CMAKE_CURRENT_LIST_DIR}/amx_tile_config.h>")
endif()

# With AVX512-FP16, llama.cpp adds half-precision vectors 128 elements at a time, and the rest one by one through a table.
# A head of most models has 64 or 128 elements, so attention to a cell took three times as long as with AVX-512 alone.
if(NOT MSVC)
  add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-U__AVX512FP16__>")
endif()
