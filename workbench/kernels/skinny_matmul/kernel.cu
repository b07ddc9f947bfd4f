// out = x @ weight.T for a few rows: one warp for OUTS outputs, each weight read from memory once.
// The order of summation does not depend on the number of rows, and so neither does a row's result.
#include "common.cuh"

#define TILE 8  // rows summed at once; further tiles find the weights in a cache
#define OUTS 2  // outputs of a warp, which share what it reads of x

// Writes the outputs of `count` rows, at most MOST; the first `whole` columns are read four at a time.
template <int MOST>
__device__ inline void products(const float* x, const float* const* w, float* out, int count, int width, int whole, int outs,
                                int here) {
    int lane = threadIdx.x % WARP;
    float sums[MOST][OUTS] = {};
#pragma unroll 2
    for (int k = 4 * lane; k < whole; k += 4 * WARP) {
        float4 part[OUTS];
#pragma unroll
        for (int j = 0; j < OUTS; ++j) part[j] = four(w[j] + k);
#pragma unroll
        for (int r = 0; r < MOST; ++r) {
            if (r >= count) continue;
            float4 a = four(x + size_t(r) * width + k);
#pragma unroll
            for (int j = 0; j < OUTS; ++j) sums[r][j] = dot(a, part[j], sums[r][j]);
        }
    }
    for (int k = whole + lane; k < width; k += WARP) {
#pragma unroll
        for (int j = 0; j < OUTS; ++j) {
            float part = w[j][k];
#pragma unroll
            for (int r = 0; r < MOST; ++r)
                if (r < count) sums[r][j] = fmaf(x[size_t(r) * width + k], part, sums[r][j]);
        }
    }
#pragma unroll
    for (int r = 0; r < MOST; ++r) {
        if (r >= count) continue;
#pragma unroll
        for (int j = 0; j < OUTS; ++j) {
            float total = warp_sum(sums[r][j]);
            if (lane == 0 && j < here) out[size_t(r) * outs + j] = total;
        }
    }
}

extern "C" __global__ void skinny(const float* x, const float* weight, float* out, int rows, int width, int outs) {
    int o = (blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP) * OUTS;
    if (o >= outs) return;  // the whole warp leaves together
    const float* w[OUTS];
#pragma unroll
    for (int j = 0; j < OUTS; ++j) w[j] = weight + size_t(min(o + j, outs - 1)) * width;
    int whole = width % 4 == 0 && aligned(x, 16) && aligned(weight, 16) ? width : 0;
    for (int first = 0; first < rows; first += TILE) {
        int count = min(TILE, rows - first);
        const float* own = x + size_t(first) * width;
        float* place = out + size_t(first) * outs + o;
        if (count == 1) products<1>(own, w, place, count, width, whole, outs, outs - o);
        else if (count <= 4) products<4>(own, w, place, count, width, whole, outs, outs - o);
        else products<TILE>(own, w, place, count, width, whole, outs, outs - o);
    }
}
