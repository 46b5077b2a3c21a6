// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// What heatmap_peaks.cpp works on: the axes of a resize, and a map with its border and bounds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace mrcnn_ext {

constexpr float kA = -0.75f;  // of torch's bicubic kernel
constexpr float kOvershoot = 0.1875f;  // the most that negative weights add up to
constexpr int kLanes = 8;
constexpr int kPadding = 2;  // cells beyond the border that a patch there is made of

/// One axis of a resize. Patch i lies between cells i - 1 and i, so there is one more than cells.
class Axis {
 public:
  explicit Axis(int cells) : cells_(cells), first_(static_cast<size_t>(cells) + 2) {}

  void resize_to(int64_t pixels) {
    if (pixels == pixels_) return;
    pixels_ = pixels;
    weights_.resize(static_cast<size_t>(pixels) * 4);
    const float scale = static_cast<float>(cells_) / static_cast<float>(pixels);
    int patch = 0;
    for (int64_t i = 0; i < pixels; ++i) {
      const float source = (static_cast<float>(i) + 0.5f) * scale - 0.5f;
      const float cell = std::clamp(std::floor(source), -1.0f, static_cast<float>(cells_ - 1));
      while (patch <= static_cast<int>(cell) + 1) first_[patch++] = i;
      set_weights(source - cell, &weights_[static_cast<size_t>(i) * 4]);
    }
    while (patch <= cells_ + 1) first_[patch++] = pixels;
  }

  int64_t begin(int patch) const { return first_[patch]; }
  int64_t end(int patch) const { return first_[patch + 1]; }
  /// Of the four cells that pixel i is made of.
  const float* weights(int64_t i) const { return &weights_[static_cast<size_t>(i) * 4]; }

 private:
  static float near(float x) { return ((kA + 2) * x - (kA + 3)) * x * x + 1; }
  static float far(float x) { return ((kA * x - 5 * kA) * x + 8 * kA) * x - 4 * kA; }
  static void set_weights(float t, float* weights) {
    weights[0] = far(t + 1);
    weights[1] = near(t);
    weights[2] = near(1 - t);
    weights[3] = far(2 - t);
  }

  const int cells_;
  int64_t pixels_ = -1;
  std::vector<int64_t> first_;  // pixel of each patch
  std::vector<float> weights_;
};

/// Four cells in a row, with the weights of a pixel.
inline float weighted(const float* w, const float* cells) {
  return w[0] * cells[0] + w[1] * cells[1] + w[2] * cells[2] + w[3] * cells[3];
}

struct Extremes {
  float highest, lowest;
  bool ordered;  // no NaN
};

/// Of `count` cells, a multiple of kLanes.
inline Extremes extremes_of(const float* cells, int count) {
  float high[kLanes], low[kLanes];
  int unordered[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) high[i] = low[i] = cells[i];
  for (int x = 0; x < count; x += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      const float v = cells[x + i];
      high[i] = v > high[i] ? v : high[i];
      low[i] = v < low[i] ? v : low[i];
      unordered[i] |= v != v;
    }
  }
  return {
      *std::max_element(high, high + kLanes), *std::min_element(low, low + kLanes),
      std::none_of(unordered, unordered + kLanes, [](int x) { return x != 0; })};
}

/// A copy of one map with its border repeated beyond it, and the extremes of its rows.
class PaddedMap {
 public:
  PaddedMap(int height, int width)
      : height_(height), width_(width),
        stride_((width + 2 * kPadding + kLanes - 1) / kLanes * kLanes + kLanes),
        cells_(static_cast<size_t>(stride_) * (height + 2 * kPadding)),
        highest_(static_cast<size_t>(height) + 2),
        lowest_(static_cast<size_t>(height) + 2) {}

  /// Row -2 to height + 1; cells -2 to width + 1 of it may be read.
  const float* row(int y) const { return &cells_[offset(y)]; }
  float highest(int y) const { return highest_[y + 1]; }
  /// Cells of a row that fill whole vectors; those beyond the width repeat the last.
  int padded_width() const { return (width_ + kLanes - 1) / kLanes * kLanes; }
  /// No line of pixels between rows y - 1 and y has a pixel above this.
  float bound_of_lines(int y) const {
    const int first = std::max(y - 2, 0), last = std::min(y + 1, height_ - 1);
    float high = highest(first), low = lowest_[first + 1];
    for (int i = first + 1; i <= last; ++i) {
      high = std::max(high, highest(i));
      low = std::min(low, lowest_[i + 1]);
    }
    // Once along each axis, the second time from what is higher and lower by the first
    return high + kOvershoot * (2 + 2 * kOvershoot) * (high - low);
  }
  /// No cell of row y has a bound above this.
  float bound_of_row(int y) const {
    const float* high = &highest_[y];
    const float* low = &lowest_[y];
    const float span = std::max({high[0], high[1], high[2]}) - std::min({low[0], low[1], low[2]});
    return high[1] + (high[1] - low[1]) / 4 + span * 3 / 8;
  }
  /// False if there is a NaN.
  bool load(const float* map) {
    bool ordered = true;
    for (int y = 0; y < height_; ++y) {
      ordered &= load_row(y, map + static_cast<int64_t>(y) * width_);
    }
    const size_t bytes = static_cast<size_t>(stride_) * sizeof(float);
    for (int i = 1; i <= kPadding; ++i) {
      std::memcpy(writable(-i) - kPadding, row(0) - kPadding, bytes);
      std::memcpy(writable(height_ - 1 + i) - kPadding, row(height_ - 1) - kPadding, bytes);
    }
    highest_[0] = highest_[1], highest_[height_ + 1] = highest_[height_];
    lowest_[0] = lowest_[1], lowest_[height_ + 1] = lowest_[height_];
    return ordered;
  }

 private:
  size_t offset(int y) const { return static_cast<size_t>(y + kPadding) * stride_ + kPadding; }
  float* writable(int y) { return &cells_[offset(y)]; }

  bool load_row(int y, const float* source) {
    float* target = writable(y);
    std::memcpy(target, source, static_cast<size_t>(width_) * sizeof(float));
    // The border's last cell beyond it fills whole vectors, and is what patches there are made of.
    for (int i = 1; i <= kPadding; ++i) target[-i] = source[0];
    const int padded = padded_width();
    for (int x = width_; x < padded + kPadding; ++x) target[x] = source[width_ - 1];
    const Extremes extremes = extremes_of(target, padded);
    highest_[y + 1] = extremes.highest;
    lowest_[y + 1] = extremes.lowest;
    return extremes.ordered;
  }

  const int height_, width_, stride_;
  std::vector<float> cells_;
  std::vector<float> highest_, lowest_;  // of rows -1 to height
};

}  // namespace mrcnn_ext
