# Changes llama.cpp's flash attention on CPUs (in LLAMA_CPP_DIR); what the changes call is in anyserve_attention.h.
#
# The cells of all sequences lie in one pool, so most of it is hidden from any one row; llama.cpp looks at each cell again
# for each row and head. With 32 sequences of 100 tokens that is a third of a step, and cells that are kept for a later
# request slow down those that have nothing to do with them. What is hidden is passed over many cells at a time.

include("${CMAKE_CURRENT_LIST_DIR}/patch.cmake")
patch("ops.cpp" "anyserve_attention.h")

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

# Rows, by blocks of cells where that is possible, otherwise cell by cell.
replace_once(
[=[
    // parallelize by q rows using ggml_vec_dot_f32

    float scale         = 1.0f;
]=]
[=[
    if (anyserve_attends(k, v)) {
        anyserve_attend_rows(dst, ir0, ir1, ic_start, ic_end, partials, partial_stride);
        return;
    }

    float scale         = 1.0f;
]=])
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
# Heads that share a head of K and V are not given to different threads.
replace_once(
[=[
        int64_t chunk_size = (nr + nth_scaled - 1) / nth_scaled;
]=]
[=[
        int64_t chunk_size = (nr + nth_scaled - 1) / nth_scaled;
        const int64_t group = neq2 / nek2;
        if (nr / group >= nth_scaled) {
            chunk_size = (chunk_size + group - 1) / group * group;
        }
]=])
replace_once(
[=[
        const int64_t dr = (nr + nchunk - 1) / nchunk;

        static constexpr int64_t Q_TILE_SZ]=]
[=[
        const int64_t dr = nchunk == nth ? (nr + nchunk - 1) / nchunk : chunk_size;

        static constexpr int64_t Q_TILE_SZ]=])
# All heads of a single row at once.
replace_once(
[=[
            for (int64_t q_head = 0; q_head < neq2; q_head++) {
                ggml_compute_forward_flash_attn_ext_f16_one_chunk(
                    params, dst, q_head, q_head + 1, ic_start, ic_end,
                    chunk_partials, partial_stride);
            }
]=]
[=[
            ggml_compute_forward_flash_attn_ext_f16_one_chunk(
                params, dst, 0, neq2, ic_start, ic_end, chunk_partials, partial_stride);
]=])

# Tiles compute rows that there are not and cells that are hidden, and convert K and V again for each head.
replace_once(
[=[
                                neq1 >= Q_TILE_SZ);
]=]
[=[
                                neq1 >= Q_TILE_SZ &&
                                !anyserve_attends(k, v));
]=])
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
file(WRITE "${source}" "${text}")
