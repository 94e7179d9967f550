# Changes llama.cpp's products with quantized weights on processors with AMX (in LLAMA_CPP_DIR); what is called instead is
# in anyserve_matmul.h.

include("${CMAKE_CURRENT_LIST_DIR}/patch.cmake")
patch("amx/mmq.cpp" "anyserve_matmul.h")

replace_once(
[=[
size_t ggml_backend_amx_desired_wsize(const struct ggml_tensor * dst) {
    struct ggml_tensor * src0 = dst->src[0];
]=]
[=[
#include "anyserve_matmul.h"

size_t ggml_backend_amx_desired_wsize(const struct ggml_tensor * dst) {
    struct ggml_tensor * src0 = dst->src[0];

    size_t anyserve_size;
    if (anyserve_work_size(dst, &anyserve_size)) {
        return anyserve_size;
    }
]=])
replace_once(
[=[
void ggml_backend_amx_mul_mat(const ggml_compute_params * params, struct ggml_tensor * dst) {
]=]
[=[
void ggml_backend_amx_mul_mat(const ggml_compute_params * params, struct ggml_tensor * dst) {
    if (anyserve_mul_mat(params, dst)) {
        return;
    }
]=])
file(WRITE "${source}" "${text}")
