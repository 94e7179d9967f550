// Included by llama.cpp's ops.cpp, see attention.cmake: attention of one row to half-precision cells.
//
// llama.cpp goes from cell to cell: a dot product, an exponential by the C library, and a sum that is read, converted and
// stored again. This goes by blocks of the cells that the row sees: all scores, all exponentials as vectors, then the
// weighted sum in registers, in single precision. The running maximum is that of https://arxiv.org/abs/2112.05682.
#pragma once

#include "ggml.h"
#include "simd-mappings.h"
#include "vec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define ANYSERVE_ATTENTION
#include <immintrin.h>
using anyserve_vec = __m512;
static inline anyserve_vec anyserve_set1(float x) { return _mm512_set1_ps(x); }
static inline anyserve_vec anyserve_load(const float * x) { return _mm512_loadu_ps(x); }
static inline anyserve_vec anyserve_load(const ggml_fp16_t * x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) x));
}
static inline void anyserve_store(float * y, anyserve_vec x) { _mm512_storeu_ps(y, x); }
static inline anyserve_vec anyserve_fma(anyserve_vec x, anyserve_vec y, anyserve_vec sum) {
    return _mm512_fmadd_ps(x, y, sum);
}
static inline float anyserve_sum(anyserve_vec x) { return _mm512_reduce_add_ps(x); }
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define ANYSERVE_ATTENTION
#include <immintrin.h>
using anyserve_vec = __m256;
static inline anyserve_vec anyserve_set1(float x) { return _mm256_set1_ps(x); }
static inline anyserve_vec anyserve_load(const float * x) { return _mm256_loadu_ps(x); }
static inline anyserve_vec anyserve_load(const ggml_fp16_t * x) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) x));
}
static inline void anyserve_store(float * y, anyserve_vec x) { _mm256_storeu_ps(y, x); }
static inline anyserve_vec anyserve_fma(anyserve_vec x, anyserve_vec y, anyserve_vec sum) {
    return _mm256_fmadd_ps(x, y, sum);
}
static inline float anyserve_sum(anyserve_vec x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
#endif

static const ggml_fp16_t anyserve_hidden = 0xFC00; // minus infinity

// The first cell from ic on that the mask does not hide, or end.
static inline int64_t anyserve_first_seen(const ggml_fp16_t * mask, int64_t ic, int64_t end) {
    while (ic + 64 <= end) {
        uint16_t seen = 0;
        for (int i = 0; i < 64; ++i) {
            seen |= mask[ic + i] ^ anyserve_hidden;
        }
        if (seen) {
            break;
        }
        ic += 64;
    }
    while (ic < end && mask[ic] == anyserve_hidden) {
        ++ic;
    }
    return ic;
}

// Thread ith's share, of nth, of the cells that the row sees. All shares together are the whole pool, from cell 0, since
// attention sinks are added to the share that begins there.
static inline void anyserve_share(const ggml_tensor * mask, int64_t n_cells, int ith, int nth, int64_t * begin, int64_t * end) {
    int64_t first = 0, last = n_cells;
    if (mask) {
        const ggml_fp16_t * row = (const ggml_fp16_t *) mask->data;
        first = anyserve_first_seen(row, 0, n_cells);
        while (last > first && row[last - 1] == anyserve_hidden) {
            --last;
        }
    }
    *begin = ith == 0       ? 0       : first + (last - first) * ith / nth;
    *end   = ith == nth - 1 ? n_cells : first + (last - first) * (ith + 1) / nth;
}

#if defined(ANYSERVE_ATTENTION)

static const int anyserve_vec_size = sizeof(anyserve_vec) / sizeof(float);
static const int anyserve_strip    = 4 * anyserve_vec_size; // what four registers hold

static inline bool anyserve_attends(const ggml_tensor * k, const ggml_tensor * v) {
    return k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16 && k->ne[0] % anyserve_strip == 0 && v->ne[0] % anyserve_strip == 0;
}

struct anyserve_row {
    const float * q;
    const char * k;           // of cell 0
    const char * v;
    const ggml_fp16_t * mask; // one element a cell; may be null
    float scale, slope, softcap;
};

static inline float anyserve_dot(const float * q, const ggml_fp16_t * k, int64_t n) {
    anyserve_vec sum[4] = { anyserve_set1(0), anyserve_set1(0), anyserve_set1(0), anyserve_set1(0) };
    for (int64_t d = 0; d < n; d += anyserve_strip) {
        for (int i = 0; i < 4; ++i) {
            const int64_t at = d + i * anyserve_vec_size;
            sum[i] = anyserve_fma(anyserve_load(q + at), anyserve_load(k + at), sum[i]);
        }
    }
    return anyserve_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// The cells from ic to end: out[DV] is the sum of their values, weighted by exp(score - max); sum is that of the weights.
static void anyserve_attend(const anyserve_row & row, const ggml_tensor * k, const ggml_tensor * v, int64_t ic, int64_t end, float * out, float * max, float * sum) {
    const int block = 64;
    const int64_t DK = k->ne[0], DV = v->ne[0];
    int64_t cells[block];
    float weights[block];

    memset(out, 0, DV * sizeof(float));
    while (true) {
        int n = 0;
        float block_max = -INFINITY;
        while (n < block && ic < end) {
            if (row.mask && row.mask[ic] == anyserve_hidden) {
                ic = anyserve_first_seen(row.mask, ic, end);
                continue;
            }
            float score = row.scale * anyserve_dot(row.q, (const ggml_fp16_t *) (row.k + ic * k->nb[1]), DK);
            if (row.softcap != 0.0f) {
                score = row.softcap * tanhf(score);
            }
            if (row.mask) {
                score += row.slope * GGML_CPU_FP16_TO_FP32(row.mask[ic]);
            }
            block_max  = std::max(block_max, score);
            weights[n] = score;
            cells[n++] = ic++;
        }
        if (n == 0) {
            return;
        }
        if (block_max > *max) {
            const float shrink = expf(*max - block_max);
            ggml_vec_scale_f32(DV, out, shrink);
            *sum *= shrink;
            *max = block_max;
        }
        // Up to whole vectors: the exponentials of the rest would be computed one by one.
        const int padded = GGML_PAD(n, anyserve_vec_size);
        std::fill(weights + n, weights + padded, -INFINITY);
        *sum += ggml_vec_soft_max_f32(padded, weights, weights, *max);

        for (int64_t d = 0; d < DV; d += anyserve_strip) {
            anyserve_vec strip[4];
            for (int i = 0; i < 4; ++i) {
                strip[i] = anyserve_load(out + d + i * anyserve_vec_size);
            }
            for (int j = 0; j < n; ++j) {
                const anyserve_vec weight = anyserve_set1(weights[j]);
                const ggml_fp16_t * value = (const ggml_fp16_t *) (row.v + cells[j] * v->nb[1]) + d;
                for (int i = 0; i < 4; ++i) {
                    strip[i] = anyserve_fma(anyserve_load(value + i * anyserve_vec_size), weight, strip[i]);
                }
            }
            for (int i = 0; i < 4; ++i) {
                anyserve_store(out + d + i * anyserve_vec_size, strip[i]);
            }
        }
    }
}

#else

static inline bool anyserve_attends(const ggml_tensor *, const ggml_tensor *) { return false; }

#endif
