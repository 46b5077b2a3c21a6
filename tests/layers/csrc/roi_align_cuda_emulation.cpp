// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// The emulated CUDA kernels as ops on CPU tensors, behind the same handling of tensors as the real
// ones. They take an order of threads and return the size of the vectors that were used.
#include "roi_align_cuda_emulation.h"

#include "../../../mrcnn_ext/layers/csrc/cuda/roi_align_tensors.cuh"

namespace mrcnn_ext::emulation {
namespace {

int64_t forward(
    std::vector<Tensor> features, const Tensor& rois, std::optional<Tensor> levels,
    std::vector<double> scales, int64_t sampling_ratio, bool aligned, double canonical_box_size,
    int64_t canonical_level, Tensor output, int64_t order) {
  int vector = 0;
  forward_on_tensors(
      features, rois, levels, scales, sampling_ratio, aligned, canonical_box_size,
      canonical_level, output, [&](auto element, Args& args) {
        vector = run<decltype(element)>(args, false, static_cast<Order>(order));
      });
  return vector;
}

int64_t backward(
    const Tensor& grad_output, const Tensor& rois, std::optional<Tensor> levels,
    std::vector<double> scales, int64_t sampling_ratio, bool aligned, double canonical_box_size,
    int64_t canonical_level, std::vector<Tensor> grad_features, int64_t order) {
  int vector = 0;
  backward_on_tensors(
      grad_output, rois, levels, scales, sampling_ratio, aligned, canonical_box_size,
      canonical_level, grad_features, [&](auto element, Args& args) {
        vector = run<decltype(element)>(args, true, static_cast<Order>(order));
      });
  return vector;
}

#define GEOMETRY                                                                           \
  "Tensor rois, Tensor? levels, float[] scales, int sampling_ratio, bool aligned, "        \
  "float canonical_box_size, int canonical_level"

// The name of the library is a macro, so that one process can load several builds.
#define DEFINE_IN(library)                                                                 \
  STABLE_TORCH_LIBRARY(library, m) {                                                       \
    m.def("forward(Tensor[] features, " GEOMETRY ", Tensor(a!) output, int order) -> int"); \
    m.def(                                                                                 \
        "backward(Tensor grad_output, " GEOMETRY                                           \
        ", Tensor(a!)[] grad_features, int order) -> int");                                \
  }                                                                                        \
  STABLE_TORCH_LIBRARY_IMPL(library, CPU, m) {                                             \
    m.impl("forward", TORCH_BOX(&forward));                                                \
    m.impl("backward", TORCH_BOX(&backward));                                              \
  }

DEFINE_IN(EMULATION_LIBRARY)

}  // namespace
}  // namespace mrcnn_ext::emulation
