// out = x @ (scale * weight).T, weights int8: one warp for OUTS outputs, four weights a lane where rows allow it.
#include "common.cuh"

#define TILE 8  // rows summed at once; further tiles find the weights in a cache
#define OUTS 2  // outputs of a warp, which share what it reads of x

// Adds x[r, begin:end] . w[j][begin:end] of this lane to sums[r][j] for the first `count` rows.
__device__ inline void products(const float* x, const signed char* const* w, float (*sums)[OUTS], int count, int width, int begin,
                                int end, bool whole) {
    int lane = threadIdx.x % WARP, middle = whole ? end : begin;
    for (int k = begin + 4 * lane; k < middle; k += 4 * WARP) {
        float part[OUTS][4];
#pragma unroll
        for (int j = 0; j < OUTS; ++j) {
            int packed = *reinterpret_cast<const int*>(w[j] + k);
#pragma unroll
            for (int byte = 0; byte < 4; ++byte) part[j][byte] = float(static_cast<signed char>(packed >> (8 * byte)));
        }
#pragma unroll
        for (int r = 0; r < TILE; ++r) {
            if (r >= count) continue;
            float4 a = four(x + size_t(r) * width + k);
#pragma unroll
            for (int j = 0; j < OUTS; ++j)
                sums[r][j] += a.x * part[j][0] + a.y * part[j][1] + a.z * part[j][2] + a.w * part[j][3];
        }
    }
    for (int k = middle + lane; k < end; k += WARP) {
#pragma unroll
        for (int j = 0; j < OUTS; ++j) {
            float part = float(w[j][k]);
#pragma unroll
            for (int r = 0; r < TILE; ++r)
                if (r < count) sums[r][j] += x[size_t(r) * width + k] * part;
        }
    }
}

extern "C" __global__ void int8(const float* x, const signed char* weight, const float* scale, float* out, int rows, int width,
                                int outs, int groups) {
    int o = (blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP) * OUTS, lane = threadIdx.x % WARP, size = width / groups;
    if (o >= outs) return;  // the whole warp leaves together
    const signed char* w[OUTS];
    const float* scales[OUTS];
#pragma unroll
    for (int j = 0; j < OUTS; ++j) {
        w[j] = weight + size_t(min(o + j, outs - 1)) * width;
        scales[j] = scale + size_t(min(o + j, outs - 1)) * groups;
    }
    bool whole = size % 4 == 0 && aligned(x, 16) && aligned(weight, 4);
    for (int first = 0; first < rows; first += TILE) {
        int count = min(TILE, rows - first);
        float totals[TILE][OUTS] = {};
        for (int g = 0; g < groups; ++g) {
            float sums[TILE][OUTS] = {};
            products(x + size_t(first) * width, w, sums, count, width, g * size, (g + 1) * size, whole);
#pragma unroll
            for (int r = 0; r < TILE; ++r) {
#pragma unroll
                for (int j = 0; j < OUTS; ++j) totals[r][j] += sums[r][j] * scales[j][g];
            }
        }
#pragma unroll
        for (int r = 0; r < TILE; ++r) {
#pragma unroll
            for (int j = 0; j < OUTS; ++j) {
                float total = warp_sum(totals[r][j]);
                if (lane == 0 && r < count && o + j < outs) out[size_t(first + r) * outs + o + j] = total;
            }
        }
    }
}
