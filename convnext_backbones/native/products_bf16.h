/* Products of matrices in bf16 with sums in single precision, by AMX or by AVX512-BF16.
 *
 * Both factors, and the sums, lie in blocks of 32 x 32 values, one after the other along the input
 * channels. A block of a map has 32 positions of 32 channels. A block of a weight has two tiles, of
 * 16 output channels each, in which the values of two neighboring input channels alternate: (16
 * pairs, 16 output channels, 2). A panel is a row of blocks of a weight: 32 output channels.
 */

#pragma once

#include <stdint.h>

#include "vectors.h"

#if defined(__AMX_BF16__) && defined(__AMX_TILE__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define EDGE 32             /* of a block */
#define BLOCK (EDGE * EDGE) /* values of a block */
#define TILE (BLOCK / 2)    /* values of a tile: 16 rows of 64 bytes */
/* Blocks of a panel that stay in the first cache while they meet all position blocks. */
#define PANEL_PART 12

typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef uint16_t halves_anywhere __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef unsigned bits __attribute__((vector_size(4 * LANES)));

/* LANES values in bf16, as floats. */
INLINE vector widen(const uint16_t *from) {
    halves x = *(const halves_anywhere *)from;
    return (vector)(__builtin_convertvector(x, bits) << 16);
}

/* The first `count` of the values at `from`, then zeros. */
INLINE vector widen_some(const uint16_t *from, long count) {
    if (count >= LANES) return widen(from);
    uint16_t x[LANES] = {0};
    for (long i = 0; i < count; i++) x[i] = from[i];
    return widen(x);
}

/* Round to bf16, to the nearest, or the even one of two. */
INLINE void narrow(uint16_t *to, vector x) {
    *(halves_anywhere *)to = (halves)_mm512_cvtneps_pbh((__m512)x);
}

INLINE void narrow_some(uint16_t *to, vector x, long count) {
    if (count >= LANES) {
        narrow(to, x);
        return;
    }
    uint16_t y[LANES];
    narrow(y, x);
    for (long i = 0; i < count; i++) to[i] = y[i];
}

/* How many blocks cover some channels or positions. */
static long blocks(long count) { return parts(count, EDGE); }

/* Round a weight of `rows` output and k input channels, and pack it into panels. What is missing in
 * blocks becomes zeros. */
static void pack_panels(const float *weight, long rows, long k, uint16_t *to) {
    float pairs[2 * LANES];
    for (long row = 0; row < blocks(rows) * EDGE; row += EDGE)
        for (long column = 0; column < blocks(k) * EDGE; column += EDGE)
            for (long pair = 0; pair < EDGE; pair++, to += 2 * LANES) {
                long first = row + pair / LANES * LANES, from = column + pair % LANES * 2;
                for (long j = 0; j < LANES; j++)
                    for (long i = 0; i < 2; i++)
                        pairs[2 * j + i] = first + j < rows && from + i < k
                                               ? weight[(first + j) * k + from + i]
                                               : 0;
                narrow(to, load(pairs));
                narrow(to + LANES, load(pairs + LANES));
            }
}

#if defined(__AMX_BF16__) && defined(__AMX_TILE__)

