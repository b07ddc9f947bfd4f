// out = x @ weight.T for a few rows: one warp for OUTS outputs, each weight read from memory once.
// The order of summation does not depend on the number of rows, and so neither does a row's result.
#include "common.cuh"

#define TILE 8  // rows summed at once; further tiles find the weights in a cache
#define OUTS 2  // outputs of a warp, which share what it reads of x

extern "C" __global__ void skinny(const float* x, const float* weight, float* out, int rows, int width, int outs) {
    int o = (blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP) * OUTS, lane = threadIdx.x % WARP;
    if (o >= outs) return;  // the whole warp leaves together
    const float* w[OUTS];
#pragma unroll
    for (int j = 0; j < OUTS; ++j) w[j] = weight + size_t(min(o + j, outs - 1)) * width;
    int whole = width % 4 == 0 && aligned(x, 16) && aligned(weight, 16) ? width : 0;
    for (int first = 0; first < rows; first += TILE) {
        int count = min(TILE, rows - first);
        const float* own = x + size_t(first) * width;
        float sums[TILE][OUTS] = {};
        for (int k = 4 * lane; k < whole; k += 4 * WARP) {
            float4 part[OUTS];
#pragma unroll
            for (int j = 0; j < OUTS; ++j) part[j] = four(w[j] + k);
#pragma unroll
            for (int r = 0; r < TILE; ++r) {
                if (r >= count) continue;
                float4 a = four(own + size_t(r) * width + k);
#pragma unroll
                for (int j = 0; j < OUTS; ++j) sums[r][j] += a.x * part[j].x + a.y * part[j].y + a.z * part[j].z + a.w * part[j].w;
            }
        }
        for (int k = whole + lane; k < width; k += WARP) {
#pragma unroll
            for (int j = 0; j < OUTS; ++j) {
                float part = w[j][k];
#pragma unroll
                for (int r = 0; r < TILE; ++r)
                    if (r < count) sums[r][j] += own[size_t(r) * width + k] * part;
            }
        }
#pragma unroll
        for (int r = 0; r < TILE; ++r) {
#pragma unroll
            for (int j = 0; j < OUTS; ++j) {
                float total = warp_sum(sums[r][j]);
                if (lane == 0 && r < count && o + j < outs) out[size_t(first + r) * outs + o + j] = total;
            }
        }
    }
}
