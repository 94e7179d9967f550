# How llama.cpp's code for this processor is compiled: for our wheel, and for the peers that are measured beside it.
# Read right after a project() line (CMAKE_PROJECT_INCLUDE or CMAKE_PROJECT_<name>_INCLUDE).

# gcc reads 8 of the 64 bytes that its own intrinsic loads; the rest of the tile configuration, which llama.cpp makes on
# the stack, is optimised away, and on processors with AMX the first prompt of some tokens ends in a segmentation fault
# (llama.cpp's issue 20824 and pull request 26954). So gcc gets an intrinsic that says what it reads.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include ${CMAKE_CURRENT_LIST_DIR}/amx_tile_config.h>")
endif()

# Where llama.cpp sees AVX512-FP16, it adds half-precision vectors 128 elements at a time and the rest one by one through
# a table. A head of most models has 64 or 128, so attention to a cell took three times as long as with AVX-512 alone.
if(NOT MSVC)
  add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-U__AVX512FP16__>")
endif()
