// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
#include "bitmask_crop.h"

#include <algorithm>
#include <cmath>

namespace mrcnn_ext {
namespace {

/// The two pixels that one sample reads on one axis, with their weights.
struct Sample {
  int low;
  int high;
  float weight_low;
  float weight_high;
};

/// Sample `i` of a bin; false if it is outside. As in torchvision, to the last bit.
bool sample_at(const Axis<float>& axis, float bin_start, int64_t i, Sample& sample) {
  float position = bin_start + (float(i) + 0.5f) * axis.bin_size / float(axis.grid);
  if (!(position >= -1.0f && position <= float(axis.length))) return false;
  position = std::max(position, 0.0f);
  sample.low = static_cast<int>(position);
  if (sample.low >= axis.length - 1) {
    sample.low = axis.length - 1;
    sample.high = sample.low;
    position = float(sample.low);
  } else {
    sample.high = sample.low + 1;
  }
  sample.weight_high = position - float(sample.low);
  sample.weight_low = 1.0f - sample.weight_high;
  return true;
}

}  // namespace

BitmaskCrop::BitmaskCrop(int image_height, int image_width, int height, int width)
    : image_height_(image_height),
      image_width_(image_width),
      height_(height),
      width_(width),
      row_(static_cast<size_t>(image_width)) {}

void BitmaskCrop::run(const uint8_t* mask, const float* box, uint8_t* target) {
  std::fill_n(target, int64_t(height_) * width_, uint8_t(0));
  y_ = make_axis(box[1], box[3], 1.0f, true, height_, 0, image_height_);
  x_ = make_axis(box[0], box[2], 1.0f, true, width_, 0, image_width_);
  if (y_.grid <= 0 || x_.grid <= 0) return;
  table_y_.build(y_);
  table_x_.build(x_);
  const AxisView<float> rows = table_y_.view(), columns = table_x_.view();
  if (rows.num_pixels == 0 || columns.num_pixels == 0) return;
  const int first = columns.pixels[0], last = columns.pixels[columns.num_pixels - 1];

  // RoIAlign is separable: sums over the rows of a bin, then over their columns, give its value but for
  // rounding. Only where rounding could decide are all samples added up, in torchvision's order.
  const float samples = float(y_.grid) * float(x_.grid);
  const float doubt = 1e-5f + 5e-7f * samples;
  for (int bin_y = 0; bin_y < height_; ++bin_y) {
    std::fill(row_.begin() + first, row_.begin() + last + 1, 0.0f);
    for (int t = rows.bin_begin[bin_y]; t < rows.bin_begin[bin_y + 1]; ++t) {
      const Tap<float>& tap = rows.bin_taps[t];
      const uint8_t* pixels = mask + int64_t(rows.pixels[tap.index]) * image_width_;
      for (int x = first; x <= last; ++x) row_[x] += tap.weight * float(pixels[x]);
    }
    for (int bin_x = 0; bin_x < width_; ++bin_x) {
      float value = 0;
      for (int t = columns.bin_begin[bin_x]; t < columns.bin_begin[bin_x + 1]; ++t) {
        value += columns.bin_taps[t].weight * row_[columns.pixels[columns.bin_taps[t].index]];
      }
      if (std::fabs(value - 0.5f) <= doubt) value = exact(mask, bin_y, bin_x);
      target[int64_t(bin_y) * width_ + bin_x] = value >= 0.5f;
    }
  }
}

/// The value of a bin as torchvision adds it up. Samples outside would add zero.
float BitmaskCrop::exact(const uint8_t* mask, int bin_y, int bin_x) const {
  const float start_y = y_.start + float(bin_y) * y_.bin_size;
  const float start_x = x_.start + float(bin_x) * x_.bin_size;
  int64_t y_begin, y_end, x_begin, x_end;
  sample_range(y_, start_y, y_begin, y_end);
  sample_range(x_, start_x, x_begin, x_end);
  float sum = 0;
  for (int64_t i = y_begin; i < y_end; ++i) {
    Sample y;
    if (!sample_at(y_, start_y, i, y)) continue;
    const uint8_t* low = mask + int64_t(y.low) * image_width_;
    const uint8_t* high = mask + int64_t(y.high) * image_width_;
    for (int64_t j = x_begin; j < x_end; ++j) {
      Sample x;
      if (!sample_at(x_, start_x, j, x)) continue;
      sum += y.weight_low * x.weight_low * float(low[x.low]) +
             y.weight_low * x.weight_high * float(low[x.high]) +
             y.weight_high * x.weight_low * float(high[x.low]) +
             y.weight_high * x.weight_high * float(high[x.high]);
    }
  }
  return sum / float(y_.grid * x_.grid);
}

}  // namespace mrcnn_ext
