// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// mrcnn_ext::_bicubic_peaks: the highest pixel of maps that are resized to their boxes, without
// resizing them. The schema is in Python (layers/heatmap_peaks).
//
// Between four cells, the resized map is a bicubic patch, and such a patch nowhere exceeds the
// greatest of its Bezier control values. Those around a cell of value v are at most
// v + |dx| / 4 + |dy| / 4 + |dxy| / 16, where dx, dy and dxy are central differences. So the four
// patches around the highest cell are resized, and then those that may exceed what was found there:
// none, if the map has one clear peak.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../tensors.h"
#include "heatmap_peaks.h"
#include "workers.h"

namespace mrcnn_ext {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMaxSide = 1 << 24;  // pixels are counted in float32
constexpr int64_t kMaxArea = 1 << 30;  // pixels around the peak are computed; also in __init__.py

/// Finds the highest pixel of maps of one size, which are resized to other sizes.
class PeakFinder {
 public:
  PeakFinder(int height, int width)
      : height_(height), width_(width), map_(height, width), x_axis_(width), y_axis_(height),
        line_(static_cast<size_t>(map_.padded_width()) + 2 * kPadding),
        flag_stride_(width + 2 + kLanes), flags_(static_cast<size_t>(height + 2) * flag_stride_),
        row_is_flagged_(static_cast<size_t>(height) + 2) {}

  void resize_to(int64_t width, int64_t height) {
    x_axis_.resize_to(width);
    y_axis_.resize_to(height);
    // With few pixels in a patch, or none, patches are dear.
    by_lines_ = width < 2 * width_ || height < 2 * height_;
  }

  void find(const float* map, int64_t* x, int64_t* y, float* value) {
    best_ = {-std::numeric_limits<float>::infinity(), 0, 0};
    if (map_.load(map)) {
      find_highest_cell();
      if (by_lines_) {
        resize_lines();
      } else {
        resize_patches();
      }
    } else {
      best_.value = std::numeric_limits<float>::quiet_NaN();
    }
    *x = best_.x;
    *y = best_.y;
    *value = best_.value;
  }

 private:
  struct Pixel {
    float value;
    int64_t x, y;
  };

  void find_highest_cell() {
    highest_y_ = 0;
    for (int y = 1; y < height_; ++y) {
      if (map_.highest(y) > map_.highest(highest_y_)) highest_y_ = y;
    }
    const float* row = map_.row(highest_y_);
    highest_x_ = static_cast<int>(std::find(row, row + width_, map_.highest(highest_y_)) - row);
  }

  // ---- Line by line: small boxes

  void resize_lines() {
    for (int y = highest_y_; y <= highest_y_ + 1; ++y) resize_lines_between_rows(y);
    for (int y = 0; y <= height_; ++y) {
      if (!is_at_highest_row(y) && map_.bound_of_lines(y) > best_.value) {
        resize_lines_between_rows(y);
      }
    }
  }

  /// The lines of pixels between rows y - 1 and y.
  void resize_lines_between_rows(int y) {
    float* line = &line_[kPadding];
    const int padded = map_.padded_width();
    const float* rows[4];
    for (int i = 0; i < 4; ++i) rows[i] = map_.row(y - 2 + i);
    for (int64_t i = y_axis_.begin(y); i < y_axis_.end(y); ++i) {
      const float* w = y_axis_.weights(i);
      for (int x = -kPadding; x < padded + kPadding; ++x) {
        line[x] = w[0] * rows[0][x] + w[1] * rows[1][x] + w[2] * rows[2][x] + w[3] * rows[3][x];
      }
      const Extremes cells = extremes_of(line, padded);
      const float bound = cells.highest + kOvershoot * (cells.highest - cells.lowest);
      if (bound >= best_.value) resize_line(line, i);
    }
  }

