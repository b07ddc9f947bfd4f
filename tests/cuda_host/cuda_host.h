// Runs CUDA C++ kernels on the CPU: every thread of a block is an operating-system thread, so a missing barrier is a
// real race (wrong results, and a report of the thread sanitizer), and memory is real memory (the address sanitizer
// sees an out-of-bounds access of global or dynamic shared memory).
//
//   compile:  g++ -std=c++20 -O1 -ffp-contract=off -pthread -I workbench/kernels -include cuda_host.h -x c++ kernel.cu
//   launch:   cuda_host::launch(kernel, {grid.x, grid.y, grid.z}, threads, shared_bytes, pointers_to_arguments)
//
// Provided: threadIdx, blockIdx, blockDim, gridDim (x, y, z; blocks have one dimension), __shared__, dynamic shared
// memory, __syncthreads, __syncwarp, full-mask shuffles and votes, atomicAdd, rounding intrinsics, the maths that the
// kernels use. Blocks run one after the other. Dynamic shared memory starts as NaN. A warp has 32 threads, and a block
// must be a multiple of that.
#pragma once

#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static
#define DYNAMIC_SHARED(name) float* name = cuda_host::dynamic_shared
#define INFINITE HUGE_VALF
#define NOT_A_NUMBER NAN

struct alignas(16) float4 {
    float x, y, z, w;
};

struct cuda_host_dim {
    unsigned x, y, z;
};

namespace cuda_host {
inline thread_local cuda_host_dim thread, block;
inline cuda_host_dim block_size, grid_size;
inline float* dynamic_shared;
inline std::unique_ptr<std::barrier<>> block_barrier;
inline std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;
inline std::vector<std::uint64_t> exchange;  // one slot a thread, for shuffles and votes

inline void sync_warp() {
    warp_barriers[thread.x / 32]->arrive_and_wait();
}

// Returns what lane `lane` of this warp passed; every lane must call.
template <class T>
T from_lane(T value, unsigned lane) {
    std::memcpy(&exchange[thread.x], &value, sizeof(T));
    sync_warp();
    T other;
    std::memcpy(&other, &exchange[thread.x / 32 * 32 + lane], sizeof(T));
    sync_warp();
    return other;
}

template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
}

template <class... A>
int launch(void (*kernel)(A...), cuda_host_dim grid, unsigned threads, std::size_t shared_bytes, void** arguments) {
    if (threads == 0 || threads % 32 || threads > 1024) return 1;
    block_size = {threads, 1, 1};
    grid_size = grid;
    exchange.assign(threads, 0);
    block_barrier = std::make_unique<std::barrier<>>(threads);
    warp_barriers.clear();
    for (unsigned warp = 0; warp < threads / 32; ++warp) warp_barriers.push_back(std::make_unique<std::barrier<>>(32));
    auto body = [&](unsigned number) {
        thread = {number, 0, 0};
        for (unsigned z = 0; z < grid.z; ++z)
            for (unsigned y = 0; y < grid.y; ++y)
                for (unsigned x = 0; x < grid.x; ++x) {
                    block_barrier->arrive_and_wait();
                    if (number == 0) {  // a fresh allocation of the exact size, so that the sanitizer sees its end
                        std::free(dynamic_shared);
                        dynamic_shared = static_cast<float*>(std::malloc(shared_bytes ? shared_bytes : 1));
                        std::memset(dynamic_shared, 0xff, shared_bytes);
                    }
                    block_barrier->arrive_and_wait();
                    block = {x, y, z};
                    call(kernel, arguments, std::index_sequence_for<A...>{});
                }
        block_barrier->arrive_and_drop();
        warp_barriers[number / 32]->arrive_and_drop();
    };
    std::vector<std::thread> pool;
    for (unsigned number = 0; number < threads; ++number) pool.emplace_back(body, number);
    for (auto& one : pool) one.join();
    return 0;
}
}  // namespace cuda_host

#define threadIdx cuda_host::thread
#define blockIdx cuda_host::block
#define blockDim cuda_host::block_size
#define gridDim cuda_host::grid_size

inline void __syncthreads() {
    cuda_host::block_barrier->arrive_and_wait();
}
inline void __syncwarp(unsigned = 0xffffffffu) {
    cuda_host::sync_warp();
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return cuda_host::from_lane(value, unsigned(lane) % 32);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int step) {
    return cuda_host::from_lane(value, (threadIdx.x % 32) ^ unsigned(step));
}
inline unsigned __ballot_sync(unsigned, int predicate) {
    unsigned votes = 0;
    cuda_host::exchange[threadIdx.x] = predicate != 0;
    cuda_host::sync_warp();
    for (unsigned lane = 0; lane < 32; ++lane) votes |= unsigned(cuda_host::exchange[threadIdx.x / 32 * 32 + lane]) << lane;
    cuda_host::sync_warp();
    return votes;
}
inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) == 0xffffffffu;
}
template <class T>
T atomicAdd(T* place, T value) {
    return std::atomic_ref<T>(*place).fetch_add(value);
}
inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return unsigned((std::uint64_t(a) * b) >> 32);
}
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __uint2float_rn(unsigned value) {
    return float(value);
}
inline int __float_as_int(float value) {
    int bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
using std::max;
using std::min;
