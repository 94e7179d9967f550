# Changes llama.cpp's flash attention on CPUs (LLAMA_CPP_DIR) to pass over what a row does not see 64 cells at a time.
#
# The cells of all sequences lie in one pool, so most of it is masked for any one row; llama.cpp looks at each cell again
# for each row and head. With 32 sequences of 100 tokens that is a third of a step, and cells that are kept for a later
# request slow down those that have nothing to do with them.

set(ops "${LLAMA_CPP_DIR}/ggml/src/ggml-cpu/ops.cpp")
file(READ "${ops}" text)

function(replace_once old new)
  string(FIND "${text}" "${old}" first)
  string(FIND "${text}" "${old}" last REVERSE)
  if(first EQUAL -1 OR NOT first EQUAL last)
    message(FATAL_ERROR "${ops} is not the one that scripts/llama_masked_cells.cmake knows: ${old}")
  endif()
  string(REPLACE "${old}" "${new}" text "${text}")
  set(text "${text}" PARENT_SCOPE)
endfunction()

string(FIND "${text}" "anyserve_first_seen" done)
if(done EQUAL -1)
  replace_once(
[=[
static void ggml_compute_forward_flash_attn_ext_f16_one_chunk(
]=]
[=[
// The first cell from ic on that the mask does not hide, or end.
static inline int64_t anyserve_first_seen(const ggml_fp16_t * mask, int64_t ic, int64_t end) {
    const uint16_t minus_infinity = 0xFC00;
    while (ic + 64 <= end) {
        uint16_t seen = 0;
        for (int i = 0; i < 64; ++i) {
            seen |= mask[ic + i] ^ minus_infinity;
        }
        if (seen) {
            break;
        }
        ic += 64;
    }
    while (ic < end && mask[ic] == minus_infinity) {
        ++ic;
    }
    return ic;
}

static void ggml_compute_forward_flash_attn_ext_f16_one_chunk(
]=])

  # One row at a time.
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

  # Tiles of rows and cells.
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
  file(WRITE "${ops}" "${text}")
endif()
