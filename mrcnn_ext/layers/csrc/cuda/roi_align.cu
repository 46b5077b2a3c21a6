// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// The CUDA side of mrcnn_ext::_roi_align_forward and _roi_align_backward: arguments in, kernels
// launched on the current stream. Nothing waits for the device. Schemas are in Python
// (layers/roi_align/ops.py).
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>
#include <optional>
#include <vector>

#include "roi_align_backward.cuh"
#include "roi_align_forward.cuh"
#include "roi_align_tensors.cuh"

namespace mrcnn_ext {
namespace {

// ---- Kernels ------------------------------------------------------------------------------------

/// Runs a phase: every thread its part, and no thread goes on before all are done.
struct ThisBlock {
  template <class Phase>
  MRCNN_EXT_HD void operator()([[maybe_unused]] const Phase& phase) const {
#ifdef __CUDA_ARCH__
    phase(static_cast<int>(threadIdx.x));
    __syncthreads();
#endif
  }
};

/// What a thread keeps to itself between phases.
template <class State>
struct ThisThreads {
  State& state;

  MRCNN_EXT_HD State& operator()(int) const { return state; }
};

extern __shared__ __align__(16) unsigned char shared_memory[];

template <class T>
__global__ void place_kernel(const __grid_constant__ Args args) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < args.num_rois) place_roi<T>(args, static_cast<int>(index));
}

template <class Element, int kVector>
__global__ void __launch_bounds__(kMaxThreads)
    forward_kernel(const __grid_constant__ Args args, const __grid_constant__ ForwardShape shape) {
  const ForwardBlock<Element, kVector> block(
      args, shape, static_cast<int>(blockIdx.x), shared_memory);
  block.run(ThisBlock());
}

template <class Element, int kVector>
__global__ void __launch_bounds__(kMaxThreads) backward_kernel(
    const __grid_constant__ Args args, const __grid_constant__ BackwardShape shape) {
  using Block = BackwardBlock<Element, kVector>;
  const Block block(args, shape, static_cast<int>(blockIdx.x), shared_memory);
  typename Block::Row row;
  block.run(ThisBlock(), ThisThreads<typename Block::Row>{row});
}

// ---- Launches -----------------------------------------------------------------------------------

struct Queue {
  int32_t device;
  cudaStream_t stream;

  explicit Queue(int32_t device_index) : device(device_index) {
    void* current = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &current));
    stream = static_cast<cudaStream_t>(current);
  }
};

template <class T>
void launch_place(const Args& args, const Queue& queue) {
  constexpr int kThreads = 128;
  if (args.num_rois == 0) return;
  const int blocks = (args.num_rois - 1) / kThreads + 1;
  place_kernel<T><<<blocks, kThreads, 0, queue.stream>>>(args);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

/// One block of `kernel` for each of `shape.blocks`.
template <class Shape>
void launch(
    void (*kernel)(Args, Shape), const Args& args, const Shape& shape, int threads,
    const Queue& queue) {
  // Without an opt-in, every device grants this much.
  constexpr int64_t kSharedBytes = 48 * 1024;
  STD_TORCH_CHECK(
      shape.blocks <= std::numeric_limits<int>::max(), "RoIAlign on CUDA needs ", shape.blocks,
      " blocks of threads for these sizes, more than a launch can have");
  if (shape.blocks == 0) return;
  if (shape.shared_bytes > kSharedBytes) {
    int limit = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(
        &limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, queue.device));
    STD_TORCH_CHECK(
        shape.shared_bytes <= limit, "RoIAlign on CUDA needs ", shape.shared_bytes,
        " bytes of shared memory for feature maps and an output of these sizes, but a block has ",
        limit, " on this device");
    STD_CUDA_CHECK(cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
        static_cast<int>(shape.shared_bytes)));
  }
  kernel<<<static_cast<unsigned>(shape.blocks), threads,
           static_cast<size_t>(shape.shared_bytes), queue.stream>>>(args, shape);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <class Element>
void launch_forward(const Args& args, const Queue& queue) {
  using T = accumulator_t<Element>;
  constexpr int kVector = kForwardVector<Element>;
  launch_place<T>(args, queue);
  const bool vectors = can_use_vectors(args, kVector, sizeof(Element));
  const ForwardShape shape = make_forward_shape<T>(args, vectors ? kVector : 1);
  const auto kernel = vectors ? forward_kernel<Element, kVector> : forward_kernel<Element, 1>;
  launch(kernel, args, shape, shape.threads(), queue);
}

template <class Element>
void launch_backward(Args& args, const Queue& queue) {
  using T = accumulator_t<Element>;
  constexpr int kVector = kBackwardVector<Element>;
  launch_place<T>(args, queue);
  const bool vectors = can_use_vectors(args, kVector, sizeof(Element));
  const BackwardShape shape = make_backward_shape<T>(args, vectors ? kVector : 1);
  const auto kernel = vectors ? backward_kernel<Element, kVector> : backward_kernel<Element, 1>;
  launch(kernel, args, shape, kMaxThreads, queue);
}

// ---- Ops ----------------------------------------------------------------------------------------

void roi_align_forward(
    std::vector<Tensor> features, const Tensor& rois, std::optional<Tensor> levels,
    std::vector<double> scales, int64_t sampling_ratio, bool aligned, double canonical_box_size,
    int64_t canonical_level, Tensor output) {
  const torch::stable::accelerator::DeviceGuard guard(output.get_device_index());
  const Queue queue(output.get_device_index());
  forward_on_tensors(
      features, rois, levels, scales, sampling_ratio, aligned, canonical_box_size,
      canonical_level, output, [&](auto element, Args& args) {
        launch_forward<decltype(element)>(args, queue);
      });
}

void roi_align_backward(
    const Tensor& grad_output, const Tensor& rois, std::optional<Tensor> levels,
    std::vector<double> scales, int64_t sampling_ratio, bool aligned, double canonical_box_size,
    int64_t canonical_level, std::vector<Tensor> grad_features) {
  const torch::stable::accelerator::DeviceGuard guard(grad_output.get_device_index());
  const Queue queue(grad_output.get_device_index());
  backward_on_tensors(
      grad_output, rois, levels, scales, sampling_ratio, aligned, canonical_box_size,
      canonical_level, grad_features, [&](auto element, Args& args) {
        launch_backward<decltype(element)>(args, queue);
      });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_ext, CUDA, m) {
  m.impl("_roi_align_forward", TORCH_BOX(&roi_align_forward));
  m.impl("_roi_align_backward", TORCH_BOX(&roi_align_backward));
}

}  // namespace mrcnn_ext
