// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// One kernel for each kind of fault that compute-sanitizer looks for. They are wrong on purpose:
// sanitize_cuda.py runs them first, to see that the tool would have noticed.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

namespace mrcnn_ext {

constexpr int kThreads = 64;

/// Writes one element beyond `count`.
__global__ void out_of_range(int* data, int count) { data[threadIdx.x] = count; }

/// Reads what another warp writes, without waiting for it.
__global__ void race(int* data) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  data[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

/// Reads memory that nobody has written.
__global__ void uninitialized(const int* source, int* data) {
  data[threadIdx.x] = source[threadIdx.x] + 1;
}

/// Half of a warp comes to the barrier.
__global__ void divergent_barrier(int* data) {
  if (threadIdx.x < kThreads / 4) __syncthreads();
  data[threadIdx.x] = 1;
}

}  // namespace mrcnn_ext

int main(int argc, char** argv) {
  using namespace mrcnn_ext;
  const char* fault = argc > 1 ? argv[1] : "";
  int *source = nullptr, *data = nullptr;
  const bool short_of_one = std::strcmp(fault, "memcheck") == 0;
  const size_t bytes = (kThreads - (short_of_one ? 1 : 0)) * sizeof(int);
  if (cudaMalloc(&source, kThreads * sizeof(int)) != cudaSuccess) return 2;
  if (cudaMalloc(&data, bytes) != cudaSuccess) return 2;
  if (short_of_one) {
    out_of_range<<<1, kThreads>>>(data, kThreads - 1);
  } else if (std::strcmp(fault, "racecheck") == 0) {
    race<<<1, kThreads>>>(data);
  } else if (std::strcmp(fault, "initcheck") == 0) {
    uninitialized<<<1, kThreads>>>(source, data);
  } else if (std::strcmp(fault, "synccheck") == 0) {
    divergent_barrier<<<1, kThreads>>>(data);
  } else {
    std::fprintf(stderr, "usage: gpu_faults memcheck|racecheck|initcheck|synccheck\n");
    return 2;
  }
  const cudaError_t error = cudaDeviceSynchronize();
  std::printf("%s: %s\n", fault, cudaGetErrorString(error));
  return 0;
}
