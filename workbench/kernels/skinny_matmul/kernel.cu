// out = x @ weight.T for a few rows: one warp for each output, each weight read from memory once.
// The order of summation does not depend on the number of rows, and so neither does a row's result.
#include "common.cuh"

#define TILE 8  // rows summed at once; further tiles find the weight row in the first-level cache

extern "C" __global__ void skinny(const float* x, const float* weight, float* out, int rows, int width, int outs) {
    int o = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (o >= outs) return;  // the whole warp leaves together
    const float* w = weight + size_t(o) * width;
    for (int first = 0; first < rows; first += TILE) {
        int count = min(TILE, rows - first);
        float sums[TILE] = {};
        for (int k = lane; k < width; k += WARP) {
            float part = w[k];
#pragma unroll
            for (int r = 0; r < TILE; ++r)
                if (r < count) sums[r] += x[size_t(first + r) * width + k] * part;
        }
#pragma unroll
        for (int r = 0; r < TILE; ++r) {
            float total = warp_sum(sums[r]);
            if (lane == 0 && r < count) out[size_t(first + r) * outs + o] = total;
        }
    }
}
