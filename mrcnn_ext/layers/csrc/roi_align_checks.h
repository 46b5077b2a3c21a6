// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// Checks of the arguments of mrcnn_ext::_roi_align_forward and _roi_align_backward, on all devices.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "tensors.h"

namespace mrcnn_ext {

// Also in layers/roi_align/checks.py and layers/checks.py.
constexpr int64_t kMaxMapSide = 1 << 23;       // float32 knows every pixel up to it
constexpr int64_t kMaxOutputSide = 1 << 15;    // cells of an output are counted in an int
constexpr int64_t kMaxSamplingRatio = 1 << 16;  // a cell costs its samples

/// `maps` are the features or their gradients, `pooled` is the output or its gradient.
inline void check_roi_align(
    const std::vector<torch::stable::Tensor>& maps, const torch::stable::Tensor& rois,
    const std::optional<torch::stable::Tensor>& levels, const std::vector<double>& scales,
    int64_t sampling_ratio, int64_t canonical_level, const torch::stable::Tensor& pooled) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(!maps.empty(), "there are no feature maps");
  STD_TORCH_CHECK(maps.size() == scales.size(), "one scale per feature map, please");
  const ScalarType rois_type =
      rois.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  check_tensor(rois, "rois", rois_type, {kAny, 5});
  const int64_t num_rois = rois.size(0);
  const ScalarType type = pooled.scalar_type();
  check_tensor(maps[0], "feature map 0", type, {kAny, kAny, kAny, kAny});
  const int64_t num_images = maps[0].size(0), channels = maps[0].size(1);
  check_tensor(pooled, "the pooled tensor", type, {num_rois, channels, kAny, kAny});
  STD_TORCH_CHECK(
      pooled.size(2) < kMaxOutputSide && pooled.size(3) < kMaxOutputSide &&
          channels <= std::numeric_limits<int>::max() / kMaxOutputSide,
      "RoIAlign writes up to 2^15 - 1 cells a side of up to 2^16 - 1 channels");
  const auto check_device = [&](const torch::stable::Tensor& tensor, const char* name) {
    STD_TORCH_CHECK(
        tensor.is_cuda() == pooled.is_cuda() && tensor.is_cpu() == pooled.is_cpu() &&
            tensor.get_device_index() == pooled.get_device_index(),
        name, " is on another device");
  };
  check_device(rois, "rois");
  for (size_t l = 0; l < maps.size(); ++l) {
    const std::string name = "feature map " + std::to_string(l);
    check_tensor(maps[l], name.c_str(), type, {num_images, channels, kAny, kAny});
    check_device(maps[l], name.c_str());
    STD_TORCH_CHECK(
        maps[l].size(2) < kMaxMapSide && maps[l].size(3) < kMaxMapSide, name,
        " has a side of 2^23 pixels or more");
    STD_TORCH_CHECK(
        scales[l] > 0 && std::isfinite(scales[l]), "scale ", l, " is ", scales[l],
        ", expected a positive number");
  }
  if (levels) {
    check_tensor(*levels, "levels", ScalarType::Long, {num_rois});
    check_device(*levels, "levels");
  }
  STD_TORCH_CHECK(
      sampling_ratio >= 0 && sampling_ratio <= kMaxSamplingRatio, "sampling_ratio is ",
      sampling_ratio, ", expected 0 (adaptive) to ", kMaxSamplingRatio);
  STD_TORCH_CHECK(
      std::abs(static_cast<double>(canonical_level)) < kMaxMapSide, "canonical_level is ",
      canonical_level, ", expected less than 2^23");
}

}  // namespace mrcnn_ext
