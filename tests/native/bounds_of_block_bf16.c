/* Runs the block in bf16 with buffers of their exact sizes, for a sanitizer to watch. */

#include <stdlib.h>

#include "block_bf16.h"

static float *draw(long count) {
    static unsigned state = 1;
    float *values = malloc(count * sizeof(float));
    for (long i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (state >> 8) / 8388608.0f - 1;
    }
    return values;
}

static void run(long samples, long height, long width, long channels, long hidden, int threads,
                int has_grn, int has_gamma) {
    float *buffers[] = {
        draw(49 * channels),     draw(channels),          draw(channels), draw(channels),
        draw(hidden * channels), draw(hidden * channels), draw(hidden),   draw(channels),
        draw(hidden),            draw(hidden),            draw(channels),
    };
    long values = samples * height * width * channels;
    void *packed = malloc(block_bf16_packed_bytes(channels, hidden));
    pack_block_bf16(buffers[4], buffers[5], channels, hidden, packed);
    struct block_bf16 b = {
        calloc(values, sizeof(uint16_t)), samples, height, width, channels, hidden,
        buffers[0], buffers[1], buffers[2], buffers[3], 1e-6f, packed, buffers[6], buffers[7],
        has_grn ? buffers[8] : NULL, has_grn ? buffers[9] : NULL, has_gamma ? buffers[10] : NULL,
        NULL, threads,
    };
    b.scratch = malloc(block_bf16_scratch(&b) * sizeof(float));
    block_bf16_forward(&b);
    free(b.scratch);
    free(b.x);
    free(packed);
    for (unsigned i = 0; i < sizeof buffers / sizeof *buffers; i++) free(buffers[i]);
}

int main(void) {
    if (!block_bf16_supported()) return 1;
    for (int has_grn = 0; has_grn < 2; has_grn++)
        for (int threads = 1; threads < 4; threads += 2) {
            run(1, 1, 1, 8, 32, threads, has_grn, 0);
            run(2, 1, 5, 40, 160, threads, has_grn, 1);
            run(1, 7, 7, 33, 50, threads, has_grn, 1);
            run(2, 13, 40, 24, 96, threads, has_grn, 1);
            run(1, 30, 33, 5, 20, threads, has_grn, 0);
        }
    return 0;
}
