// k ids without replacement: log-probability plus Gumbel noise from a counter-based generator. The noise is made with
// roundings in a fixed order (no fused multiply-add), so the ids are those of every other backend. No noise is stored.
#include "common.cuh"

struct Words {
    unsigned a, b, c, d;
};

__device__ inline Words philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1) {
    for (int round = 0; round < 10; ++round) {
        unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {c0, c1, c2, c3};
}

__device__ inline float next_term(float series, float rest, float term) {
    return __fadd_rn(__fmul_rn(series, rest), term);
}

__device__ inline float exact_log(float x) {
    int bits = __float_as_int(x);
    float power = float((bits >> 23) - 126), part = __int_as_float((bits & 0x007FFFFF) | 0x3F000000);
    if (part < 0.707106781186547524f) {
        power = __fadd_rn(power, -1.0f);
        part = __fadd_rn(part, part);
    }
    float rest = __fadd_rn(part, -1.0f), square = __fmul_rn(rest, rest), series = 7.0376836292e-2f;
    series = next_term(series, rest, -1.1514610310e-1f);
    series = next_term(series, rest, 1.1676998740e-1f);
    series = next_term(series, rest, -1.2420140846e-1f);
    series = next_term(series, rest, 1.4249322787e-1f);
    series = next_term(series, rest, -1.6668057665e-1f);
    series = next_term(series, rest, 2.0000714765e-1f);
    series = next_term(series, rest, -2.4999993993e-1f);
    series = next_term(series, rest, 3.3333331174e-1f);
    float tail = __fadd_rn(__fmul_rn(__fmul_rn(series, rest), square), __fmul_rn(power, -2.12194440e-4f));
    tail = __fadd_rn(tail, -__fmul_rn(square, 0.5f));
    return __fadd_rn(__fadd_rn(rest, tail), __fmul_rn(power, 0.693359375f));
}

__device__ inline float gumbel(unsigned word) {
    float v = fminf(__fmul_rn(__fadd_rn(__uint2float_rn(word), 0.5f), 2.3283064365386963e-10f), 0.99999994f);
    float left = __fadd_rn(1.0f, -v), gone = __fadd_rn(1.0f, -left);
    float exponential = gone > 0.0f ? __fmul_rn(-exact_log(left), __fdiv_rn(v, gone)) : v;
    return -exact_log(exponential);
}

// A block makes the noise of one share of a row once, keeps it in registers, and leaves its k best and its softmax.
extern "C" __global__ void share(const float* logits, float* parts, float* values, int* ids, int vocabulary, int kept,
                                 float temperature, unsigned k0, unsigned k1) {
    int row = blockIdx.x, group = blockIdx.y * blockDim.x + threadIdx.x, first = HELD * group;
    const float* own = logits + size_t(row) * vocabulary;
    Words words = philox(group, row, 0, 0x4757424Cu, k0, k1);  // four words: HELD is 4
    unsigned four[HELD] = {words.a, words.b, words.c, words.d}, left = 0;
    float held[HELD];
    Softmax mine = softmax_none();
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        float scaled = first + i < vocabulary ? __fdiv_rn(own[first + i], temperature) : -INFINITE;
        held[i] = __fadd_rn(scaled, gumbel(four[i]));
        left |= unsigned(held[i] > -INFINITE) << i;
        if (scaled > -INFINITE) mine = softmax_join(mine, {scaled, 1.0f, 0.0f});
    }
    mine = block_softmax(mine);
    size_t place = size_t(row) * gridDim.y + blockIdx.y;
    if (threadIdx.x == 0) {
        parts[3 * place] = mine.peak;
        parts[3 * place + 1] = mine.mass;
        parts[3 * place + 2] = mine.slope;
    }
    block_top(held, left, first, kept, values + place * kept, ids + place * kept);
}

extern "C" __global__ void merge(const float* logits, const float* parts, const float* values, const int* picked, long long* ids,
                                 float* perturbed, float* logprobs, int vocabulary, int shares, int kept, int k,
                                 float temperature) {
    int row = blockIdx.x, id = -1;
    Softmax all = block_join(parts + size_t(row) * shares * 3, shares);
    float total = all.peak + logf(all.mass), value = INFINITE;
    size_t candidates = size_t(row) * shares * kept;
    bool any = true;
    for (int j = 0; j < k; ++j) {
        if (any) block_next(values + candidates, picked + candidates, shares * kept, value, id);
        any = any && id >= 0;  // the same in every thread
        if (threadIdx.x != 0) continue;
        size_t place = size_t(row) * k + j;
        ids[place] = any ? id : -1;
        perturbed[place] = any ? value - total : -INFINITE;
        logprobs[place] = any ? __fdiv_rn(logits[size_t(row) * vocabulary + id], temperature) - total : -INFINITE;
    }
}
