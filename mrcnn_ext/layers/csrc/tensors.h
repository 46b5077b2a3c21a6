// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// What the ops of all devices ask of tensors: their C++ type, their shape, their layout. Kernels read and
// write without looking, so every op checks what it is handed, also by torch.ops.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <string>

namespace mrcnn_ext {

constexpr int64_t kAny = -1;

/// Raise unless a tensor has this type and shape, of which kAny is any size.
inline void check_tensor(
    const torch::stable::Tensor& tensor, const char* name, torch::headeronly::ScalarType type,
    std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(tensor.defined(), name, " is undefined");
  STD_TORCH_CHECK(
      tensor.scalar_type() == type, name, " is ", torch::headeronly::toString(tensor.scalar_type()),
      ", expected ", torch::headeronly::toString(type));
  bool fits = tensor.dim() == static_cast<int64_t>(shape.size());
  std::string expected, actual;
  int64_t i = 0;
  for (const int64_t size : shape) {
    fits = fits && (size == kAny || tensor.size(i) == size);
    ++i;
  }
  if (fits) return;
  for (const int64_t size : shape) expected += (size == kAny ? "*" : std::to_string(size)) + ", ";
  for (i = 0; i < tensor.dim(); ++i) actual += std::to_string(tensor.size(i)) + ", ";
  STD_TORCH_CHECK(false, name, " has shape (", actual, "), expected (", expected, ")");
}

/// The same, and contiguous on the CPU.
inline void check_cpu_tensor(
    const torch::stable::Tensor& tensor, const char* name, torch::headeronly::ScalarType type,
    std::initializer_list<int64_t> shape) {
  check_tensor(tensor, name, type, shape);
  STD_TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous(), name, " must be contiguous, on the CPU");
}

/// Raise if an output shares memory with an input: what was checked there would change meanwhile.
inline void check_apart(
    const torch::stable::Tensor& output, const char* name,
    std::initializer_list<const torch::stable::Tensor*> inputs) {
  const auto begin = [](const torch::stable::Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  };
  const auto end = [&](const torch::stable::Tensor& tensor) {
    return begin(tensor) + static_cast<uintptr_t>(tensor.numel()) * tensor.element_size();
  };
  for (const torch::stable::Tensor* input : inputs) {
    STD_TORCH_CHECK(
        output.numel() == 0 || input->numel() == 0 || end(output) <= begin(*input) ||
            end(*input) <= begin(output),
        name, " shares memory with an input");
  }
}

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