  void resize_line(const float* line, int64_t y) {
    for (int patch = 0; patch <= width_; ++patch) {
      const float* cells = line + patch - 2;
      for (int64_t x = x_axis_.begin(patch); x < x_axis_.end(patch); ++x) {
        const float value = weighted(x_axis_.weights(x), cells);
        if (value >= best_.value) take(value, x, y);
      }
    }
  }

  // ---- Patch by patch: large boxes

  void resize_patches() {
    for (int y = highest_y_; y <= highest_y_ + 1; ++y) {
      for (int x = highest_x_; x <= highest_x_ + 1; ++x) resize_patch(y, x);
    }
    if (flag_cells_that_may_exceed()) resize_flagged();
  }

  bool is_at_highest_row(int y) const { return y == highest_y_ || y == highest_y_ + 1; }
  bool is_around_highest_cell(int y, int x) const {
    return is_at_highest_row(y) && (x == highest_x_ || x == highest_x_ + 1);
  }

  bool flag_cells_that_may_exceed() {
    bool any = false;
    for (int y = 0; y < height_; ++y) {
      const bool flagged = map_.bound_of_row(y) > best_.value && flag_cells(y);
      row_is_flagged_[y + 1] = flagged;
      any |= flagged;
    }
    return any;
  }

  bool flag_cells(int y) {
    const float* row = map_.row(y);
    const float* above = map_.row(y - 1);
    const float* below = map_.row(y + 1);
    uint8_t* flags = flags_of(y);
    const float limit = best_.value;
    int any = 0;
    for (int x = 0; x < width_; ++x) {
      const float dx = row[x + 1] - row[x - 1];
      const float dy = below[x] - above[x];
      const float dxy = (below[x + 1] - below[x - 1]) - (above[x + 1] - above[x - 1]);
      const float bound =
          row[x] + (std::fabs(dx) + std::fabs(dy)) * 0.25f + std::fabs(dxy) * 0.0625f;
      const uint8_t flag = bound > limit;
      flags[x] = flag;
      any |= flag;
    }
    return any != 0;
  }

  /// Of the cells of row -1 to height; there are two more, which are never flagged.
  uint8_t* flags_of(int y) { return &flags_[static_cast<size_t>(y + 1) * flag_stride_ + 1]; }

  void resize_flagged() {
    for (int y = 0; y <= height_; ++y) {
      const bool above = row_is_flagged_[y], below = row_is_flagged_[y + 1];
      if (!above && !below) continue;
      const uint8_t* none = flags_of(-1);
      const uint8_t* a = above ? flags_of(y - 1) : none;
      const uint8_t* b = below ? flags_of(y) : none;
      for (int x = 0; x <= width_; ++x) {
        if ((a[x - 1] | a[x] | b[x - 1] | b[x]) != 0 && !is_around_highest_cell(y, x) &&
            bound_of_patch(y, x) > best_.value) {
          resize_patch(y, x);
        }
      }
    }
  }

