// What the kernels share: reductions of a warp and of a block, and dynamic shared memory.
// Compiled by NVRTC for a GPU, and by a host compiler together with tests/cuda_host/cuda_host.h.
#pragma once

#ifdef __CUDACC__
#define DYNAMIC_SHARED(name) extern __shared__ float name[]
#define INFINITE __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)
#endif

#define WARP 32
#define HELD 4  // values of a row that a thread keeps in registers
#define EVERY_LANE 0xffffffffu

__device__ inline bool aligned(const void* pointer, int bytes) {
    return reinterpret_cast<unsigned long long>(pointer) % bytes == 0;
}

// Four neighbours in one read; the address must be a multiple of 16.
__device__ inline float4 four(const float* place) {
    return *reinterpret_cast<const float4*>(place);
}

// sum + a . b, in a fixed order of fused multiply-adds.
__device__ inline float dot(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

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

// Writes a block's `count` best values, best first: a thread holds HELD of them, ids `first` on, where `left` has a bit.
// Id -1 where none is left.
__device__ inline void block_top(const float* held, unsigned left, int first, int count, float* values, int* ids) {
    for (int j = 0; j < count; ++j) {
        float value = -INFINITE;
        int id = -1;
#pragma unroll
        for (int i = 0; i < HELD; ++i) {
            if ((left >> i & 1) && better(held[i], first + i, value, id)) {
                value = held[i];
                id = first + i;
            }
        }
        block_best(value, id);
        if (id >= first && id < first + HELD) left &= ~(1u << (id - first));
        if (threadIdx.x == 0) {
            values[j] = value;
            ids[j] = id;
        }
    }
}

// Makes (value, id) the best of `count` candidates after (value, id); id -1 stands before all of them, and then for none.
__device__ inline void block_next(const float* values, const int* ids, int count, float& value, int& id) {
    float last = value, best = -INFINITE;
    int last_id = id, best_id = -1;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        bool taken = last_id >= 0 && !better(last, last_id, values[i], ids[i]);
        if (!taken && better(values[i], ids[i], best, best_id)) {
            best = values[i];
            best_id = ids[i];
        }
    }
    block_best(best, best_id);
    value = best;
    id = best_id;
}

// Joins the softmaxes of a row's shares; every thread gets the whole.
__device__ inline Softmax block_join(const float* parts, int count) {
    Softmax mine = softmax_none();
    for (int i = threadIdx.x; i < count; i += blockDim.x) mine = softmax_join(mine, {parts[3 * i], parts[3 * i + 1], parts[3 * i + 2]});
    return block_softmax(mine);
}
