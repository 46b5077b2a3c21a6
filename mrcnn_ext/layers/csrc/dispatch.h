// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// From a tensor's type to a C++ type.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

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

}  // namespace mrcnn_ext
