// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// A small mask, stretched over a box of an image: which value an image's pixel gets, without a dense image.
//
// Values are those of torch's grid_sample (bilinear, zeros outside, align_corners=False) as Detectron2's
// paste_masks_in_image calls it, to the last bit: the same operations in the same order, with the fused
// multiplications that torch's vectorised CPU kernel has.
#pragma once

#include <cstdint>
#include <vector>

namespace mrcnn_ext {

/// Where the pixels [begin, end) of an image's axis fall on the same axis of a mask.
struct AxisSamples {
  // Neighbouring pixels that fall between the same two pixels of the mask: `cell` and the next one.
  struct Run {
    int begin;
    int end;
    int cell;
  };
  static constexpr int kOutside = -2;

  int begin = 0;
  int end = 0;
  std::vector<int> cell;      // -1 ... side - 1, or kOutside, where the value is 0
  std::vector<float> nearer;  // weight of pixel `cell`; NaN where there is no position
  std::vector<float> farther;  // weight of the one after it
  std::vector<Run> runs;       // of what is not outside

  /// Pixels that a box [low, high) touches, as paste_masks_in_image chooses them; none for a NaN.
  void build(float low, float high, int side, int image_side);
};

/// One mask in one image. Kept and built again for the next, for the sake of its memory.
class PastedMask {
 public:
  void build(const float* mask, int height, int width, const float* box, int image_height,
             int image_width);

  const AxisSamples& y() const { return y_; }
  const AxisSamples& x() const { return x_; }

  /// Sort cells into those whose pixels all pass `value >= threshold`, all fail, or have to be computed.
  void classify(float threshold);

  enum Class : uint8_t { kBelow, kAbove, kMixed };
  Class cell_class(int cell_y, int cell_x) const {
    return static_cast<Class>(classes_[(cell_y + 1) * (width_ + 1) + cell_x + 1]);
  }

  /// inside[y * stride_y + x * stride_x] = (value >= threshold) for the pixels of one cell, counted from
  /// its first row and column; one of the strides is 1.
  void threshold_cell(
      const AxisSamples::Run& rows, const AxisSamples::Run& columns, float threshold,
      uint8_t* inside, int64_t stride_y, int64_t stride_x) const;

  /// Any pixel of the region; NaN where it has no position in the mask.
  float value(int y, int x) const;

 private:
  const float* cell(int cell_y, int cell_x) const {
    return padded_.data() + (cell_y + 1) * stride_ + cell_x + 1;
  }

  int height_ = 0;
  int width_ = 0;
  int stride_ = 0;
  std::vector<float> padded_;  // the mask with a border of zeros
  std::vector<uint8_t> classes_;
  AxisSamples y_, x_;
};

}  // namespace mrcnn_ext
