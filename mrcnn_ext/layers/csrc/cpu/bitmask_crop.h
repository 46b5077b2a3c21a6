// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// A box of a full mask on a small grid: torchvision's RoIAlign (aligned, as many samples as pixels) of
// the mask, at least one half. The same bits, without computing all samples.
#pragma once

#include <cstdint>
#include <vector>

#include "../roi_align_geometry.h"
#include "roi_align_plan.h"

namespace mrcnn_ext {

/// Not to be shared between threads.
class BitmaskCrop {
 public:
  BitmaskCrop(int image_height, int image_width, int height, int width);

  /// Write (height, width) bytes of 0 and 1 for a box (x0, y0, x1, y1), all finite, of an
  /// (image_height, image_width) mask of such bytes.
  void run(const uint8_t* mask, const float* box, uint8_t* target);

 private:
  float exact(const uint8_t* mask, int bin_y, int bin_x) const;

  int image_height_, image_width_, height_, width_;
  Axis<float> y_{}, x_{};
  AxisTable<float> table_y_, table_x_;
  std::vector<float> row_;  // weighted sum of the rows of a bin, by column
};

}  // namespace mrcnn_ext
