// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// What the ops of all devices ask of tensors: their C++ type, their layout.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace mrcnn_ext {

/// Call function(Element{}) with the element type of `type`; the two half types are the caller's own.
template <class Half, class BFloat16, class Function>
void dispatch(torch::headeronly::ScalarType type, const Function& function) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Float:
      return function(float{});
    case ScalarType::Double:
      return function(double{});
    case ScalarType::Half:
      return function(Half{});
    case ScalarType::BFloat16:
      return function(BFloat16{});
    default:
      STD_TORCH_CHECK(false, "RoIAlign supports float32, float64, float16 and bfloat16 only.");
  }
}

/// Whether a (N, C, H, W) tensor lies in memory as a dense (N, H, W, C). Sides of 1 have no stride.
inline bool is_nhwc(const torch::stable::Tensor& tensor) {
  const int64_t c = tensor.size(1), h = tensor.size(2), w = tensor.size(3);
  return (c == 1 || tensor.stride(1) == 1) && (w == 1 || tensor.stride(3) == c) &&
         (h == 1 || tensor.stride(2) == w * c) &&
         (tensor.size(0) == 1 || tensor.stride(0) == h * w * c);
}

}  // namespace mrcnn_ext
