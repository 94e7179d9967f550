# Changes llama.cpp's flash attention on CPUs (in LLAMA_CPP_DIR); what the changes call is in anyserve_attention.h.
#
# The cells of all sequences lie in one pool, so most of it is hidden from any one row; llama.cpp looks at each cell again
# for each row and head. With 32 sequences of 100 tokens that is a third of a step, and cells that are kept for a later
# request slow down those that have nothing to do with them. What is hidden is passed over 64 cells at a time.

set(ops "${LLAMA_CPP_DIR}/ggml/src/ggml-cpu/ops.cpp")
file(READ "${ops}" text)

function(replace_once old new)
  string(FIND "${text}" "${old}" first)
  string(FIND "${text}" "${old}" last REVERSE)
  if(first EQUAL -1 OR NOT first EQUAL last)
    message(FATAL_ERROR "${ops} is not the one that scripts/llama/attention.cmake knows: ${old}")
  endif()
  string(REPLACE "${old}" "${new}" text "${text}")
  set(text "${text}" PARENT_SCOPE)
endfunction()

string(FIND "${text}" "anyserve_attention.h" done)
if(done EQUAL -1)
  file(COPY "${CMAKE_CURRENT_LIST_DIR}/anyserve_attention.h" DESTINATION "${LLAMA_CPP_DIR}/ggml/src/ggml-cpu")
  replace_once(
[=[
#include "vec.h"

#include <algorithm>
]=]
[=[
#include "vec.h"
#include "anyserve_attention.h"

#include <algorithm>
]=])

  # One row: by blocks where that is possible, otherwise cell by cell.
  replace_once(
[=[
        for (int64_t ic = ic_start; ic < ic_end; ++ic) {
            const float mv =]=]
[=[
        const bool attends = anyserve_attends(k, v);
#if defined(ANYSERVE_ATTENTION)
        if (attends) {
            const char * k_head = (const char *) k->data + ik2*nbk2 + ik3*nbk3;
            const char * v_head = (const char *) v->data + iv2*nbv2 + iv3*nbv3;
            anyserve_attend({ pq, k_head, v_head, mp, scale, slope, logit_softcap }, k, v, ic_start, ic_end, VKQ32, &M, &S);
        }
#endif
        for (int64_t ic = attends ? ic_end : ic_start; ic < ic_end; ++ic) {
            const float mv =]=])
  replace_once(
[=[
            if (mv == -INFINITY) {
                continue;
]=]
[=[
            if (mv == -INFINITY) {
                ic = anyserve_first_seen(mp, ic, ic_end) - 1;
                continue;
]=])
  replace_once(
[=[
        if (v->type == GGML_TYPE_F16) {
            for (int64_t d = 0; d < DV; ++d) {]=]
[=[
        if (v->type == GGML_TYPE_F16 && !attends) {
            for (int64_t d = 0; d < DV; ++d) {]=])

  # A tile of rows and cells.
  replace_once(
[=[
                bool can_skip = true;
                for (int tq = 0; tq < tile_rows; tq++) {
]=]
[=[
                bool can_skip = true;
                for (int tq = 0; tq < tile_rows && can_skip; tq++) {
                    const ggml_fp16_t * mp_row = (const ggml_fp16_t *)((const char *) mask->data + (iq1 + tq)*mask->nb[1] + (iq2%mask->ne[2])*mask->nb[2] + (iq3%mask->ne[3])*mask->nb[3]);
                    can_skip = anyserve_first_seen(mp_row, ic, ic + kv_tile) == ic + kv_tile;
                }
                if (can_skip) {
                    continue;
                }
                for (int tq = 0; tq < tile_rows; tq++) {
]=])

  # One row whose cells are shared among the threads: those that it sees, not those of the pool.
  replace_once(
[=[
        const int64_t chunk_size = (nek1 + nth - 1) / nth;

        // Partials]=]
[=[
        // Partials]=])
  replace_once(
[=[
        const int64_t ic_start = ith * chunk_size;
        const int64_t ic_end   = std::min(ic_start + chunk_size, nek1);
]=]
[=[
        int64_t ic_start, ic_end;
        anyserve_share(dst->src[3], nek1, ith, nth, &ic_start, &ic_end);
]=])
  replace_once(
"        ggml_flash_attn_ext_reduce_partials(params, dst, nth, chunk_size);"
"        ggml_flash_attn_ext_reduce_partials(params, dst, nth, /* no share is left out */ 1);")
  file(WRITE "${ops}" "${text}")
endif()
