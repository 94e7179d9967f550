// Attention of rows to half-precision cells. llama.cpp's ops.cpp includes it, see patches/0001 to 0003.
//
// For each head, llama.cpp processes cell by cell: a dot product, an exponential by the C library, and a sum that is read,
// converted and stored again. Here the heads of a row that share a head of K and V are processed together, by blocks of
// the row's visible cells: all scores, all exponentials as vectors, then the weighted sums in registers, in single
// precision. The running maximum follows https://arxiv.org/abs/2112.05682.
#pragma once

#include "ggml.h"
#include "simd-mappings.h"
#include "vec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

static const ggml_fp16_t anyserve_hidden = 0xFC00; // minus infinity

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
#define ANYSERVE_ATTENTION
#include <immintrin.h>
using anyserve_vec = __m512;
static inline anyserve_vec anyserve_set1(float x) { return _mm512_set1_ps(x); }
static inline anyserve_vec anyserve_load(const float * x) { return _mm512_loadu_ps(x); }
static inline anyserve_vec anyserve_load(const ggml_fp16_t * x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) x));
}
static inline void anyserve_store(float * y, anyserve_vec x) { _mm512_storeu_ps(y, x); }
static inline anyserve_vec anyserve_mul(anyserve_vec x, anyserve_vec y) { return _mm512_mul_ps(x, y); }
static inline anyserve_vec anyserve_fma(anyserve_vec x, anyserve_vec y, anyserve_vec sum) {
    return _mm512_fmadd_ps(x, y, sum);
}
static inline anyserve_vec anyserve_max(anyserve_vec x, anyserve_vec y) { return _mm512_max_ps(x, y); }
static inline float anyserve_max(anyserve_vec x) { return _mm512_reduce_max_ps(x); }
// Returns the sums of four vectors' elements.
static inline __m128 anyserve_sums(const anyserve_vec * x) {
    const __m512 x01 = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    const __m512 x23 = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    const __m512 sum = _mm512_add_ps(_mm512_shuffle_ps(x01, x23, 0x44), _mm512_shuffle_ps(x01, x23, 0xEE));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps(sum, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
static const int anyserve_vecs = 4; // vectors of each head's sum in registers
// Returns one bit for each of 32 cells: set if visible.
static inline uint32_t anyserve_seen(const ggml_fp16_t * mask) {
    return _mm512_cmpneq_epi16_mask(_mm512_loadu_si512(mask), _mm512_set1_epi16((short) anyserve_hidden));
}
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
static inline anyserve_vec anyserve_mul(anyserve_vec x, anyserve_vec y) { return _mm256_mul_ps(x, y); }
static inline anyserve_vec anyserve_fma(anyserve_vec x, anyserve_vec y, anyserve_vec sum) {
    return _mm256_fmadd_ps(x, y, sum);
}
static inline anyserve_vec anyserve_max(anyserve_vec x, anyserve_vec y) { return _mm256_max_ps(x, y); }
static inline float anyserve_max(anyserve_vec x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
static inline __m128 anyserve_sums(const anyserve_vec * x) {
    const __m256 sum = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    return _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
}
static const int anyserve_vecs = 2;
static inline uint32_t anyserve_seen(const ggml_fp16_t * mask) {
    const __m256i hidden = _mm256_set1_epi16((short) anyserve_hidden);
    const __m256i low  = _mm256_cmpeq_epi16(_mm256_loadu_si256((const __m256i *) mask), hidden);
    const __m256i high = _mm256_cmpeq_epi16(_mm256_loadu_si256((const __m256i *) mask + 1), hidden);
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xD8);
    return ~(uint32_t) _mm256_movemask_epi8(both);
}
#endif

// Returns the first cell from ic on that the mask does not hide, or end.
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

// Sets the share of thread ith, of nth, of the row's visible cells. The shares cover the whole pool from cell 0, since
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

static const int anyserve_vec_size    = sizeof(anyserve_vec) / sizeof(float);
static const int anyserve_block       = 64;  // cells whose weights are computed before their values are added
static const int anyserve_max_queries = 4;   // computed together
static const int anyserve_max_dim     = 640; // elements of a head
static const int anyserve_ahead       = 12;  // cells to prefetch
static const int anyserve_padding     = anyserve_ahead + 3; // of a list of cells, which is read four at a time

static inline bool anyserve_attends(const ggml_tensor * k, const ggml_tensor * v) {
    return k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16 && k->ne[0] % anyserve_vec_size == 0 &&
        v->ne[0] % anyserve_vec_size == 0 && v->ne[0] <= anyserve_max_dim;
}

// The cells that at least one of some rows of the mask does not hide.
struct anyserve_cells {
    std::vector<int32_t> list; // and padding, which is read but has no effect
    int n;

    void find(const ggml_fp16_t * const * masks, int n_masks, int64_t begin, int64_t end) {
        list.resize(end - begin + anyserve_padding);
        n = 0;
        for (int64_t ic = begin; ic < end;) {
            if (masks[0] && ic + 32 <= end) {
                uint32_t seen = 0;
                for (int i = 0; i < n_masks; ++i) {
                    seen |= anyserve_seen(masks[i] + ic);
                }
                for (; seen; seen &= seen - 1) {
                    list[n++] = ic + __builtin_ctz(seen);
                }
                ic += 32;
            } else {
                bool seen = !masks[0];
                for (int i = 0; i < n_masks && !seen; ++i) {
                    seen = masks[i][ic] != anyserve_hidden;
                }
                if (seen) {
                    list[n++] = ic;
                }
                ++ic;
            }
        }
        std::fill_n(list.begin() + n, anyserve_padding, n ? list[n - 1] : begin);
    }
};

struct anyserve_query {
    const float * q;
    const ggml_fp16_t * mask; // one element per cell; may be null
    float slope;
    float * out;    // [DV]: the sum of the cells' values, weighted by exp(score - max)
    float max, sum; // sum of the weights
};

struct anyserve_head {
    const char * k;   // address of cell 0
    const char * v;
    int64_t nbk, nbv; // bytes per cell
    int64_t DK, DV;
    float scale, softcap;
};

// Adds W vectors of the cells' values, from element d on, to the sums of G queries.
template <int G, int W>
static void anyserve_add_values(const anyserve_head & head, const int32_t * cells, int n_cells, const float weights[][anyserve_block], anyserve_query * queries, int64_t d) {
    anyserve_vec sums[G][W];
    for (int g = 0; g < G; ++g) {
        for (int i = 0; i < W; ++i) {
            sums[g][i] = anyserve_load(queries[g].out + d + i * anyserve_vec_size);
        }
    }
    for (int j = 0; j < n_cells; ++j) {
        const char * ahead = head.v + cells[j + anyserve_ahead] * head.nbv + d * sizeof(ggml_fp16_t);
        for (int64_t line = 0; line < W * anyserve_vec_size * (int64_t) sizeof(ggml_fp16_t); line += 64) {
            _mm_prefetch(ahead + line, _MM_HINT_T0);
        }
        const ggml_fp16_t * value = (const ggml_fp16_t *) (head.v + cells[j] * head.nbv) + d;
        for (int i = 0; i < W; ++i) {
            const anyserve_vec part = anyserve_load(value + i * anyserve_vec_size);
            for (int g = 0; g < G; ++g) {
                sums[g][i] = anyserve_fma(part, anyserve_set1(weights[g][j]), sums[g][i]);
            }
        }
    }
    for (int g = 0; g < G; ++g) {
        for (int i = 0; i < W; ++i) {
            anyserve_store(queries[g].out + d + i * anyserve_vec_size, sums[g][i]);
        }
    }
}

// Adds n cells to G queries with the same K and V: heads of one row, or rows of one head.
template <int G>
static void anyserve_attend(const anyserve_head & head, const int32_t * cells, int n, anyserve_query * queries) {
    alignas(64) float weights[G][anyserve_block];

    for (; n > 0; n -= anyserve_block, cells += anyserve_block) {
        const int n_cells = std::min(n, anyserve_block);
        ggml_fp16_t biases = 0;
        for (int g = 0; g < G && queries[g].mask && (g == 0 || queries[g].mask != queries[0].mask); ++g) {
            for (int j = 0; j < n_cells; ++j) {
                biases |= queries[g].mask[cells[j]];
            }
        }
        for (int j = 0; j < n_cells; j += 4) {
            anyserve_vec dots[G][4];
            const ggml_fp16_t * keys[4];
            for (int c = 0; c < 4; ++c) {
                keys[c] = (const ggml_fp16_t *) (head.k + cells[j + c] * head.nbk);
                const char * ahead = head.k + cells[j + c + anyserve_ahead] * head.nbk;
                for (int64_t line = 0; line < head.DK * (int64_t) sizeof(ggml_fp16_t); line += 64) {
                    _mm_prefetch(ahead + line, _MM_HINT_T0);
                }
                for (int g = 0; g < G; ++g) {
                    dots[g][c] = anyserve_set1(0);
                }
            }
            for (int64_t d = 0; d < head.DK; d += anyserve_vec_size) {
                for (int c = 0; c < 4; ++c) {
                    const anyserve_vec key = anyserve_load(keys[c] + d);
                    for (int g = 0; g < G; ++g) {
                        dots[g][c] = anyserve_fma(anyserve_load(queries[g].q + d), key, dots[g][c]);
                    }
                }
            }
            for (int g = 0; g < G; ++g) {
                _mm_store_ps(weights[g] + j, anyserve_sums(dots[g]));
            }
        }
        // Padded to whole vectors, since the exponentials of a rest would be computed one by one.
        const int padded = GGML_PAD(n_cells, anyserve_vec_size);
        for (int g = 0; g < G; ++g) {
            anyserve_query & query = queries[g];
            for (int j = 0; j < padded; j += anyserve_vec_size) {
                anyserve_store(weights[g] + j, anyserve_mul(anyserve_load(weights[g] + j), anyserve_set1(head.scale)));
            }
            // Most masks only hide cells, and the list has no cell that is hidden from all queries.
            if (head.softcap != 0.0f || biases) {
                for (int j = 0; j < n_cells; ++j) {
                    const float score = head.softcap != 0.0f ? head.softcap * tanhf(weights[g][j]) : weights[g][j];
                    weights[g][j] = score + (query.mask ? query.slope * GGML_CPU_FP16_TO_FP32(query.mask[cells[j]]) : 0.0f);
                }
            }
            std::fill(weights[g] + n_cells, weights[g] + padded, -INFINITY);
            anyserve_vec maxima = anyserve_set1(-INFINITY);
            for (int j = 0; j < padded; j += anyserve_vec_size) {
                maxima = anyserve_max(maxima, anyserve_load(weights[g] + j));
            }
            const float max = anyserve_max(maxima);
            if (max > query.max) {
                const float shrink = expf(query.max - max);
                ggml_vec_scale_f32(head.DV, query.out, shrink);
                query.sum *= shrink;
                query.max = max;
            }
            if (query.max == -INFINITY) {
                std::fill(weights[g], weights[g] + padded, 0.0f); // none of these cells is visible to the row
            } else {
                query.sum += ggml_vec_soft_max_f32(padded, weights[g], weights[g], query.max);
            }
        }
        int64_t d = 0;
        for (; d + anyserve_vecs * anyserve_vec_size <= head.DV; d += anyserve_vecs * anyserve_vec_size) {
            anyserve_add_values<G, anyserve_vecs>(head, cells, n_cells, weights, queries, d);
        }
        for (; d < head.DV; d += anyserve_vec_size) {
            anyserve_add_values<G, 1>(head, cells, n_cells, weights, queries, d);
        }
    }
}

// Consecutive rows of queries, and their visible cells.
struct anyserve_rows_of_cells {
    int64_t index = -1; // of this block
    const ggml_fp16_t * masks[anyserve_max_queries];
    anyserve_cells cells[anyserve_max_queries], all;
    bool alike; // most visible cells are common, as for rows of one prompt

    void find(int n_rows, int64_t begin, int64_t end) {
        int64_t sum = 0;
        for (int r = 0; r < n_rows; ++r) {
            cells[r].find(masks + r, 1, begin, end);
            sum += cells[r].n;
        }
        if (n_rows > 1) {
            all.find(masks, n_rows, begin, end);
            alike = all.n * (int64_t) n_rows <= sum + sum / 4;
        }
    }
};

// Computes the queries from ir0 to ir1 of all rows and heads, with the cells from ic_start to ic_end. The results go to
// dst or, for single rows, to partials as in ggml_compute_forward_flash_attn_ext_f16_one_chunk. Queries that may be
// computed together are consecutive: the heads of a row or, if each head has its own K and V, a few rows of each head.
static void anyserve_attend_rows(ggml_tensor * dst, int64_t ir0, int64_t ir1, int64_t ic_start, int64_t ic_end, float * partials, int64_t partial_stride) {
    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * v     = dst->src[2];
    const ggml_tensor * mask  = dst->src[3];
    const ggml_tensor * sinks = dst->src[4];
    const int64_t DV = v->ne[0], n_rows = q->ne[1], n_heads = q->ne[2];
    const int64_t k_group = n_heads / k->ne[2], v_group = n_heads / v->ne[2];
    const bool mask_of_head = mask && mask->ne[2] > 1;
    const int64_t block = k_group == 1 && !mask_of_head ? anyserve_max_queries : 1;
    const int64_t n_blocks = (n_rows + block - 1) / block;
    float scale, max_bias, softcap;
    memcpy(&scale,    (const float *) dst->op_params + 0, sizeof(float));
    memcpy(&max_bias, (const float *) dst->op_params + 1, sizeof(float));
    memcpy(&softcap,  (const float *) dst->op_params + 2, sizeof(float));
    const uint32_t n_head_log2 = 1u << (uint32_t) floor(log2(n_heads));
    const float m0 = powf(2.0f, -max_bias / n_head_log2), m1 = powf(2.0f, -(max_bias / 2.0f) / n_head_log2);

    static thread_local anyserve_rows_of_cells rows;
    rows.index = -1;
    alignas(64) float out[anyserve_max_queries][anyserve_max_dim];

    while (ir0 < ir1) {
        const int64_t i3 = ir0 / (n_heads * n_rows), of_i3 = ir0 % (n_heads * n_rows);
        const int64_t first = of_i3 / (block * n_heads) * block, in_block = std::min(block, n_rows - first);
        const int64_t of_block = of_i3 - first * n_heads, h = of_block / in_block, r = of_block % in_block;
        const int64_t index = (i3 * n_blocks + first / block) * (mask_of_head ? n_heads : 1) + (mask_of_head ? h : 0);
        if (rows.index != index) {
            for (int i = 0; i < in_block; ++i) {
                rows.masks[i] = mask ? (const ggml_fp16_t *) ((const char *) mask->data + (first + i) * mask->nb[1] + h % mask->ne[2] * mask->nb[2] + i3 % mask->ne[3] * mask->nb[3]) : nullptr;
            }
            rows.find(in_block, ic_start, ic_end);
            rows.index = index;
        }
        const anyserve_head head = {
            (const char *) k->data + h / k_group * k->nb[2] + i3 / (q->ne[3] / k->ne[3]) * k->nb[3],
            (const char *) v->data + h / v_group * v->nb[2] + i3 / (q->ne[3] / v->ne[3]) * v->nb[3],
            (int64_t) k->nb[1], (int64_t) v->nb[1], k->ne[0], DV, softcap != 0.0f ? scale / softcap : scale, softcap,
        };
        int64_t n;
        if (in_block > 1) {
            n = rows.alike ? in_block - r : 1;
        } else {
            n = mask_of_head ? 1 : std::min(k_group - h % k_group, v_group - h % v_group);
        }
        n = std::min({ n, ir1 - ir0, (int64_t) anyserve_max_queries });

        anyserve_query queries[anyserve_max_queries];
        for (int g = 0; g < n; ++g) {
            const int64_t row = in_block > 1 ? r + g : 0, i2 = in_block > 1 ? h : h + g;
            const float slope = max_bias <= 0.0f ? 1.0f : i2 < n_head_log2 ? powf(m0, i2 + 1) : powf(m1, 2 * (i2 - n_head_log2) + 1);
            memset(out[g], 0, DV * sizeof(float));
            const char * of_query = (const char *) q->data + (first + row) * q->nb[1] + i2 * q->nb[2] + i3 * q->nb[3];
            queries[g] = { (const float *) of_query, rows.masks[row], slope, out[g], -INFINITY, 0.0f };
        }
        const anyserve_cells & cells = in_block > 1 && n > 1 ? rows.all : rows.cells[r];
        switch (n) {
            case 1: anyserve_attend<1>(head, cells.list.data(), cells.n, queries); break;
            case 2: anyserve_attend<2>(head, cells.list.data(), cells.n, queries); break;
            case 3: anyserve_attend<3>(head, cells.list.data(), cells.n, queries); break;
            case 4: anyserve_attend<4>(head, cells.list.data(), cells.n, queries); break;
        }
        for (int g = 0; g < n; ++g) {
            anyserve_query & query = queries[g];
            const int64_t i1 = in_block > 1 ? first + r + g : first, i2 = in_block > 1 ? h : h + g;
            if (sinks && ic_start == 0) {
                const float sink = ((const float *) sinks->data)[i2], max = std::max(query.max, sink);
                ggml_vec_scale_f32(DV, query.out, expf(query.max - max));
                query.sum = query.sum * expf(query.max - max) + expf(sink - max);
                query.max = max;
            }
            if (partials) {
                float * partial = partials + i2 * partial_stride;
                partial[0] = query.max;
                partial[1] = query.sum;
                memcpy(partial + 2, query.out, DV * sizeof(float));
            } else {
                ggml_vec_scale_f32(DV, query.out, query.sum == 0.0f ? 0.0f : 1.0f / query.sum);
                memcpy((char *) dst->data + i2 * dst->nb[1] + i1 * dst->nb[2] + i3 * dst->nb[3], query.out, DV * sizeof(float));
            }
        }
        ir0 += n;
    }
}

#else

static inline bool anyserve_attends(const ggml_tensor *, const ggml_tensor *) { return false; }
static inline void anyserve_attend_rows(ggml_tensor *, int64_t, int64_t, int64_t, int64_t, float *, int64_t) {}

#endif
