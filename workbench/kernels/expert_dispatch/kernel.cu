// Slots under a capacity. `rank`: a block for each expert walks all choices in the order of service and counts its own
// with ballots, so slots are stable without sorting. `place`: a thread for each choice writes the permutation.
#include "common.cuh"

extern "C" __global__ void rank(const int* experts, const long long* tokens, int* slot, long long* load, int count, int choices,
                                int capacity) {
    __shared__ int counted[WARP];
    int expert = blockIdx.x, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, before = 0;
    for (int choice = 0; choice < choices; ++choice) {
        for (int first = 0; first < count; first += blockDim.x) {
            int place = first + threadIdx.x;
            size_t entry = place < count ? size_t(tokens[place]) * choices + choice : 0;
            bool mine = place < count && experts[entry] == expert;
            unsigned votes = __ballot_sync(EVERY_LANE, mine);
            if (lane == 0) counted[warp] = __popc(votes);
            __syncthreads();
            int rank = before + __popc(votes & ((1u << lane) - 1));
            for (int other = 0; other < int(blockDim.x / WARP); ++other) {
                if (other < warp) rank += counted[other];
                before += counted[other];
            }
            if (mine) slot[entry] = rank < capacity ? rank : -1;
            __syncthreads();
        }
    }
    if (threadIdx.x == 0) load[expert] = before;
}

extern "C" __global__ void offset(const long long* load, long long* offsets, int experts, int capacity) {
    if (threadIdx.x != 0) return;
    offsets[0] = 0;
    for (int e = 0; e < experts; ++e) offsets[e + 1] = offsets[e] + (load[e] < capacity ? load[e] : capacity);
}

extern "C" __global__ void place(const int* experts, const int* slot, const long long* offsets, long long* permutation, int count) {
    int entry = blockIdx.x * blockDim.x + threadIdx.x;
    if (entry < count && slot[entry] >= 0) permutation[offsets[experts[entry]] + slot[entry]] = entry;
}