  /// The greatest of the patch's control values.
  float bound_of_patch(int patch_y, int patch_x) const {
    float bound = -std::numeric_limits<float>::infinity();
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) {
        const float* above = map_.row(patch_y - 2 + i) + patch_x - 1 + j;
        const float* row = map_.row(patch_y - 1 + i) + patch_x - 1 + j;
        const float* below = map_.row(patch_y + i) + patch_x - 1 + j;
        // Towards the inside of the patch
        const float sign_x = j == 0 ? 0.25f : -0.25f, sign_y = i == 0 ? 0.25f : -0.25f;
        const float dx = (row[1] - row[-1]) * sign_x;
        const float dy = (below[0] - above[0]) * sign_y;
        const float dxy = (below[1] - below[-1] - above[1] + above[-1]) * (sign_x * sign_y);
        bound = std::max({bound, row[0] + std::max({0.0f, dx, dy, dx + dy + dxy})});
      }
    }
    return bound;
  }

  void resize_patch(int patch_y, int patch_x) {
    const int64_t begin = y_axis_.begin(patch_y), end = y_axis_.end(patch_y);
    if (begin == end) return;
    const float* rows[4];
    for (int i = 0; i < 4; ++i) rows[i] = map_.row(patch_y - 2 + i) + patch_x - 2;
    for (int64_t x = x_axis_.begin(patch_x); x < x_axis_.end(patch_x); ++x) {
      const float* w = x_axis_.weights(x);
      float column[4];
      for (int i = 0; i < 4; ++i) column[i] = weighted(w, rows[i]);
      for (int64_t y = begin; y < end; ++y) {
        const float value = weighted(y_axis_.weights(y), column);
        if (value >= best_.value) take(value, x, y);
      }
    }
  }

  /// Of equal pixels the first one, row by row.
  void take(float value, int64_t x, int64_t y) {
    const bool first = y < best_.y || (y == best_.y && x < best_.x);
    if (value > best_.value || first) best_ = {value, x, y};
  }

  const int height_, width_;
  PaddedMap map_;
  Axis x_axis_, y_axis_;
  bool by_lines_ = false;
  std::vector<float> line_;  // with the cells beyond its ends
  const int flag_stride_;
  std::vector<uint8_t> flags_;           // of cells with a bound above the best pixel
  std::vector<uint8_t> row_is_flagged_;  // of rows -1 to height; flags of others are old
  int highest_x_ = 0, highest_y_ = 0;
  Pixel best_{};
};

void check(
    const Tensor& maps, const Tensor& sizes, const Tensor& pixels, const Tensor& values) {
  check_cpu_tensor(maps, "maps", ScalarType::Float, {kAny, kAny, kAny, kAny});
  check_cpu_tensor(sizes, "sizes", ScalarType::Long, {maps.size(0), 2});
  check_cpu_tensor(pixels, "pixels", ScalarType::Long, {maps.size(0), maps.size(1), 2});
  check_cpu_tensor(values, "values", ScalarType::Float, {maps.size(0), maps.size(1)});
  STD_TORCH_CHECK(
      maps.size(2) > 0 && maps.size(2) < kMaxSide && maps.size(3) > 0 && maps.size(3) < kMaxSide,
      "maps must have sides of 1 to below 2^24 cells");
  check_apart(pixels, "pixels", {&maps, &sizes, &values});
  check_apart(values, "values", {&maps, &sizes});
}

void bicubic_peaks(const Tensor& maps, const Tensor& sizes, Tensor pixels, Tensor values) {
  check(maps, sizes, pixels, values);
  const int64_t number = maps.size(1), cells = maps.size(2) * maps.size(3);
  const float* all_maps = static_cast<const float*>(maps.const_data_ptr());
  const int64_t* all_sizes = static_cast<const int64_t*>(sizes.const_data_ptr());
  int64_t* all_pixels = static_cast<int64_t*>(pixels.mutable_data_ptr());
  float* all_values = static_cast<float*>(values.mutable_data_ptr());
  for (int64_t r = 0; r < maps.size(0); ++r) {
    const int64_t wide = all_sizes[2 * r], high = all_sizes[2 * r + 1];
    STD_TORCH_CHECK(
        wide >= 1 && wide < kMaxSide && high >= 1 && high < kMaxSide && wide * high <= kMaxArea,
        "sizes must be from 1 to below 2^24 with at most 2^30 pixels, but region ", r, " has ", wide,
        " x ", high);
  }
  const int height = static_cast<int>(maps.size(2)), width = static_cast<int>(maps.size(3));
  share_out(maps.size(0), 1, [&] {
    return [&, finder = PeakFinder(height, width)](int64_t region) mutable {
      finder.resize_to(all_sizes[region * 2], all_sizes[region * 2 + 1]);
      for (int64_t i = region * number; i < (region + 1) * number; ++i) {
        int64_t* pixel = all_pixels + i * 2;
        finder.find(all_maps + i * cells, &pixel[0], &pixel[1], &all_values[i]);
      }
    };
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_ext, CPU, m) {
  m.impl("_bicubic_peaks", TORCH_BOX(&bicubic_peaks));
}

}  // namespace mrcnn_ext
