// Attention of tree nodes over a shared prefix and their ancestors. A block takes one head, some nodes (one a warp) and
// one share of the keys, so that each tile of keys is read once for all its nodes; `merge` joins the shares by their
// log-sum-exp.
#include "common.cuh"

#define MOST 8  // output columns of a lane: head widths to 256

extern "C" __global__ void attend(const float* q, const float* k_prefix, const float* v_prefix, const float* k_tree,
                                  const float* v_tree, const unsigned char* seen, float* partial, float* partial_lse,
                                  int nodes, int heads, int key_heads, int width, int prefix, int in_tree, int share, int tile) {
    DYNAMIC_SHARED(memory);
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, stride = width + 1;
    float *keys = memory, *values = keys + tile * stride, *queries = values + tile * width;
    float* weights = queries + warps * width;
    int h = blockIdx.x, n = blockIdx.y * warps + warp, split = blockIdx.z, key_head = h / (heads / key_heads);
    bool working = n < nodes;
    float scale = 1.0f / sqrtf(float(width));
    for (int c = lane; c < width; c += WARP)
        queries[warp * width + c] = working ? q[(size_t(n) * heads + h) * width + c] * scale : 0.0f;
    float mixed[MOST] = {}, peak = -INFINITE, mass = 0.0f;
    int begin = split * share, end = min(prefix + in_tree, begin + share);
    for (int first = begin; first < end; first += tile) {
        int count = min(tile, end - first);
        __syncthreads();
        for (int t = warp; t < count; t += warps) {
            int key = first + t;
            bool in_prefix = key < prefix;
            size_t place = (size_t(in_prefix ? key : key - prefix) * key_heads + key_head) * width;
            const float *from_k = (in_prefix ? k_prefix : k_tree) + place, *from_v = (in_prefix ? v_prefix : v_tree) + place;
            for (int c = lane; c < width; c += WARP) {
                keys[t * stride + c] = from_k[c];
                values[t * width + c] = from_v[c];
            }
        }
        __syncthreads();
        int key = first + lane;
        float score = -INFINITE;
        if (working && lane < count && (key < prefix || seen[size_t(in_tree - nodes + n) * in_tree + key - prefix])) {
            score = 0.0f;
            for (int c = 0; c < width; ++c) score += queries[warp * width + c] * keys[lane * stride + c];
        }
        float high = fmaxf(peak, warp_max(score));
        float weight = score == -INFINITE ? 0.0f : expf(score - high);
        float shrink = peak == -INFINITE ? 0.0f : expf(peak - high);
        mass = mass * shrink + warp_sum(weight);
        peak = high;
        weights[warp * WARP + lane] = weight;
        __syncwarp();
#pragma unroll
        for (int j = 0; j < MOST; ++j) {
            int c = lane + j * WARP;
            if (c < width) {
                float total = mixed[j] * shrink;
                for (int t = 0; t < count; ++t) total += weights[warp * WARP + t] * values[t * width + c];
                mixed[j] = total;
            }
        }
        __syncwarp();
    }
    if (!working) return;
    size_t row = (size_t(split) * nodes + n) * heads + h;
    if (lane == 0) partial_lse[row] = mass > 0.0f ? peak + logf(mass) : -INFINITE;
#pragma unroll
    for (int j = 0; j < MOST; ++j) {
        int c = lane + j * WARP;
        if (c < width) partial[row * width + c] = mass > 0.0f ? mixed[j] / mass : 0.0f;
    }
}

extern "C" __global__ void merge(const float* partial, const float* partial_lse, float* out, float* lse, int rows, int width,
                                 int splits) {
    int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    float peak = -INFINITE, mass = 0.0f;
    for (int s = 0; s < splits; ++s) peak = fmaxf(peak, partial_lse[size_t(s) * rows + row]);
    for (int s = 0; s < splits; ++s) mass += expf(partial_lse[size_t(s) * rows + row] - peak);
    for (int c = lane; c < width; c += WARP) {
        float total = 0.0f;
        for (int s = 0; s < splits; ++s)
            total += expf(partial_lse[size_t(s) * rows + row] - peak) * partial[(size_t(s) * rows + row) * width + c];
        out[size_t(row) * width + c] = total / mass;
    }
    if (lane == 0) lse[row] = peak + logf(mass);
}
