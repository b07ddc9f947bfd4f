// Pooled causal attention. A block takes one head and some asked rows (ROWS a warp) and goes over the keys in tiles
// twice: first for each row's maximum and sum, then for its probabilities, which are added up by atomics. Nothing of
// size T x T exists. The order of the additions is not fixed, so the last bits may differ from run to run.
#include "common.cuh"

#define ROWS 4  // asked rows of a warp: each key is read from shared memory once for all of them

extern "C" __global__ void pool(const float* q, const float* k, const int* asked, const int* query_bin, const int* key_bin,
                                float* mass, float* column_sum, int heads, int key_heads, int length, int width, int count,
                                int query_bins, int key_bins, int window, float cap, int workers) {
    DYNAMIC_SHARED(memory);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, stride = width + 1;
    float *keys = memory, *queries = keys + WARP * stride + warp * width * ROWS;  // a multiple of 16 bytes in
    int h = blockIdx.y, each = workers * ROWS, row[ROWS], latest = -1;
    int block = gridDim.x - 1 - blockIdx.x, place = block * each + warp * ROWS;  // the latest rows, which see most, go first
    for (int r = 0; r < ROWS; ++r) {
        row[r] = warp < workers && place + r < count ? asked[place + r] : -1;
        latest = max(latest, row[r]);
    }
    int end = asked[min(count, (block + 1) * each) - 1] + 1;  // `asked` ascends
    int start = max(0, asked[block * each] + 1 - window) / WARP * WARP;  // no row of the block looks further back
    const float* own_keys = k + size_t(h / (heads / key_heads)) * length * width;
    float scale = 1.0f / sqrtf(float(width)), peak[ROWS], total[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        peak[r] = -INFINITE;
        total[r] = 0.0f;
        if (warp >= workers) continue;
        for (int c = lane; c < width; c += WARP)
            queries[c * ROWS + r] = row[r] >= 0 ? q[(size_t(h) * length + row[r]) * width + c] * scale : 0.0f;
    }
    for (int pass = 0; pass < 2; ++pass) {
        for (int first = start; first < end; first += WARP) {
            int tile = min(WARP, end - first), key = first + lane;
            __syncthreads();
            for (int t = warp; t < tile; t += blockDim.x / WARP)
                for (int c = lane; c < width; c += WARP) keys[t * stride + c] = own_keys[size_t(first + t) * width + c];
            __syncthreads();
            if (latest < first) continue;  // the whole warp: all these keys lie ahead of its rows
            float score[ROWS] = {}, sum = 0.0f;
            if (lane < tile) {
                for (int c = 0; c < width; ++c) {
                    float part = keys[lane * stride + c];
                    float4 asks = four(queries + c * ROWS);
                    score[0] += asks.x * part;
                    score[1] += asks.y * part;
                    score[2] += asks.z * part;
                    score[3] += asks.w * part;
                }
            }
            bool alike = true;
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                bool seen = key <= row[r] && key > row[r] - window;
                if (cap > 0.0f) score[r] = cap * tanhf(score[r] / cap);
                if (pass == 0 && seen) {  // each lane keeps its own maximum and sum until the keys end
                    float high = fmaxf(peak[r], score[r]);
                    total[r] = total[r] * expf(peak[r] - high) + expf(score[r] - high);
                    peak[r] = high;
                }
                score[r] = pass == 1 && seen ? expf(score[r] - peak[r]) / total[r] : 0.0f;  // from here a probability
                sum += score[r];
                alike = alike && (row[r] < 0 || query_bin[place + r] == query_bin[place]);
            }
            if (pass == 0) continue;
            if (sum > 0.0f) atomicAdd(&column_sum[size_t(h) * length + key], sum);
            int low = key_bin[first], top = key_bin[min(first + WARP, length) - 1];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                if (row[r] < 0 || (alike && r > 0)) continue;
                float* pooled = mass + (size_t(h) * query_bins + query_bin[place + r]) * key_bins;
                float own = alike ? sum : score[r];
                if (low == top) {
                    own = warp_sum(own);
                    if (lane == 0) atomicAdd(&pooled[low], own);
                } else if (own > 0.0f) {
                    atomicAdd(&pooled[key_bin[key]], own);
                }
            }
        }
        if (pass == 1) break;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            float high = warp_max(peak[r]);
            total[r] = warp_sum(peak[r] == -INFINITE ? 0.0f : total[r] * expf(peak[r] - high));
            peak[r] = high;
        }
    }
}
