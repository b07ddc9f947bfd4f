// Statistics of every row of logits. `share`: a block reads one share of a row once, into registers, and leaves that
// share's softmax and best ids. `merge`: a block for each row joins its shares.
#include "common.cuh"

extern "C" __global__ void share(const float* logits, float* parts, float* values, int* ids, int vocabulary, int kept) {
    int first = (blockIdx.y * blockDim.x + threadIdx.x) * HELD;
    const float* own = logits + size_t(blockIdx.x) * vocabulary;
    float held[HELD];
    unsigned left = 0;
    Softmax mine = softmax_none();
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        bool there = first + i < vocabulary;
        held[i] = there ? own[first + i] : -INFINITE;
        left |= unsigned(there) << i;
        if (held[i] > -INFINITE) mine = softmax_join(mine, {held[i], 1.0f, 0.0f});
    }
    mine = block_softmax(mine);
    size_t place = size_t(blockIdx.x) * gridDim.y + blockIdx.y;
    if (threadIdx.x == 0) {
        parts[3 * place] = mine.peak;
        parts[3 * place + 1] = mine.mass;
        parts[3 * place + 2] = mine.slope;
    }
    block_top(held, left, first, kept, values + place * kept, ids + place * kept);
}

extern "C" __global__ void merge(const float* parts, const float* values, const int* ids, long long* argmax, float* p1, float* p2,
                                 float* entropy, float* total, long long* top_ids, float* top_probs, int shares, int kept,
                                 int wanted, int top_k) {
    int row = blockIdx.x, id = -1;
    Softmax all = block_join(parts + size_t(row) * shares * 3, shares);
    bool possible = all.mass > 0.0f;
    float sum = possible ? all.peak + logf(all.mass) : -INFINITE, value = INFINITE;
    if (threadIdx.x == 0) {
        entropy[row] = possible ? logf(all.mass) - all.slope / all.mass : NOT_A_NUMBER;
        total[row] = sum;
        p2[row] = possible ? 0.0f : NOT_A_NUMBER;  // of a vocabulary of one
    }
    size_t candidates = size_t(row) * shares * kept;
    for (int j = 0; j < wanted; ++j) {
        block_next(values + candidates, ids + candidates, shares * kept, value, id);
        if (threadIdx.x != 0) continue;
        float probability = possible ? expf(value - sum) : NOT_A_NUMBER;
        if (j == 0) {
            argmax[row] = id;
            p1[row] = probability;
        }
        if (j == 1) p2[row] = probability;
        if (j < top_k) {
            top_ids[size_t(row) * top_k + j] = id;
            top_probs[size_t(row) * top_k + j] = probability;
        }
    }
}
