// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// Where RoIAlign samples and with which weights: the arithmetic that the CPU and CUDA kernels share.
//
// The average of bilinear samples on a regular grid is separable: sample (i, j) of a cell reads rows
// with weights that depend on i alone and columns with weights that depend on j alone, and a sample
// that is outside on one axis counts as zero for all j. So each axis is a small sparse matrix
// A (bins x pixels), and a RoI's output is A_y * F * A_x^T, its gradient A_y^T * G * A_x.
// The operations and their order are torchvision's, so that positions agree to the last bit.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define MRCNN_EXT_HD __host__ __device__ inline
#else
#define MRCNN_EXT_HD inline
#endif

namespace mrcnn_ext {

// The overloads for float: without std, C's functions for double would be taken, and a level would
// not be the one that Detectron2 computes.
using std::ceil;
using std::fabs;
using std::floor;
using std::log2;
using std::sqrt;

/// Type of coordinates, weights and sums for an element type.
template <class Element>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class Element>
using accumulator_t = typename Accumulator<Element>::type;

template <class T>
MRCNN_EXT_HD T clamp(T value, T low, T high) {
  return value < low ? low : (value > high ? high : value);
}

/// As clamp, but what is not a number becomes the low end.
template <class T>
MRCNN_EXT_HD T clamp_number(T value, T low, T high) {
  return value >= low ? (value > high ? high : value) : low;
}

/// Whether all of (batch index, x0, y0, x1, y1) are finite.
template <class T>
MRCNN_EXT_HD bool roi_is_finite(const T* roi) {
  for (int i = 0; i < 5; ++i) {
    if (!(roi[i] - roi[i] == T(0))) return false;
  }
  return true;
}

/// Index of the image, or -1 if there is none with that number.
template <class T>
MRCNN_EXT_HD int64_t roi_image(const T* roi, int64_t num_images) {
  return roi[0] >= T(0) && roi[0] < T(num_images) ? int64_t(roi[0]) : -1;
}

/// Level of a box (FPN, equation 1; Detectron2's assign_boxes_to_levels), as an index into the
/// feature maps; -1 for a box of negative or undefined area, which Detectron2 gives no level.
template <class T>
MRCNN_EXT_HD int pyramid_level(
    const T* roi, int num_levels, int min_level, T canonical_box_size, int canonical_level) {
  const T size = sqrt((roi[3] - roi[1]) * (roi[4] - roi[2]));
#ifdef __CUDA_ARCH__
  // torch divides by a constant on CUDA by multiplying with its reciprocal.
  const T relative = size * (T(1) / canonical_box_size);
#else
  const T relative = size / canonical_box_size;
#endif
  const T level = floor(T(canonical_level) + log2(relative + T(1e-8)));
  if (!(level == level)) return -1;
  return int(clamp(level, T(min_level), T(min_level + num_levels - 1))) - min_level;
}

/// One axis of one RoI: `bins` cells of `grid` samples each over a row of `length` pixels.
template <class T>
struct Axis {
  T start;
  T bin_size;
  int64_t grid;
  int bins;
  int length;
};

template <class T>
MRCNN_EXT_HD Axis<T> make_axis(
    T low, T high, T scale, bool aligned, int bins, int64_t sampling_ratio, int length) {
  // Beyond this, floats do not resolve pixels any more; without it, the grid would not fit an int.
  const T limit = T(1 << 23);
  const T offset = aligned ? T(0.5) : T(0);
  const T start = clamp_number(low * scale - offset, -limit, limit);
  const T end = clamp_number(high * scale - offset, -limit, limit);
  T size = end - start;
  if (!aligned && size < T(1)) size = T(1);
  Axis<T> axis;
  axis.start = start;
  axis.bin_size = size / T(bins);
  axis.grid = sampling_ratio > 0 ? sampling_ratio : int64_t(ceil(size / T(bins)));
  axis.bins = bins;
  axis.length = length;
  return axis;
}

/// Pixels that neighbouring bins share, at most. It is two; the rest is room for rounding, which
/// moves the samples of boxes that reach millions of pixels outside.
constexpr int kMaxSharedPixels = 8;

/// Pixels of all bins of an axis, at most.
MRCNN_EXT_HD int64_t max_taps(int bins, int length) {
  return int64_t(length) + int64_t(kMaxSharedPixels) * bins;
}

/// First and last + 1 sample of a bin that can lie in the image; no sample outside of it does.
/// Without it a huge box would cost its samples, most of which are outside.
template <class T>
MRCNN_EXT_HD void sample_range(const Axis<T>& axis, T bin_start, int64_t& begin, int64_t& end) {
  begin = 0;
  end = axis.grid;
  if (axis.grid <= 16 || axis.bin_size == T(0)) return;
  const double step = double(axis.bin_size) / double(axis.grid);
  double first = (-1.0 - double(bin_start)) / step - 0.5;
  double last = (double(axis.length) - double(bin_start)) / step - 0.5;
  if (first > last) {
    const double swap = first;
    first = last;
    last = swap;
  }
  // Rounding of the sample positions, in samples.
  const double magnitude = fabs(double(bin_start)) + fabs(double(axis.bin_size));
  const double margin = 2.0 + 5e-7 * magnitude / fabs(step);
  begin = int64_t(clamp(first - margin, 0.0, double(axis.grid)));
  end = int64_t(clamp(last + margin + 1.0, 0.0, double(axis.grid)));
}

/// Call `add(pixel, weight)` for the samples of a bin, in the order of their position; the weights of
/// a pixel are to be added up.
template <class T, class Add>
MRCNN_EXT_HD void visit_bin(const Axis<T>& axis, int bin, const Add& add) {
  const T bin_start = axis.start + T(bin) * axis.bin_size;
  const T share = axis.grid > 0 ? T(1) / T(axis.grid) : T(0);
  int64_t begin, end;
  sample_range(axis, bin_start, begin, end);
  for (int64_t k = begin; k < end; ++k) {
    // An inverted box runs backwards.
    const int64_t i = axis.bin_size < T(0) ? begin + end - 1 - k : k;
    T position = bin_start + (T(i) + T(0.5)) * axis.bin_size / T(axis.grid);
    if (!(position >= T(-1) && position <= T(axis.length))) continue;
    if (position < T(0)) position = T(0);
    const int pixel = int(position);
    if (pixel >= axis.length - 1) {
      add(axis.length - 1, share);
      continue;
    }
    const T fraction = position - T(pixel);
    add(pixel, (T(1) - fraction) * share);
    add(pixel + 1, fraction * share);
  }
}

}  // namespace mrcnn_ext
