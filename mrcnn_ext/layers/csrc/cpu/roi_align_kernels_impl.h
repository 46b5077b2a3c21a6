// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// RoIAlign for one instruction set: see simd.h for how this is included, roi_align_kernels.h for what
// the functions do.

namespace {

#include "simd.h"

template <class T>
int64_t forward_scratch(int bins_y, int bins_x, int64_t channels) {
  return int64_t(bins_y) * bins_x * channels + bins_x * block_size<T>();
}

/// Cells of a RoI as (h, w, C). Pixels are read row by row, each once and in the order they are stored;
/// what a row gives is added to the one or two rows of cells it belongs to.
template <class Element, class T>
MRCNN_EXT_INLINE void pool(
    const RoiView<T>& roi, const Element* map, int64_t map_width, int64_t channels, T* cells,
    T* merged) {
  constexpr int kBlock = block_size<T>();
  const AxisView<T>& y = roi.y;
  const AxisView<T>& x = roi.x;
  const int64_t row_size = x.num_bins * channels;
  for (int bin_y = 0; bin_y < y.num_bins; ++bin_y) {
    if (y.bin_begin[bin_y] < y.bin_begin[bin_y + 1]) continue;
    __builtin_memset(cells + bin_y * row_size, 0, uint64_t(row_size) * sizeof(T));
  }
  for (int row = 0; row < y.num_pixels; ++row) {
    const Element* pixels = map + int64_t(y.pixels[row]) * map_width * channels;
    const int next = row + 1 < y.num_pixels ? row + 1 : row;
    const Element* next_pixels = map + int64_t(y.pixels[next]) * map_width * channels;
    for (int64_t c = 0; c < channels; c += kBlock) {
      const int width = int(channels - c < kBlock ? channels - c : kBlock);
      for (int bin_x = 0; bin_x < x.num_bins; ++bin_x) {
        const int begin = x.bin_begin[bin_x];
        combine<false>(
            x.bin_taps + begin, x.bin_begin[bin_x + 1] - begin,
            [&](int32_t p) { return pixels + x.pixels[p] * channels + c; },
            merged + bin_x * kBlock, width);
      }
      for (int p = 0; p < x.num_pixels; ++p) {
        prefetch(next_pixels + x.pixels[p] * channels + c, width);
      }
      for (int32_t t = y.pixel_begin[row]; t < y.pixel_begin[row + 1]; ++t) {
        const Tap<T>& tap = y.pixel_taps[t];
        const bool first = y.bin_taps[y.bin_begin[tap.index]].index == row;
        T* target = cells + tap.index * row_size + c;
        for (int bin_x = 0; bin_x < x.num_bins; ++bin_x, target += channels) {
          const auto source = [&](int32_t) { return merged + bin_x * kBlock; };
          if (first) {
            combine<false>(&tap, 1, source, target, width);
          } else {
            combine<true>(&tap, 1, source, target, width);
          }
        }
      }
    }
  }
}

template <class Element>
void forward(
    const RoiView<accumulator_t<Element>>& roi, const Element* map, int64_t map_width,
    int64_t channels, Element* output, bool output_channels_last,
    accumulator_t<Element>* scratch) {
  const int64_t cells = int64_t(roi.y.num_bins) * roi.x.num_bins;
  pool(roi, map, map_width, channels, scratch, scratch + cells * channels);
  if (output_channels_last) {
    convert_uncached(scratch, output, cells * channels);
    finish_uncached_stores();
  } else {
    transpose(scratch, channels, cells, channels, output, cells);
  }
}

template <class T>
int64_t backward_scratch(int bins_y, int bins_x) {
  return (int64_t(bins_y) + 1) * bins_x * block_size<T>();
}

/// Add what rows [first, last) of a RoI's pixels get to the band.
template <class Element, class T>
MRCNN_EXT_INLINE void backward_rows(
    const RoiView<T>& roi, const Band& band, int first, int last, const Element* grad,
    int64_t grad_stride, T* sums, T* merged) {
  constexpr int kBlock = block_size<T>();
  const AxisView<T>& y = roi.y;
  const AxisView<T>& x = roi.x;
  for (int row = first; row < last; ++row) {
    const Tap<T>* taps_y = y.pixel_taps + y.pixel_begin[row];
    const int num_taps_y = y.pixel_begin[row + 1] - y.pixel_begin[row];
    for (int bin_x = 0; bin_x < x.num_bins; ++bin_x) {
      combine<false>(
          taps_y, num_taps_y,
          [&](int32_t bin_y) { return grad + (int64_t(bin_y) * x.num_bins + bin_x) * grad_stride; },
          merged + bin_x * kBlock, band.width);
    }
    T* sums_row = sums + (y.pixels[row] - band.row_begin) * band.map_width * kBlock;
    for (int p = 0; p < x.num_pixels; ++p) {
      combine<true>(
          x.pixel_taps + x.pixel_begin[p], x.pixel_begin[p + 1] - x.pixel_begin[p],
          [&](int32_t bin_x) { return merged + bin_x * kBlock; },
          sums_row + int64_t(x.pixels[p]) * kBlock, band.width);
    }
  }
}

template <class Element, class T>
MRCNN_EXT_INLINE void write_band(
    const Band& band, int64_t channels, const T* sums, Element* grad_map, bool channels_last) {
  constexpr int kBlock = block_size<T>();
  const int64_t begin = band.row_begin * band.map_width;
  const int64_t pixels = (band.row_end - band.row_begin) * band.map_width;
  if (channels_last) {
    for (int64_t p = 0; p < pixels; ++p) {
      convert_uncached(
          sums + p * kBlock, grad_map + (begin + p) * channels + band.channel, band.width);
    }
    finish_uncached_stores();
  } else {
    const int64_t plane = band.map_height * band.map_width;
    transpose(sums, kBlock, pixels, band.width, grad_map + band.channel * plane + begin, plane);
  }
}

template <class Element>
void backward(
    const RoiView<accumulator_t<Element>>* const* rois, int64_t num_rois, const Band& band,
    int64_t channels, const Element* grad_output, bool output_channels_last, Element* grad_map,
    bool map_channels_last, accumulator_t<Element>* scratch) {
  using T = accumulator_t<Element>;
  constexpr int kBlock = block_size<T>();
  const int64_t size = (band.row_end - band.row_begin) * band.map_width * kBlock;
  T* sums = scratch;
  __builtin_memset(sums, 0, uint64_t(size) * sizeof(T));
  for (int64_t i = 0; i < num_rois; ++i) {
    const RoiView<T>& roi = *rois[i];
    int first = 0, last = roi.y.num_pixels;
    while (first < last && roi.y.pixels[first] < band.row_begin) ++first;
    while (first < last && roi.y.pixels[last - 1] >= band.row_end) --last;
    if (first == last) continue;
    const int64_t cells = int64_t(roi.y.num_bins) * roi.x.num_bins;
    T* merged = sums + size;
    const Element* grad = grad_output + roi.index * cells * channels;
    if (output_channels_last) {
      backward_rows(roi, band, first, last, grad + band.channel, channels, sums, merged);
    } else {
      T* transposed = merged + int64_t(roi.x.num_bins) * kBlock;
      transpose(grad + band.channel * cells, cells, band.width, cells, transposed, kBlock);
      backward_rows(roi, band, first, last, transposed, kBlock, sums, merged);
    }
  }
  write_band(band, channels, sums, grad_map, map_channels_last);
}

template <class Element>
void to_channels_last(
    const Element* source, Element* target, int64_t channels, int64_t pixels, int64_t begin,
    int64_t end) {
  transpose(source + begin, pixels, channels, end - begin, target + begin * channels, channels);
}

template <class Element>
RoiAlignKernels<Element> kernels() {
  using T = accumulator_t<Element>;
  return {block_size<T>(), forward_scratch<T>, forward<Element>, backward_scratch<T>,
          backward<Element>, to_channels_last<Element>};
}

}  // namespace

InstructionSet instruction_set() {
  return {MRCNN_EXT_SET_NAME, kernels<float>(), kernels<double>(), kernels<Half>(),
          kernels<BFloat16>()};
}
