/* The intrinsics of AMX and AVX512-BF16 that the kernels use, in plain C, to be included before a
 * source (-include) compiled without -march, with EMULATE_AMX or EMULATE_AVX512BF16 defined. Misuse
 * of tiles, to which a processor answers with a fault, aborts. Unlike on a processor, denormal
 * numbers are not flushed to zero. */

#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REQUIRE(condition) \
    ((condition) ? (void)0 : (fprintf(stderr, "fault: %s\n", #condition), abort()))
#define EMULATED static inline __attribute__((always_inline, unused))

EMULATED float emulated_float(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

EMULATED uint16_t emulated_round(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return bits >> 16 | 0x40;
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

EMULATED __m256i emulated_cvtneps_pbh(__m512 x) {
    float from[16];
    uint16_t to[16];
    __m256i y;
    memcpy(from, &x, sizeof from);
    for (int i = 0; i < 16; i++) to[i] = emulated_round(from[i]);
    memcpy(&y, to, sizeof y);
    return y;
}

#define __AVX512BF16__ 1
#define _mm512_cvtneps_pbh emulated_cvtneps_pbh

/* How many threads have configured tiles and not released them. */
int emulated_threads_in_use;

#if defined(EMULATE_AMX)

#define __AMX_TILE__ 1
#define __AMX_BF16__ 1

struct emulated_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static int emulated_permission;
static __thread struct emulated_config emulated_config;
static __thread uint8_t emulated_tiles[8][16][64];

EMULATED long emulated_syscall(long number, long code, long feature) {
    REQUIRE(number == SYS_arch_prctl && code == 0x1023 && feature == 18);
    emulated_permission = getenv("REFUSE_AMX") == NULL;
    return emulated_permission ? 0 : -1;
}

EMULATED void emulated_loadconfig(const void *from) {
    REQUIRE(emulated_permission);
    struct emulated_config config;
    memcpy(&config, from, sizeof config);
    REQUIRE(config.palette == 1 && config.start_row == 0);
    for (int i = 0; i < 14; i++) REQUIRE(!config.reserved[i]);
    for (int i = 0; i < 16; i++) {
        REQUIRE(config.rows[i] <= (i < 8 ? 16 : 0) && config.row_bytes[i] <= (i < 8 ? 64 : 0));
        REQUIRE(!config.rows[i] == !config.row_bytes[i]);
    }
    if (!emulated_config.palette) __atomic_add_fetch(&emulated_threads_in_use, 1, __ATOMIC_SEQ_CST);
    emulated_config = config;
    memset(emulated_tiles, 0, sizeof emulated_tiles);
}

EMULATED void emulated_release(void) {
    if (emulated_config.palette) __atomic_sub_fetch(&emulated_threads_in_use, 1, __ATOMIC_SEQ_CST);
    memset(&emulated_config, 0, sizeof emulated_config);
    memset(emulated_tiles, 0, sizeof emulated_tiles);
}

EMULATED void emulated_check_tile(int tile) {
    REQUIRE(emulated_config.palette == 1 && tile >= 0 && tile < 8 && emulated_config.rows[tile]);
}

EMULATED void emulated_zero(int tile) {
    emulated_check_tile(tile);
    memset(emulated_tiles[tile], 0, sizeof emulated_tiles[tile]);
}

EMULATED void emulated_loadd(int tile, const void *from, long stride) {
    emulated_zero(tile);
    for (int r = 0; r < emulated_config.rows[tile]; r++)
        memcpy(emulated_tiles[tile][r], (const char *)from + r * stride,
               emulated_config.row_bytes[tile]);
}

EMULATED void emulated_stored(int tile, void *to, long stride) {
    emulated_check_tile(tile);
    for (int r = 0; r < emulated_config.rows[tile]; r++)
        memcpy((char *)to + r * stride, emulated_tiles[tile][r], emulated_config.row_bytes[tile]);
}

static __attribute__((unused)) void emulated_tile_dpbf16ps(int to, int left, int right) {
    emulated_check_tile(to), emulated_check_tile(left), emulated_check_tile(right);
    REQUIRE(to != left && to != right && left != right);
    const uint16_t *row_bytes = emulated_config.row_bytes;
    const uint8_t *rows = emulated_config.rows;
    REQUIRE(row_bytes[to] % 4 == 0 && row_bytes[left] % 4 == 0 && row_bytes[right] % 4 == 0);
    REQUIRE(rows[to] == rows[left] && row_bytes[to] == row_bytes[right]);
    REQUIRE(row_bytes[left] / 4 == rows[right]);
    uint16_t pairs[16][32];
    float even[16][16], odd[16][16];
    memcpy(pairs, emulated_tiles[right], sizeof pairs);
    for (int k = 0; k < 16; k++)
        for (int n = 0; n < 16; n++) {
            even[k][n] = emulated_float(pairs[k][2 * n]);
            odd[k][n] = emulated_float(pairs[k][2 * n + 1]);
        }
    for (int m = 0; m < rows[to]; m++) {
        uint16_t values[32];
        float sums[16], evens[16] = {0}, odds[16] = {0};
        memcpy(values, emulated_tiles[left][m], sizeof values);
        memcpy(sums, emulated_tiles[to][m], sizeof sums);
        for (int k = 0; k < rows[right]; k++) {
            float first = emulated_float(values[2 * k]), second = emulated_float(values[2 * k + 1]);
            for (int n = 0; n < 16; n++) evens[n] += first * even[k][n];
            for (int n = 0; n < 16; n++) odds[n] += second * odd[k][n];
        }
        for (int n = 0; n < 16; n++) sums[n] += evens[n] + odds[n];
        memcpy(emulated_tiles[to][m], sums, row_bytes[to]);
    }
}

#define syscall emulated_syscall
#define _tile_loadconfig emulated_loadconfig
#define _tile_release emulated_release
#undef _tile_loadd
#define _tile_loadd emulated_loadd
#undef _tile_stored
#define _tile_stored emulated_stored
#undef _tile_zero
#define _tile_zero emulated_zero
#undef _tile_dpbf16ps
#define _tile_dpbf16ps emulated_tile_dpbf16ps

#elif defined(EMULATE_AVX512BF16)

EMULATED __m512 emulated_dpbf16_ps(__m512 sums, __m512i left, __m512i right) {
    typedef unsigned pairs __attribute__((vector_size(64)));
    typedef float floats __attribute__((vector_size(64)));
    pairs x = (pairs)left, y = (pairs)right;
    floats total = (floats)sums;
    total += (floats)(x & 0xFFFF0000u) * (floats)(y & 0xFFFF0000u);
    total += (floats)(x << 16) * (floats)(y << 16);
    return (__m512)total;
}

EMULATED __m512i emulated_load(const void *from) {
    __m512i x;
    memcpy(&x, from, sizeof x);
    return x;
}

EMULATED __m512i emulated_set1(int value) {
    typedef int integers __attribute__((vector_size(64)));
    return (__m512i)(value + (integers){0});
}

#define _mm512_dpbf16_ps(sums, left, right) \
    emulated_dpbf16_ps(sums, (__m512i)(left), (__m512i)(right))
#define _mm512_loadu_si512 emulated_load
#define _mm512_loadu_ps(from) ((__m512)emulated_load(from))
#define _mm512_storeu_ps(to, x) (*(__m512_u *)(to) = (x))
#define _mm512_setzero_ps() ((__m512){0})
#define _mm512_set1_epi32 emulated_set1

#else
#error "Define EMULATE_AMX or EMULATE_AVX512BF16."
#endif
