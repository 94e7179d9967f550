// Products with weights of 4 and 8 bits on processors with AMX. llama.cpp's amx/mmq.cpp includes it, see patches/0004.
//
// llama.cpp has one kernel for a single row and one for 32, which reads and writes the sums in memory for each 32 of K:
// two rows cost twice as much as one, and 32 rows ten times. Here the sums stay in registers, and only existing rows are
// computed: up to 8 rows by AVX512-VNNI, more by AMX in tiles of 16. All paths compute the same sums in the same order,
// so a row's result does not depend on the rows beside it.
//
// B (weights, N columns of K) has llama.cpp's packing: tiles of TILE_N columns and TILE_K of K, consecutive along K. A
// tile has the quants, in the layout of TDPBSSD and VPDPBUSD, followed by their scales. A (M rows of K) is quantized
// here, in groups of at most TILE_M rows; see anyserve_group.
#pragma once

#include <vector>

// The quants and scales of one tile of B.
template <typename TB> struct anyserve_tile;

struct anyserve_nibbles {
    // Unpacks a tile to TILE_K / 4 rows of TILE_N x 4 quants, 0 to 15.
    static ALWAYS_INLINE void unpack(const char * tile, __m512i * rows) {
        const __m512i low = _mm512_set1_epi8(0xF);
        for (int k = 0; k < 8; k += 2) {
            const __m512i pair = _mm512_loadu_si512(tile + k * 32);
            rows[k + 0] = _mm512_and_si512(pair, low);
            rows[k + 1] = _mm512_and_si512(_mm512_srli_epi16(pair, 4), low);
        }
    }
    static ALWAYS_INLINE __m512 halves(const char * at) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) at)); }
    static ALWAYS_INLINE __m512 scale(const char * tile) { return halves(tile + TILE_N * TILE_K / 2); }
};

template <> struct anyserve_tile<block_q4_0> : anyserve_nibbles {
    static constexpr bool is_signed = false, has_min = true;
    // The value of a quant q is scale * (q - 8).
    static ALWAYS_INLINE __m512 min(const char *, __m512 scale) { return _mm512_mul_ps(scale, _mm512_set1_ps(-8.0f)); }
};

template <> struct anyserve_tile<block_q4_1> : anyserve_nibbles {
    static constexpr bool is_signed = false, has_min = true;
    static ALWAYS_INLINE __m512 min(const char * tile, __m512) {
        return halves(tile + TILE_N * TILE_K / 2 + TILE_N * sizeof(ggml_half));
    }
};

template <> struct anyserve_tile<block_q8_0> {
    static constexpr bool is_signed = true, has_min = false;
    static ALWAYS_INLINE void unpack(const char * tile, __m512i * rows) {
        for (int k = 0; k < 8; ++k) {
            rows[k] = _mm512_loadu_si512(tile + k * 64);
        }
    }
    static ALWAYS_INLINE __m512 scale(const char * tile) { return anyserve_nibbles::halves(tile + TILE_N * TILE_K); }
    static ALWAYS_INLINE __m512 min(const char *, __m512) { return _mm512_setzero_ps(); }
    // 128 times the sum of each column's quants: VPDPBUSD needs unsigned quants of A, to which 128 is added.
    static ALWAYS_INLINE __m512i excess(const char * tile) {
        return _mm512_loadu_si512(tile + TILE_N * TILE_K + TILE_N * sizeof(ggml_half));
    }
};

// With this many rows or more, AMX is faster.
static const int anyserve_min_amx_rows = 9;

// TILE_M rows of A, or the last M % TILE_M. For each TILE_K of K it has the quants of row 0, of row 1, ..., then the scale
// of each row, then scale times sum of quants of each row. A last group with enough rows for AMX has room for TILE_M.
struct anyserve_group {
    static constexpr int row_bytes = TILE_K + 2 * sizeof(float); // for each TILE_K of K

    int first, n_rows;

    anyserve_group(int M, int index) : first(index * TILE_M), n_rows(std::min(TILE_M, M - index * TILE_M)) {}

    bool amx() const { return n_rows >= anyserve_min_amx_rows; }
    int stride() const { return amx() ? TILE_M : n_rows; }

