// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// What a RoI needs, worked out once for all channels: its image, its level, its two sparse axes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../roi_align_geometry.h"
#include "roi_align_kernels.h"

namespace mrcnn_ext {

/// Owner of the arrays that an AxisView points to. Buffers are kept when it is built again.
template <class T>
class AxisTable {
 public:
  void build(const Axis<T>& axis) {
    bins_ = axis.bins;
    collect_taps(axis);
    collect_pixels(axis.bin_size < T(0));
    transpose();
  }

  AxisView<T> view() const {
    return {bins_,
            static_cast<int>(pixels_.size()),
            pixels_.data(),
            bin_begin_.data(),
            bin_taps_.data(),
            pixel_begin_.data(),
            pixel_taps_.data()};
  }

 private:
  // Samples come in the order of their position, so a pixel that is there already is among the last two.
  void collect_taps(const Axis<T>& axis) {
    bin_taps_.clear();
    bin_begin_.assign(axis.bins + 1, 0);
    for (int bin = 0; bin < axis.bins; ++bin) {
      const size_t first = bin_taps_.size();
      visit_bin(axis, bin, [&](int pixel, T weight) {
        for (size_t k = bin_taps_.size(); k > first && k + 2 > bin_taps_.size(); --k) {
          if (bin_taps_[k - 1].index == pixel) {
            bin_taps_[k - 1].weight += weight;
            return;
          }
        }
        if (weight != T(0)) bin_taps_.push_back({pixel, weight});
      });
      bin_begin_[bin + 1] = static_cast<int32_t>(bin_taps_.size());
    }
  }

  // The pixels in use, in ascending order; taps then refer to them by their place in that list.
  void collect_pixels(bool descending) {
    pixels_.clear();
    bool sorted = true;
    for (int k = 0; k < bins_; ++k) {
      const int bin = descending ? bins_ - 1 - k : k;
      for (int32_t t = bin_begin_[bin]; t < bin_begin_[bin + 1]; ++t) {
        const int32_t pixel = bin_taps_[t].index;
        if (pixels_.empty() || pixel > pixels_.back()) {
          pixels_.push_back(pixel);
        } else if (
            !sorted || !std::binary_search(pixels_.begin(), pixels_.end(), pixel)) {
          // Rounding put the first sample of a bin before the last of the one before.
          pixels_.push_back(pixel);
          sorted = false;
        }
      }
    }
    if (!sorted) {
      std::sort(pixels_.begin(), pixels_.end());
      pixels_.erase(std::unique(pixels_.begin(), pixels_.end()), pixels_.end());
    }
    for (Tap<T>& tap : bin_taps_) {
      const auto place = std::lower_bound(pixels_.begin(), pixels_.end(), tap.index);
      tap.index = static_cast<int32_t>(place - pixels_.begin());
    }
  }

  void transpose() {
    pixel_begin_.assign(pixels_.size() + 1, 0);
    for (const Tap<T>& tap : bin_taps_) ++pixel_begin_[tap.index + 1];
    for (size_t p = 0; p < pixels_.size(); ++p) pixel_begin_[p + 1] += pixel_begin_[p];
    pixel_taps_.resize(bin_taps_.size());
    next_.assign(pixel_begin_.begin(), pixel_begin_.end());
    for (int bin = 0; bin < bins_; ++bin) {
      for (int32_t t = bin_begin_[bin]; t < bin_begin_[bin + 1]; ++t) {
        pixel_taps_[next_[bin_taps_[t].index]++] = {bin, bin_taps_[t].weight};
      }
    }
  }

  int bins_ = 0;
  std::vector<int32_t> pixels_, bin_begin_, pixel_begin_, next_;
  std::vector<Tap<T>> bin_taps_, pixel_taps_;
};

/// One feature map as the plan sees it.
struct LevelShape {
  int height;
  int width;
  double scale;
};

/// The arguments of the op that decide where RoIs sample.
struct Geometry {
  std::vector<LevelShape> levels;
  int64_t num_images = 0;
  int64_t num_rois = 0;
  const void* rois = nullptr;  // (num_rois, 5)
  bool rois_are_double = false;
  const int64_t* given_levels = nullptr;
  int64_t sampling_ratio = 0;
  bool aligned = true;
  double canonical_box_size = 224;
  int canonical_level = 4;
  int min_level = 0;
  int bins_y = 0;
  int bins_x = 0;
};

/// Where a RoI belongs. `level` is -1 for one that reads nothing.
struct Placement {
  int64_t image;
  int level;
  bool bad_image;
  float y;  // on its feature map; for locality only
  float x;
};

Placement place_roi(const Geometry& geometry, int64_t index);

/// RoIs that read something, ordered by image, level, and then such that neighbours are near.
std::vector<int64_t> locality_order(const std::vector<Placement>& placements);

template <class T>
void build_axes(
    const Geometry& geometry, int64_t index, int level, AxisTable<T>& y, AxisTable<T>& x);

}  // namespace mrcnn_ext
