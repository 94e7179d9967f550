# Changes one of llama.cpp's files: patch(), then replace_once() for each change, then file(WRITE "${source}" "${text}").

# Reads a file of ggml-cpu into `text`, and puts the header that the changes call beside it. Returns from the caller if the
# changes are there already.
macro(patch file header)
  set(source "${LLAMA_CPP_DIR}/ggml/src/ggml-cpu/${file}")
  file(READ "${source}" text)
  string(FIND "${text}" "${header}" done)
  if(NOT done EQUAL -1)
    return()
  endif()
  get_filename_component(folder "${source}" DIRECTORY)
  file(COPY "${CMAKE_CURRENT_LIST_DIR}/${header}" DESTINATION "${folder}")
endmacro()

# Replaces what occurs once in `text`. An error if `source` is another version's.
function(replace_once old new)
  string(FIND "${text}" "${old}" first)
  string(FIND "${text}" "${old}" last REVERSE)
  if(first EQUAL -1 OR NOT first EQUAL last)
    message(FATAL_ERROR "${source} is not the one that scripts/llama knows: ${old}")
  endif()
  string(REPLACE "${old}" "${new}" text "${text}")
  set(text "${text}" PARENT_SCOPE)
endfunction()
