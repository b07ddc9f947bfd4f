// What the kernels share: reductions of a warp and of a block, and dynamic shared memory.
// Compiled by NVRTC for a GPU, and by a host compiler together with tests/cuda_host/cuda_host.h.
#pragma once

#ifdef __CUDACC__
#define DYNAMIC_SHARED(name) extern __shared__ float name[]
#define INFINITE __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)
#endif

#define WARP 32
#define EVERY_LANE 0xffffffffu

__device__ inline float warp_sum(float value) {
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(EVERY_LANE, value, step);
    return value;
}

__device__ inline float warp_max(float value) {
    for (int step = WARP / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(EVERY_LANE, value, step));
    return value;
}

// The larger of two candidates; of equal values, the smaller index. Index -1 means no candidate.
__device__ inline bool better(float value, int index, float than, int than_index) {
    if (index < 0) return false;
    if (than_index < 0) return true;
    return value > than || (value == than && index < than_index);
}

// Leaves the best candidate of the block in every thread. Needs blockDim.x to be a multiple of 32, at most 1024.
__device__ inline void block_best(float& value, int& index) {
    __shared__ float values[WARP];
    __shared__ int indices[WARP];
    for (int step = WARP / 2; step > 0; step /= 2) {
        float other = __shfl_xor_sync(EVERY_LANE, value, step);
        int other_index = __shfl_xor_sync(EVERY_LANE, index, step);
        if (better(other, other_index, value, index)) {
            value = other;
            index = other_index;
        }
    }
    if (threadIdx.x % WARP == 0) {
        values[threadIdx.x / WARP] = value;
        indices[threadIdx.x / WARP] = index;
    }
    __syncthreads();
    for (unsigned warp = 0; warp < blockDim.x / WARP; ++warp) {
        if (better(values[warp], indices[warp], value, index)) {
            value = values[warp];
            index = indices[warp];
        }
    }
    __syncthreads();  // before the next call writes the lists again
}

// Running maximum, sum of exp(x - maximum), and sum of (x - maximum) exp(x - maximum).
struct Softmax {
    float peak, mass, slope;
};

__device__ inline Softmax softmax_none() {
    return {-INFINITE, 0.0f, 0.0f};
}

__device__ inline Softmax softmax_join(Softmax a, Softmax b) {
    if (b.mass == 0.0f) return a;
    if (a.mass == 0.0f) return b;
    float peak = fmaxf(a.peak, b.peak), down_a = a.peak - peak, down_b = b.peak - peak;
    float scale_a = expf(down_a), scale_b = expf(down_b);
    // A part that lies more than 100 below adds nothing, and 0 * infinity must not make it NaN.
    float slope = (down_a < -100.0f ? 0.0f : scale_a * (a.slope + a.mass * down_a)) +
                  (down_b < -100.0f ? 0.0f : scale_b * (b.slope + b.mass * down_b));
    return {peak, a.mass * scale_a + b.mass * scale_b, slope};
}

__device__ inline Softmax block_softmax(Softmax mine) {
    __shared__ Softmax parts[WARP];
    for (int step = WARP / 2; step > 0; step /= 2) {
        Softmax other;
        other.peak = __shfl_xor_sync(EVERY_LANE, mine.peak, step);
        other.mass = __shfl_xor_sync(EVERY_LANE, mine.mass, step);
        other.slope = __shfl_xor_sync(EVERY_LANE, mine.slope, step);
        mine = softmax_join(mine, other);
    }
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = mine;
    __syncthreads();
    Softmax all = parts[0];
    for (unsigned warp = 1; warp < blockDim.x / WARP; ++warp) all = softmax_join(all, parts[warp]);
    __syncthreads();
    return all;
}
