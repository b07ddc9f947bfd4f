// Pooled causal attention. A block takes one head and some asked rows (one a warp) and goes over the keys in tiles
// twice: first for each row's maximum and sum, then for its probabilities, which are added up by atomics. Nothing of
// size T x T exists. The order of the additions is not fixed, so the last bits may differ from run to run.
#include "common.cuh"

extern "C" __global__ void pool(const float* q, const float* k, const int* asked, const int* query_bin, const int* key_bin,
                                float* mass, float* column_sum, int heads, int key_heads, int length, int width, int count,
                                int query_bins, int key_bins, int window, float cap) {
    DYNAMIC_SHARED(memory);
    int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, stride = width + 1;
    float *keys = memory, *queries = keys + WARP * stride;
    int h = blockIdx.y, place = blockIdx.x * warps + warp, row = place < count ? asked[place] : -1;
    int end = asked[min(count, int(blockIdx.x + 1) * warps) - 1] + 1;  // `asked` ascends
    const float* own_keys = k + size_t(h / (heads / key_heads)) * length * width;
    int start = max(0, asked[blockIdx.x * warps] + 1 - window) / WARP * WARP;  // no row of the block looks further back
    float scale = 1.0f / sqrtf(float(width)), peak = -INFINITE, total = 0.0f;
    for (int c = lane; c < width; c += WARP)
        queries[warp * width + c] = row >= 0 ? q[(size_t(h) * length + row) * width + c] * scale : 0.0f;
    for (int pass = 0; pass < 2; ++pass) {
        for (int first = start; first < end; first += WARP) {
            int tile = min(WARP, end - first), key = first + lane;
            __syncthreads();
            for (int i = threadIdx.x; i < tile * width; i += blockDim.x)
                keys[i / width * stride + i % width] = own_keys[size_t(first) * width + i];
            __syncthreads();
            float score = -INFINITE;
            bool seen = key <= row && key > row - window;
            if (seen) {
                score = 0.0f;
                for (int c = 0; c < width; ++c) score += queries[warp * width + c] * keys[lane * stride + c];
                if (cap > 0.0f) score = cap * tanhf(score / cap);
            }
            if (pass == 0) {
                float high = fmaxf(peak, warp_max(score));
                float weight = seen ? expf(score - high) : 0.0f;
                total = (peak == -INFINITE ? 0.0f : total * expf(peak - high)) + warp_sum(weight);
                peak = high;
                continue;
            }
            float probability = seen ? expf(score - peak) / total : 0.0f;
            if (seen) atomicAdd(&column_sum[size_t(h) * length + key], probability);
            if (row < first) continue;  // the whole warp: all its keys lie ahead of its row
            float* pooled = mass + (size_t(h) * query_bins + query_bin[place]) * key_bins;
            int low = key_bin[first], top = key_bin[min(first + WARP, length) - 1];
            if (low == top) {
                float sum = warp_sum(probability);
                if (lane == 0) atomicAdd(&pooled[low], sum);
            } else if (seen) {
                atomicAdd(&pooled[key_bin[key]], probability);
            }
        }
    }
}