/* Eight tiles of 16 rows of 64 bytes: 0 to 3 sum up, 4 and 5 are of the map, 6 and 7 of the weight.
 * It is a constant since some compilers do not see that all of it is read. */
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TILES __attribute__((aligned(64))) = {
    1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

/* Ask the system for permission to use tiles: ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA. */
static int permit_products(void) { return !syscall(SYS_arch_prctl, 0x1023, 18); }

/* Each thread calls these before and after its products. */
INLINE void begin_products(void) { _tile_loadconfig(&TILES); }
INLINE void end_products(void) { _tile_release(); }

/* Multiply k blocks of 32 positions with k blocks of a panel. The sums are added to those that are
 * there, or replace them; those of the last positions, from `rows` on, are of no use. */
SEPARATE void multiply(const uint16_t *x, const uint16_t *panel, long k, long rows, int adds,
                       float *sums) {
    const long stride = EDGE * sizeof(uint16_t), sums_stride = EDGE * sizeof(float);
    const int both = rows > EDGE / 2;
    /* The intrinsics do not tell the compiler that they read memory. */
    __asm__ volatile("" ::: "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (adds) {
        _tile_loadd(0, sums, sums_stride);
        _tile_loadd(1, sums + 16, sums_stride);
    }
    if (adds && both) {
        _tile_loadd(2, sums + TILE, sums_stride);
        _tile_loadd(3, sums + TILE + 16, sums_stride);
    }
    for (; k > 0; k--, x += BLOCK, panel += BLOCK) {
        _tile_loadd(6, panel, stride);
        _tile_loadd(4, x, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, panel + TILE, stride);
        _tile_dpbf16ps(1, 4, 7);
        if (!both) continue;
        _tile_loadd(5, x + TILE, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, sums_stride);
    _tile_stored(1, sums + 16, sums_stride);
    if (!both) return;
    _tile_stored(2, sums + TILE, sums_stride);
    _tile_stored(3, sums + TILE + 16, sums_stride);
}

#else

static int permit_products(void) { return 1; }
INLINE void begin_products(void) {}
INLINE void end_products(void) {}

/* Multiply some positions of k blocks. Two vectors of sums for each of 12 positions, two vectors of
 * the panel and a pair of the map fit into the registers. */
#define MULTIPLY(rows) \
    SEPARATE void multiply_##rows(const uint16_t *x, const uint16_t *panel, long k, int adds, \
                                  float *sums) { \
        __m512 total[rows][2]; \
        UNROLL(16) \
        for (int r = 0; r < rows; r++) { \
            total[r][0] = adds ? _mm512_loadu_ps(sums + r * EDGE) : _mm512_setzero_ps(); \
            total[r][1] = adds ? _mm512_loadu_ps(sums + r * EDGE + 16) : _mm512_setzero_ps(); \
        } \
        for (; k > 0; k--, x += BLOCK, panel += BLOCK) \
            for (int p = 0; p < EDGE; p += 2) { \
                __m512bh left = (__m512bh)_mm512_loadu_si512(panel + p * 16); \
                __m512bh right = (__m512bh)_mm512_loadu_si512(panel + TILE + p * 16); \
                UNROLL(16) \
                for (int r = 0; r < rows; r++) { \
                    int pair; \
                    memcpy(&pair, x + r * EDGE + p, sizeof pair); \
                    __m512bh values = (__m512bh)_mm512_set1_epi32(pair); \
                    total[r][0] = _mm512_dpbf16_ps(total[r][0], values, left); \
                    total[r][1] = _mm512_dpbf16_ps(total[r][1], values, right); \
                } \
            } \
        UNROLL(16) \
        for (int r = 0; r < rows; r++) { \
            _mm512_storeu_ps(sums + r * EDGE, total[r][0]); \
            _mm512_storeu_ps(sums + r * EDGE + 16, total[r][1]); \
        } \
    }

MULTIPLY(4)
MULTIPLY(8)
MULTIPLY(12)

/* Multiply k blocks of 32 positions with k blocks of a panel. The sums are added to those that are
 * there, or replace them; those of the last positions, from `rows` on, are of no use. */
static void multiply(const uint16_t *x, const uint16_t *panel, long k, long rows, int adds,
                     float *sums) {
    for (long r = 0; r < min(rows, EDGE); r += 12) {
        long left = min(rows, EDGE) - r;
        if (left > 8)
            multiply_12(x + r * EDGE, panel, k, adds, sums + r * EDGE);
        else if (left > 4)
            multiply_8(x + r * EDGE, panel, k, adds, sums + r * EDGE);
        else
            multiply_4(x + r * EDGE, panel, k, adds, sums + r * EDGE);
    }
}

#endif
