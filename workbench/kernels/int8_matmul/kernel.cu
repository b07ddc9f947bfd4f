// out = x @ (scale * weight).T, weights int8: one warp for each output, four weights a lane where rows allow it.
#include "common.cuh"

#define TILE 8

// Adds x[first + r, begin:end] . w[begin:end] of this lane to sums[r].
__device__ inline void products(const float* x, const signed char* w, float* sums, int first, int count, int width, int begin,
                                int end) {
    int lane = threadIdx.x % WARP;
    bool aligned = begin % 4 == 0 && width % 4 == 0;
    int whole = aligned ? begin + (end - begin) / 4 * 4 : begin;
    for (int k = begin + 4 * lane; k < whole; k += 4 * WARP) {
        int packed = *reinterpret_cast<const int*>(w + k);
        for (int byte = 0; byte < 4; ++byte) {
            float part = float(static_cast<signed char>(packed >> (8 * byte)));
#pragma unroll
            for (int r = 0; r < TILE; ++r)
                if (r < count) sums[r] += x[size_t(first + r) * width + k + byte] * part;
        }
    }
    for (int k = whole + lane; k < end; k += WARP) {
        float part = float(w[k]);
#pragma unroll
        for (int r = 0; r < TILE; ++r)
            if (r < count) sums[r] += x[size_t(first + r) * width + k] * part;
    }
}

extern "C" __global__ void int8(const float* x, const signed char* weight, const float* scale, float* out, int rows, int width,
                                int outs, int groups) {
    int o = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP, size = width / groups;
    if (o >= outs) return;
    const signed char* w = weight + size_t(o) * width;
    for (int first = 0; first < rows; first += TILE) {
        int count = min(TILE, rows - first);
        float totals[TILE] = {};
        for (int g = 0; g < groups; ++g) {
            float sums[TILE] = {}, factor = scale[size_t(o) * groups + g];
            products(x, w, sums, first, count, width, g * size, (g + 1) * size);
#pragma unroll
            for (int r = 0; r < TILE; ++r) totals[r] += sums[r] * factor;
        }
#pragma unroll
        for (int r = 0; r < TILE; ++r) {
            float total = warp_sum(totals[r]);
            if (lane == 0 && r < count) out[size_t(first + r) * outs + o] = total;
        }
    }
}
