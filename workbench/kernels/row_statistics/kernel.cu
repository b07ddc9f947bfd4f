// Statistics of every row of logits: one block a row. The first pass is an online softmax; each further pass over the
// row, now in the second-level cache, takes the next best id.
#include "common.cuh"

extern "C" __global__ void statistics(const float* logits, float* values, long long* ids, float* entropy, float* total,
                                      int vocabulary, int kept) {
    int row = blockIdx.x;
    const float* own = logits + size_t(row) * vocabulary;
    Softmax mine = softmax_none();
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x)
        if (own[i] > -INFINITE) mine = softmax_join(mine, {own[i], 1.0f, 0.0f});
    mine = block_softmax(mine);
    bool possible = mine.mass > 0.0f;
    if (threadIdx.x == 0) {
        entropy[row] = possible ? logf(mine.mass) - mine.slope / mine.mass : NOT_A_NUMBER;
        total[row] = possible ? mine.peak + logf(mine.mass) : -INFINITE;
    }
    float last = INFINITE;
    int last_id = -1;
    for (int j = 0; j < kept; ++j) {
        float value = -INFINITE;
        int id = -1;
        for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) {
            bool taken = j > 0 && !better(last, last_id, own[i], i);
            if (!taken && better(own[i], i, value, id)) {
                value = own[i];
                id = i;
            }
        }
        block_best(value, id);
        last = value;
        last_id = id;
        if (threadIdx.x == 0) {
            values[size_t(row) * kept + j] = value;
            ids[size_t(row) * kept + j] = id;
        }
    }
}
