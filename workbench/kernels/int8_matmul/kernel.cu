// out = x @ (scale * weight).T, weights int8: one warp for OUTS outputs, four weights a lane where rows allow it.
// The order of summation does not depend on the number of rows, and so neither does a row's result.
#include "common.cuh"

#define TILE 8  // rows summed at once; further tiles find the weights in a cache
#define OUTS 2  // outputs of a warp, which share what it reads of x

// Writes the outputs of `count` rows, at most MOST. `whole`: groups are read four weights at a time.
template <int MOST>
__device__ inline void products(const float* x, const signed char* const* w, const float* const* scales, float* out, int count,
                                int width, int groups, bool whole, int outs, int here) {
    int lane = threadIdx.x % WARP, size = width / groups;
    float totals[MOST][OUTS] = {};
    for (int g = 0; g < groups; ++g) {
        int begin = g * size, end = begin + size, middle = whole ? end : begin;
        float sums[MOST][OUTS] = {};
#pragma unroll 2
        for (int k = begin + 4 * lane; k < middle; k += 4 * WARP) {
            float4 part[OUTS];
#pragma unroll
            for (int j = 0; j < OUTS; ++j) {
                int packed = *reinterpret_cast<const int*>(w[j] + k);
                part[j] = {float(static_cast<signed char>(packed)), float(static_cast<signed char>(packed >> 8)),
                           float(static_cast<signed char>(packed >> 16)), float(packed >> 24)};
            }
#pragma unroll
            for (int r = 0; r < MOST; ++r) {
                if (r >= count) continue;
                float4 a = four(x + size_t(r) * width + k);
#pragma unroll
                for (int j = 0; j < OUTS; ++j) sums[r][j] = dot(a, part[j], sums[r][j]);
            }
        }
        for (int k = middle + lane; k < end; k += WARP) {
#pragma unroll
            for (int j = 0; j < OUTS; ++j) {
                float part = float(w[j][k]);
#pragma unroll
                for (int r = 0; r < MOST; ++r)
                    if (r < count) sums[r][j] = fmaf(x[size_t(r) * width + k], part, sums[r][j]);
            }
        }
#pragma unroll
        for (int r = 0; r < MOST; ++r) {
#pragma unroll
            for (int j = 0; j < OUTS; ++j) totals[r][j] = fmaf(sums[r][j], scales[j][g], totals[r][j]);
        }
    }
#pragma unroll
    for (int r = 0; r < MOST; ++r) {
        if (r >= count) continue;
#pragma unroll
        for (int j = 0; j < OUTS; ++j) {
            float total = warp_sum(totals[r][j]);
            if (lane == 0 && j < here) out[size_t(r) * outs + j] = total;
        }
    }
}

extern "C" __global__ void int8(const float* x, const signed char* weight, const float* scale, float* out, int rows, int width,
                                int outs, int groups) {
    int o = (blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP) * OUTS;
    if (o >= outs) return;  // the whole warp leaves together
    const signed char* w[OUTS];
    const float* scales[OUTS];
#pragma unroll
    for (int j = 0; j < OUTS; ++j) {
        w[j] = weight + size_t(min(o + j, outs - 1)) * width;
        scales[j] = scale + size_t(min(o + j, outs - 1)) * groups;
    }
    bool whole = width / groups % 4 == 0 && width % 4 == 0 && aligned(x, 16) && aligned(weight, 4);
    for (int first = 0; first < rows; first += TILE) {
        int count = min(TILE, rows - first);
        const float* own = x + size_t(first) * width;
        float* place = out + size_t(first) * outs + o;
        if (count == 1) products<1>(own, w, scales, place, count, width, groups, whole, outs, outs - o);
        else if (count <= 4) products<4>(own, w, scales, place, count, width, groups, whole, outs, outs - o);
        else products<TILE>(own, w, scales, place, count, width, groups, whole, outs, outs - o);
    }
}
