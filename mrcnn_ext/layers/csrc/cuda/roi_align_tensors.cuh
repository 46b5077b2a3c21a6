// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// Between the ops and the kernels: tensors in, Args out. Nothing in here needs a GPU.
//
// Kernels know (N, H, W, C) only. Tensors in NCHW are converted on the way in and out, by torch's
// own copy kernels: that reads and writes each map once more, so channels_last is the fast format.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "../roi_align_checks.h"
#include "../tensors.h"
#include "roi_align_device.cuh"

namespace mrcnn_ext {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Tensor to_nhwc(const Tensor& tensor) {
  return is_nhwc(tensor) ? tensor : torch::stable::contiguous(tensor, MemoryFormat::ChannelsLast);
}

/// The tensor itself, or memory of its shape that is to be copied to it.
inline Tensor nhwc_target(const Tensor& tensor) {
  if (is_nhwc(tensor)) return tensor;
  const Tensor nhwc = torch::stable::new_empty(
      tensor, {tensor.size(0), tensor.size(2), tensor.size(3), tensor.size(1)});
  return torch::stable::transpose(torch::stable::transpose(nhwc, 1, 3), 2, 3);
}

inline void copy_back(Tensor& tensor, const Tensor& target) {
  if (tensor.const_data_ptr() != target.const_data_ptr()) torch::stable::copy_(tensor, target);
}

/// Arguments of the kernels, and what must live until they are launched.
struct Problem {
  Args args = {};
  Tensor rois;
  std::optional<Tensor> levels;
  Tensor placed;
};

inline Problem make_problem(
    const std::vector<Tensor>& maps, const Tensor& rois, const std::optional<Tensor>& levels,
    const std::vector<double>& scales, int64_t sampling_ratio, bool aligned,
    double canonical_box_size, int64_t canonical_level, const Tensor& pooled) {
  check_roi_align(maps, rois, levels, scales, sampling_ratio, canonical_level, pooled);
  STD_TORCH_CHECK(
      maps.size() <= kMaxLevels, "RoIAlign on CUDA takes up to ", kMaxLevels,
      " feature maps, but there are ", maps.size());
  constexpr int64_t kMaxInt = std::numeric_limits<int>::max();
  STD_TORCH_CHECK(
      rois.size(0) <= kMaxInt && maps[0].size(0) <= kMaxInt, "too many RoIs or images for CUDA");
  Problem problem;
  problem.rois = torch::stable::contiguous(rois);
  if (levels) problem.levels = torch::stable::contiguous(*levels);
  Args& args = problem.args;
  args.num_levels = static_cast<int>(maps.size());
  for (size_t l = 0; l < maps.size(); ++l) {
    Level& level = args.levels[l];
    // The forward kernel only reads it.
    level.map = const_cast<void*>(maps[l].const_data_ptr());
    level.height = static_cast<int>(maps[l].size(2));
    level.width = static_cast<int>(maps[l].size(3));
    level.scale = scales[l];
  }
  args.num_images = static_cast<int>(maps[0].size(0));
  args.channels = pooled.size(1);
  args.rois = problem.rois.const_data_ptr();
  args.rois_are_double = rois.scalar_type() == ScalarType::Double;
  args.num_rois = static_cast<int>(rois.size(0));
  if (problem.levels) {
    args.given_levels = static_cast<const int64_t*>(problem.levels->const_data_ptr());
  }
  args.sampling_ratio = sampling_ratio;
  args.aligned = aligned;
  args.canonical_box_size = canonical_box_size;
  args.canonical_level = static_cast<int>(canonical_level);
  args.min_level = static_cast<int>(std::lround(-std::log2(scales[0])));
  args.bins_y = static_cast<int>(pooled.size(2));
  args.bins_x = static_cast<int>(pooled.size(3));
  args.pooled = const_cast<void*>(pooled.const_data_ptr());
  problem.placed = torch::stable::new_empty(
      rois, {rois.size(0) * int64_t(sizeof(PlacedRoi<double>))}, ScalarType::Byte);
  args.placed = problem.placed.mutable_data_ptr();
  return problem;
}

/// The forward op; `launch(Element{}, args)` launches the kernels.
template <class Launch>
void forward_on_tensors(
    const std::vector<Tensor>& features, const Tensor& rois, const std::optional<Tensor>& levels,
    const std::vector<double>& scales, int64_t sampling_ratio, bool aligned,
    double canonical_box_size, int64_t canonical_level, Tensor& output, const Launch& launch) {
  std::vector<Tensor> maps;
  for (const Tensor& feature : features) maps.push_back(to_nhwc(feature));
  const Tensor target = nhwc_target(output);
  Problem problem = make_problem(
      maps, rois, levels, scales, sampling_ratio, aligned, canonical_box_size, canonical_level,
      target);
  dispatch<Half, BFloat16>(
      output.scalar_type(), [&](auto element) { launch(element, problem.args); });
  copy_back(output, target);
}

/// The backward op.
template <class Launch>
void backward_on_tensors(
    const Tensor& grad_output, const Tensor& rois, const std::optional<Tensor>& levels,
    const std::vector<double>& scales, int64_t sampling_ratio, bool aligned,
    double canonical_box_size, int64_t canonical_level, std::vector<Tensor>& grad_features,
    const Launch& launch) {
  std::vector<Tensor> targets;
  for (const Tensor& grad : grad_features) targets.push_back(nhwc_target(grad));
  const Tensor pooled = to_nhwc(grad_output);
  Problem problem = make_problem(
      targets, rois, levels, scales, sampling_ratio, aligned, canonical_box_size, canonical_level,
      pooled);
  dispatch<Half, BFloat16>(
      grad_output.scalar_type(), [&](auto element) { launch(element, problem.args); });
  for (size_t l = 0; l < targets.size(); ++l) copy_back(grad_features[l], targets[l]);
}

}  // namespace mrcnn_ext
