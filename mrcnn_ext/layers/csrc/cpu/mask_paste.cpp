// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
#include "mask_paste.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "roi_align_kernels.h"

namespace mrcnn_ext {
namespace {

/// Pixels between the same four mask pixels, lines by lines: columns if `lines_are_columns`, else rows.
struct PixelBlock {
  float corners[4];  // upper left, upper right, lower left, lower right
  const float* line_nearer;  // weights of each line ...
  const float* line_farther;
  int num_lines;
  const float* nearer;  // ... and along it
  const float* farther;
  int length;
  bool lines_are_columns;
};

using ThresholdBlock = void (*)(
    const PixelBlock& block, float threshold, uint8_t* inside, int64_t line_stride);

// Upper left, upper right, lower left, lower right, each added by a fused multiplication: torch's order.
inline __attribute__((always_inline)) float interpolate(
    const float* corners, float upper, float lower, float left, float right) {
  const float first = corners[0] * (upper * left);
  const float second = __builtin_fmaf(corners[1], upper * right, first);
  const float third = __builtin_fmaf(corners[2], lower * left, second);
  return __builtin_fmaf(corners[3], lower * right, third);
}

inline __attribute__((always_inline)) void threshold_block_inline(
    const PixelBlock& block, float threshold, uint8_t* inside, int64_t line_stride) {
  for (int line = 0; line < block.num_lines; ++line) {
    const float nearer = block.line_nearer[line], farther = block.line_farther[line];
    uint8_t* target = inside + line * line_stride;
    if (block.lines_are_columns) {
      for (int i = 0; i < block.length; ++i) {
        target[i] = interpolate(block.corners, block.nearer[i], block.farther[i], nearer, farther) >=
                    threshold;
      }
    } else {
      for (int i = 0; i < block.length; ++i) {
        target[i] = interpolate(block.corners, nearer, farther, block.nearer[i], block.farther[i]) >=
                    threshold;
      }
    }
  }
}

// Without the instruction, each fused multiplication is a call to the C library: slow, and as exact.
void threshold_block_generic(
    const PixelBlock& block, float threshold, uint8_t* inside, int64_t line_stride) {
  threshold_block_inline(block, threshold, inside, line_stride);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void threshold_block_avx2(
    const PixelBlock& block, float threshold, uint8_t* inside, int64_t line_stride) {
  threshold_block_inline(block, threshold, inside, line_stride);
}
#endif

ThresholdBlock choose() {
#if defined(__x86_64__)
  if (std::strcmp(active_instruction_set().name, "generic") != 0) return threshold_block_avx2;
#endif
  return threshold_block_generic;
}

}  // namespace

void AxisSamples::build(float low, float high, int side, int image_side) {
  runs.clear();
  begin = end = 0;
  const float first = std::max(std::floor(low) - 1.0f, 0.0f);
  const float last = std::min(std::ceil(high) + 1.0f, static_cast<float>(image_side));
  // Written such that NaN fails.
  if (!(std::isnan(low) || std::isnan(high)) && first < last) {
    begin = static_cast<int>(first);
    end = static_cast<int>(last);
  }
  const size_t count = static_cast<size_t>(end - begin);
  cell.resize(count);
  nearer.resize(count);
  farther.resize(count);
  const float length = high - low;
  const float half_side = static_cast<float>(side) / 2;
  for (int pixel = begin; pixel < end; ++pixel) {
    const int i = pixel - begin;
    const float normalised = (static_cast<float>(pixel) + 0.5f - low) / length * 2.0f - 1.0f;
    const float position = __builtin_fmaf(normalised + 1.0f, half_side, -0.5f);
    const float floor = std::floor(position);
    farther[i] = position - floor;
    nearer[i] = 1.0f - farther[i];
    const bool inside = floor >= -1.0f && floor <= static_cast<float>(side - 1);
    cell[i] = inside ? static_cast<int>(floor) : kOutside;
    if (!inside) continue;
    if (!runs.empty() && runs.back().end == pixel && runs.back().cell == cell[i]) {
      runs.back().end = pixel + 1;
    } else {
      runs.push_back({pixel, pixel + 1, cell[i]});
    }
  }
}

void PastedMask::build(
    const float* mask, int height, int width, const float* box, int image_height,
    int image_width) {
  height_ = height;
  width_ = width;
  stride_ = width + 2;
  padded_.assign(static_cast<size_t>(height + 2) * stride_, 0.0f);
  for (int row = 0; row < height; ++row) {
    std::copy_n(mask + int64_t(row) * width, width, padded_.data() + (row + 1) * stride_ + 1);
  }
  x_.build(box[0], box[2], width, image_width);
  y_.build(box[1], box[3], height, image_height);
}

void PastedMask::classify(float threshold) {
  classes_.resize(static_cast<size_t>(height_ + 1) * (width_ + 1));
  for (int cell_y = -1; cell_y < height_; ++cell_y) {
    for (int cell_x = -1; cell_x < width_; ++cell_x) {
      const float* upper = cell(cell_y, cell_x);
      const float* lower = upper + stride_;
      const float low = std::min(std::min(upper[0], upper[1]), std::min(lower[0], lower[1]));
      const float high = std::max(std::max(upper[0], upper[1]), std::max(lower[0], lower[1]));
      // Weights sum to 1 up to rounding. A NaN or infinity among the four makes the sum one as well.
      const float magnitude = std::max(std::fabs(low), std::fabs(high));
      const float margin = 1e-5f * (1.0f + magnitude);
      const float sum = upper[0] + upper[1] + lower[0] + lower[1];
      Class found = kMixed;
      if (std::isfinite(sum) && high < threshold - margin) found = kBelow;
      if (std::isfinite(sum) && low >= threshold + margin) found = kAbove;
      classes_[(cell_y + 1) * (width_ + 1) + cell_x + 1] = found;
    }
  }
}

void PastedMask::threshold_cell(
    const AxisSamples::Run& rows, const AxisSamples::Run& columns, float threshold,
    uint8_t* inside, int64_t stride_y, int64_t stride_x) const {
  static const ThresholdBlock function = choose();
  const float* upper = cell(rows.cell, columns.cell);
  const float* lower = upper + stride_;
  const float* y_nearer = y_.nearer.data() + (rows.begin - y_.begin);
  const float* y_farther = y_.farther.data() + (rows.begin - y_.begin);
  const float* x_nearer = x_.nearer.data() + (columns.begin - x_.begin);
  const float* x_farther = x_.farther.data() + (columns.begin - x_.begin);
  const int height = rows.end - rows.begin, width = columns.end - columns.begin;
  PixelBlock block{{upper[0], upper[1], lower[0], lower[1]},
                   x_nearer, x_farther, width, y_nearer, y_farther, height, true};
  if (stride_x == 1) {
    block = {{upper[0], upper[1], lower[0], lower[1]},
             y_nearer, y_farther, height, x_nearer, x_farther, width, false};
  }
  function(block, threshold, inside, stride_x == 1 ? stride_y : stride_x);
}

float PastedMask::value(int y, int x) const {
  const int i = y - y_.begin, j = x - x_.begin;
  // A weight that is NaN makes the sum NaN, outside of the mask too, where it multiplies zeros.
  if (std::isnan(y_.farther[i]) || std::isnan(x_.farther[j])) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  if (y_.cell[i] == AxisSamples::kOutside || x_.cell[j] == AxisSamples::kOutside) return 0;
  const float* upper = cell(y_.cell[i], x_.cell[j]);
  const float corners[4] = {upper[0], upper[1], upper[stride_], upper[stride_ + 1]};
  return interpolate(corners, y_.nearer[i], y_.farther[i], x_.nearer[j], x_.farther[j]);
}

}  // namespace mrcnn_ext