    static size_t size(int M, int KB) {
        const int rest = M % TILE_M;
        return (size_t) (M - rest + anyserve_group(rest, 0).stride()) * KB * row_bytes;
    }
    char * in(char * A, int KB) const { return A + (size_t) first * KB * row_bytes; }
};

// Quantizes row m of the group.
template <typename TB>
static void anyserve_quantize(const float * x, const anyserve_group & group, char * A, int m, int KB) {
    const int stride = group.stride();
    const __m128i sign = _mm_set1_epi8(anyserve_tile<TB>::is_signed && !group.amx() ? (char) 0x80 : 0);

    for (int i = 0; i < KB; ++i, x += TILE_K, A += stride * anyserve_group::row_bytes) {
        const __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
        const float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x0), _mm512_abs_ps(x1)));
        const __m512 inverse = _mm512_set1_ps(max > 0 ? 127.0f / max : 0.0f);
        const __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
        const __m512i q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
        __m128i * quants = (__m128i *) (A + m * TILE_K);
        float * scales = (float *) (A + stride * TILE_K);
        _mm_storeu_si128(quants + 0, _mm_xor_si128(_mm512_cvtepi32_epi8(q0), sign));
        _mm_storeu_si128(quants + 1, _mm_xor_si128(_mm512_cvtepi32_epi8(q1), sign));
        scales[m]          = max / 127.0f;
        scales[stride + m] = scales[m] * _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
        for (int r = group.n_rows; m == 0 && r < stride; ++r) {
            scales[r] = scales[stride + r] = 0.0f; // missing rows: their quants are undefined, their results finite
        }
    }
}

// Returns sum + A * B for one TILE_K, where dot is the product of the quants.
template <typename TB>
static ALWAYS_INLINE __m512 anyserve_scaled(__m512i dot, __m512 scale, __m512 min, const float * a_scale, const float * a_sum, __m512 sum) {
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, _mm512_set1_ps(*a_scale)), sum);
    return anyserve_tile<TB>::has_min ? _mm512_fmadd_ps(min, _mm512_set1_ps(*a_sum), sum) : sum;
}

// Columns are computed in pairs of tiles. The next pair is read meanwhile, because the processor's own prefetching stops
// at the end of each page.
template <typename TB>
static ALWAYS_INLINE void anyserve_prefetch(const char * tile) {
    for (int line = 0; line < get_tile_size<TB>(); line += 64) {
        _mm_prefetch(tile + line, _MM_HINT_T0);
    }
}

// Computes R rows and a pair of tiles by VNNI.
template <typename TB, int R>
static void anyserve_few_rows(int KB, const char * A, const char * B, float * C, int64_t ldc) {
    using tile = anyserve_tile<TB>;
    const int tile_size = get_tile_size<TB>(), column_size = KB * tile_size;
    __m512 sums[2][R];
    for (int m = 0; m < R; ++m) {
        sums[0][m] = sums[1][m] = _mm512_setzero_ps();
    }
    for (int i = 0; i < KB; ++i, A += R * anyserve_group::row_bytes, B += tile_size) {
        const float * a_scales = (const float *) (A + R * TILE_K);
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
            const char * b_tile = B + n * column_size;
            anyserve_prefetch<TB>(b_tile + 2 * column_size);
            __m512i b[8];
            tile::unpack(b_tile, b);
            const __m512 scale = tile::scale(b_tile), min = tile::min(b_tile, scale);
#pragma GCC unroll 8
            for (int m = 0; m < R; ++m) {
                const int32_t * a = (const int32_t *) (A + m * TILE_K);
                __m512i dot = _mm512_setzero_si512();
#pragma GCC unroll 8
                for (int k = 0; k < 8; ++k) {
                    const __m512i quants = _mm512_set1_epi32(a[k]);
                    dot = tile::is_signed ? _mm512_dpbusd_epi32(dot, quants, b[k]) : _mm512_dpbusd_epi32(dot, b[k], quants);
                }
                if constexpr (tile::is_signed) {
                    dot = _mm512_sub_epi32(dot, tile::excess(b_tile));
                }
                sums[n][m] = anyserve_scaled<TB>(dot, scale, min, a_scales + m, a_scales + R + m, sums[n][m]);
            }
        }
    }
    for (int m = 0; m < R; ++m) {
        _mm512_storeu_ps(C + m * ldc, sums[0][m]);
        _mm512_storeu_ps(C + m * ldc + TILE_N, sums[1][m]);
    }
}

