// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// The inner loops of pasting masks, which exist once per instruction set, and the choice between them.
//
// All of them repeat the float32 arithmetic of ATen's grid_sample operation by operation, so that the
// same pixels come out. `fused` says which arithmetic that is: ATen's vectorised code has its products
// and sums contracted by the compiler, ATen's code for old processors has not.
#pragma once

#include <cstdint>

namespace mrcnn_ext {

/// Arrays are read and written in whole blocks: they have room for them, and beyond `count` there may be
/// anything (but for sample_axis, which writes `count` values).
constexpr int kBlock = 16;

constexpr int whole_blocks(int count) { return (count + kBlock - 1) / kBlock * kBlock; }

/// In place of a cell's index: the pixel lies beyond the mask and gets 0, or nowhere and gets NaN.
constexpr int32_t kOutside = -2;
constexpr int32_t kNowhere = -3;

/// What the pixels of a cell have in common: all below the threshold, none, or unknown.
enum CellClass : uint8_t { kBelow = 0, kAbove = 1, kMixed = 2 };

/// One axis of a box: where its pixels fall in the mask.
struct AxisGeometry {
  float low;   // sides of the box
  float high;
  int cells;   // side of the mask
  int begin;   // first pixel
  int count;   // of pixels
};

/// A strip of pixels of one row or column: value = sum over the four corners of
/// corner[c][i] * (along[c][i] * across[c]), added up in this order.
struct Strip {
  const float* corner[4];
  const float* along[4];
  float across[4];
  int count;
};

struct MaskKernels {
  /// For each pixel, its cell (-1 to cells - 1, kOutside or kNowhere), the weight of the cell's first
  /// corner and that of its second.
  void (*sample_axis)(
      const AxisGeometry& axis, bool fused, int32_t* cell, float* first, float* second);
  /// The largest magnitude; infinite or NaN if one of the values is.
  float (*largest)(const float* values, int64_t count);
  /// The class of `count` cells between two neighbouring lines of the mask, of count + 1 values each.
  /// `low` and `high` are the threshold with a margin; NaN makes all cells kMixed.
  void (*classify)(
      const float* line, const float* next, int count, float low, float high, uint8_t* classes);
  /// Whether each pixel's value reaches the threshold, as 0 or 1.
  void (*compare)(const Strip& strip, float threshold, bool fused, uint8_t* reached);
};

namespace generic {
MaskKernels mask_kernels();
}
#if defined(__x86_64__)
namespace avx2 {
MaskKernels mask_kernels();
}
namespace avx512 {
MaskKernels mask_kernels();
}
#endif

/// Those of the instruction set that RoIAlign uses, too.
const MaskKernels& active_mask_kernels();

}  // namespace mrcnn_ext