// Computes up to TILE_M rows and one tile of columns by AMX. Q: unpacked quants of B, with q_size bytes per tile.
template <typename TB>
static void anyserve_many_rows(int KB, const char * A, const char * B, const char * Q, int q_size, bool prefetch, float * C, int64_t ldc, int n_rows) {
    using tile = anyserve_tile<TB>;
    const int tile_size = get_tile_size<TB>();
    const int a_size = TILE_M * anyserve_group::row_bytes;
    alignas(64) int32_t dots[2][TILE_M * TILE_N];
    __m512 sums[TILE_M];
#pragma GCC unroll 16
    for (int m = 0; m < TILE_M; ++m) {
        sums[m] = _mm512_setzero_ps();
    }
    auto multiply = [&](int i) {
        if (i % 2 == 0) {
            _tile_zero(TMM4);
            _tile_loadd(TMM2, A + i * a_size, TILE_K);
            _tile_loadd(TMM0, Q + i * q_size, TILE_N * VNNI_BLK);
            _tile_dpbssd(TMM4, TMM2, TMM0);
            _tile_stored(TMM4, dots[0], TILE_N * sizeof(int32_t));
        } else {
            _tile_zero(TMM5);
            _tile_loadd(TMM3, A + i * a_size, TILE_K);
            _tile_loadd(TMM1, Q + i * q_size, TILE_N * VNNI_BLK);
            _tile_dpbssd(TMM5, TMM3, TMM1);
            _tile_stored(TMM5, dots[1], TILE_N * sizeof(int32_t));
        }
    };
    multiply(0);
    for (int i = 0; i < KB; ++i) {
        if (i + 1 < KB) {
            multiply(i + 1); // while the dots of i are scaled
        }
        if (prefetch) {
            anyserve_prefetch<TB>(B + (2 * KB + i) * tile_size);
        }
        const __m512 scale = tile::scale(B + i * tile_size), min = tile::min(B + i * tile_size, scale);
        const float * a_scales = (const float *) (A + i * a_size + TILE_M * TILE_K);
        const int32_t * dot = dots[i % 2];
#pragma GCC unroll 16
        for (int m = 0; m < TILE_M; ++m) {
            sums[m] = anyserve_scaled<TB>(_mm512_load_si512(dot + m * TILE_N), scale, min, a_scales + m, a_scales + TILE_M + m, sums[m]);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < TILE_M; ++m) {
        if (m < n_rows) {
            _mm512_storeu_ps(C + m * ldc, sums[m]);
        }
    }
}

// Computes a group's rows and a pair of tiles.
template <typename TB>
static void anyserve_rows(const anyserve_group & group, int KB, const char * A, const char * B, const char * Q, int q_size, float * C, int64_t ldc) {
    switch (group.amx() ? 0 : group.n_rows) {
        case 1: anyserve_few_rows<TB, 1>(KB, A, B, C, ldc); break;
        case 2: anyserve_few_rows<TB, 2>(KB, A, B, C, ldc); break;
        case 3: anyserve_few_rows<TB, 3>(KB, A, B, C, ldc); break;
        case 4: anyserve_few_rows<TB, 4>(KB, A, B, C, ldc); break;
        case 5: anyserve_few_rows<TB, 5>(KB, A, B, C, ldc); break;
        case 6: anyserve_few_rows<TB, 6>(KB, A, B, C, ldc); break;
        case 7: anyserve_few_rows<TB, 7>(KB, A, B, C, ldc); break;
        case 8: anyserve_few_rows<TB, 8>(KB, A, B, C, ldc); break;
        default:
            for (int n = 0; n < 2; ++n) {
                anyserve_many_rows<TB>(
                    KB, A, B + n * KB * get_tile_size<TB>(), Q + n * KB * q_size, q_size, group.first == 0, C + n * TILE_N, ldc, group.n_rows);
            }
    }
}

// Returns aligned memory of the thread, which grows to the largest size requested.
static char * anyserve_scratch(size_t size) {
    static thread_local std::vector<char> bytes;
    if (bytes.size() < size + 64) {
        bytes.resize(size + 64);
    }
    return (char *) GGML_PAD((uintptr_t) bytes.data(), 64);
}

template <typename TB>
static void anyserve_multiply(const ggml_compute_params * params, ggml_tensor * dst) {
    const ggml_tensor * src0 = dst->src[0];
    const ggml_tensor * src1 = dst->src[1];
    const int M = dst->ne[1], N = dst->ne[0], K = src0->ne[0], KB = K / TILE_K;
    const int64_t ne2 = dst->ne[2], n_batch = ne2 * dst->ne[3];
    const int n_groups = div_up(M, TILE_M), n_pairs = N / (2 * TILE_N);
    const int tile_size = get_tile_size<TB>();
    const size_t A_size = anyserve_group::size(M, KB);
    // Tiles of 8-bit weights need no unpacking.
    const int q_size = do_unpack<TB>::value ? TILE_N * TILE_K : tile_size;
    const size_t unpacked_size = do_unpack<TB>::value ? (size_t) 2 * KB * q_size : 0;

    // A small A is quantized by every thread, which is faster than waiting for another thread.
    const bool alone = n_batch == 1 && (int64_t) M * K <= 4096;
    char * unpacked = anyserve_scratch(unpacked_size + (alone ? A_size : 0));
    char * A = alone ? unpacked + unpacked_size : (char *) params->wdata;

    auto quantize = [&](int begin, int end) {
        for (int i = begin; i < end; ++i) {
            const int batch = i / M, m = i % M;
            const anyserve_group group(M, m / TILE_M);
            const float * row = (const float *) ((const char *) src1->data + ggml_batch_offset(src1, batch, ne2)) + (int64_t) m * K;
            anyserve_quantize<TB>(row, group, group.in(A + batch * A_size, KB), m - group.first, KB);
        }
    };
    if (alone) {
        quantize(0, M);
    } else {
        GGML_ASSERT(params->wsize >= n_batch * A_size);
        parallel_for_ggml(params, n_batch * M, quantize);
        ggml_barrier(params->threadpool);
    }

    ggml_tile_config_init();
    parallel_for_ggml(params, n_batch * n_pairs * n_groups, [&](int begin, int end) {
        int unpacked_pair = -1;
        for (int i = begin; i < end; ++i) {
            const int pair = i / n_groups, batch = pair / n_pairs, n = pair % n_pairs * 2;
            const anyserve_group group(M, i % n_groups);
            const char * B = (const char *) src0->data + ggml_batch_offset(src0, batch, ne2) + (size_t) n * KB * tile_size;
            if (unpacked_size && group.amx() && unpacked_pair != pair) {
                for (int k = 0; k < 2 * KB; ++k) {
                    anyserve_tile<TB>::unpack(B + k * tile_size, (__m512i *) (unpacked + k * q_size));
                }
                asm volatile("" ::: "memory"); // gcc ignores the memory that a tile is loaded from
                unpacked_pair = pair;
            }
            float * C = (float *) ((char *) dst->data + ggml_batch_offset(dst, batch, ne2)) + (int64_t) group.first * N + n * TILE_N;
            anyserve_rows<TB>(group, KB, group.in(A + batch * A_size, KB), B, unpacked_size ? unpacked : B, q_size, C, N);
        }
    });
}

// Calls run with a null pointer to a block of the type. Returns false if the type has no kernel here.
template <typename F>
static bool anyserve_with_type(ggml_type type, const F & run) {
    switch (type) {
        case GGML_TYPE_Q4_0: run((block_q4_0 *) nullptr); return true;
        case GGML_TYPE_Q4_1: run((block_q4_1 *) nullptr); return true;
        case GGML_TYPE_Q8_0: run((block_q8_0 *) nullptr); return true;
        default: return false;
    }
}

// Sets the bytes of shared memory that the product needs. Like anyserve_mul_mat, returns false to leave it to llama.cpp.
static bool anyserve_work_size(const ggml_tensor * dst, size_t * size) {
    return anyserve_with_type(dst->src[0]->type, [&](auto *) {
        *size = dst->ne[2] * dst->ne[3] * anyserve_group::size(dst->ne[1], dst->src[0]->ne[0] / TILE_K);
    });
}

static bool anyserve_mul_mat(const ggml_compute_params * params, ggml_tensor * dst) {
    return anyserve_with_type(dst->src[0]->type, [&](auto * block) {
        anyserve_multiply<std::remove_pointer_t<decltype(block)>>(params, dst);
    });
}
