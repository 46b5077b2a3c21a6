// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// RoIAlign for one instruction set: see simd.h for how this is included, roi_align_kernels.h for what
// the functions do.

namespace {

#include "simd.h"

template <class T>
int64_t forward_scratch(const RoiView<T>& roi) {
  return (roi.x.num_pixels + 2 * int64_t(roi.y.num_bins) * roi.x.num_bins) * block_size<T>();
}

/// One row of cells for one block of channels: rows of pixels are merged first, then columns. The
/// pixels of the next row of cells are asked for meanwhile.
template <Store kStore, class Element, class Target, class T>
MRCNN_EXT_INLINE void pool_row(
    const RoiView<T>& roi, int bin_y, const Element* map, int64_t row_size, int64_t channels,
    Target* cells, int64_t cell_stride, int width, T* merged) {
  constexpr int kBlock = block_size<T>();
  const AxisView<T>& y = roi.y;
  const AxisView<T>& x = roi.x;
  const Tap<T>* taps = y.bin_taps + y.bin_begin[bin_y];
  const int num_taps = y.bin_begin[bin_y + 1] - y.bin_begin[bin_y];
  const int next = bin_y + 1 < y.num_bins ? bin_y + 1 : bin_y;
  const Tap<T>* next_taps = y.bin_taps + y.bin_begin[next];
  const int num_next = y.bin_begin[next + 1] - y.bin_begin[next];
  for (int p = 0; p < x.num_pixels && num_taps > 0; ++p) {
    const Element* column = map + x.pixels[p] * channels;
    combine<Store::kSet>(
        taps, num_taps, [&](int32_t row) { return column + y.pixels[row] * row_size; },
        merged + p * kBlock, width);
    for (int k = 0; k < num_next; ++k) {
      prefetch(column + y.pixels[next_taps[k].index] * row_size, width);
    }
  }
  for (int bin_x = 0; bin_x < x.num_bins; ++bin_x) {
    const int begin = x.bin_begin[bin_x];
    combine<kStore>(
        x.bin_taps + begin, num_taps > 0 ? x.bin_begin[bin_x + 1] - begin : 0,
        [&](int32_t p) { return merged + p * kBlock; }, cells + bin_x * cell_stride, width);
  }
}

template <class Element>
void forward(
    const RoiView<accumulator_t<Element>>& roi, const Element* map, int64_t map_width,
    int64_t channels, Element* output, bool output_channels_last,
    accumulator_t<Element>* scratch) {
  using T = accumulator_t<Element>;
  constexpr int kBlock = block_size<T>();
  const int64_t bins_x = roi.x.num_bins;
  const int64_t cells = roi.y.num_bins * bins_x;
  const int64_t row_size = map_width * channels;
  if (output_channels_last) {
    const bool whole_vectors = uintptr_t(output) % MRCNN_EXT_VECTOR_BYTES == 0 &&
                               channels * sizeof(Element) % MRCNN_EXT_VECTOR_BYTES == 0;
    for (int bin_y = 0; bin_y < roi.y.num_bins; ++bin_y) {
      for (int64_t c = 0; c < channels; c += kBlock) {
        const int width = int(channels - c < kBlock ? channels - c : kBlock);
        Element* target = output + bin_y * bins_x * channels + c;
        if (whole_vectors) {
          pool_row<Store::kUncached>(
              roi, bin_y, map + c, row_size, channels, target, channels, width, scratch);
        } else {
          pool_row<Store::kSet>(
              roi, bin_y, map + c, row_size, channels, target, channels, width, scratch);
        }
      }
    }
    finish_uncached_stores();
    return;
  }
  T* pooled = scratch + roi.x.num_pixels * kBlock;
  T* turned = pooled + cells * kBlock;
  for (int64_t c = 0; c < channels; c += kBlock) {
    const int width = int(channels - c < kBlock ? channels - c : kBlock);
    for (int bin_y = 0; bin_y < roi.y.num_bins; ++bin_y) {
      pool_row<Store::kSet>(
          roi, bin_y, map + c, row_size, channels, pooled + bin_y * bins_x * kBlock,
          int64_t(kBlock), width, scratch);
    }
    // In the cache first: then the output is written in one run, and past the caches.
    transpose(pooled, kBlock, cells, width, turned, cells);
    convert_uncached(turned, output + c * cells, cells * width);
  }
  finish_uncached_stores();
}

template <class Element>
int64_t backward_scratch(const Band& band, int bins_y, int bins_x, bool map_channels_last) {
  constexpr int64_t kBlock = block_size<accumulator_t<Element>>();
  const int64_t pixels = (band.row_end - band.row_begin) * band.map_width;
  const int64_t sums = sums_in_place<Element>(map_channels_last) ? 0 : pixels * kBlock;
  const int64_t merged = bins_x * (band.width > kBlock ? band.width : kBlock);
  return sums + merged + int64_t(bins_y) * bins_x * kBlock;
}

/// Add what rows [first, last) of a RoI's pixels get to the band, of which `sums` is the first pixel.
template <class Element, class T>
MRCNN_EXT_INLINE void backward_rows(
    const RoiView<T>& roi, const Band& band, int width, int first, int last, const Element* grad,
    int64_t grad_stride, T* sums, int64_t sums_stride, T* merged) {
  constexpr int kBlock = block_size<T>();
  const AxisView<T>& y = roi.y;
  const AxisView<T>& x = roi.x;
  for (int row = first; row < last; ++row) {
    const Tap<T>* taps_y = y.pixel_taps + y.pixel_begin[row];
    const int num_taps_y = y.pixel_begin[row + 1] - y.pixel_begin[row];
    for (int bin_x = 0; bin_x < x.num_bins; ++bin_x) {
      combine<Store::kSet>(
          taps_y, num_taps_y,
          [&](int32_t bin_y) { return grad + (int64_t(bin_y) * x.num_bins + bin_x) * grad_stride; },
          merged + bin_x * width, width);
    }
    T* sums_row = sums + (y.pixels[row] - band.row_begin) * band.map_width * sums_stride;
    for (int p = 0; p < x.num_pixels; ++p) {
      combine<Store::kAdd>(
          x.pixel_taps + x.pixel_begin[p], x.pixel_begin[p + 1] - x.pixel_begin[p],
          [&](int32_t bin_x) { return merged + bin_x * width; },
          sums_row + int64_t(x.pixels[p]) * sums_stride, width);
    }
  }
}

/// The (C, cells) gradient of a RoI as (cells, block), where rows [first, last) of its pixels read it.
template <class Element, class T>
MRCNN_EXT_INLINE void transpose_cells(
    const RoiView<T>& roi, int first, int last, const Element* grad, int width, T* transposed) {
  const AxisView<T>& y = roi.y;
  int low = y.num_bins, high = 0;
  for (int row = first; row < last; ++row) {  // taps of a pixel ascend
    const int begin = y.pixel_taps[y.pixel_begin[row]].index;
    const int end = y.pixel_taps[y.pixel_begin[row + 1] - 1].index + 1;
    low = begin < low ? begin : low;
    high = end > high ? end : high;
  }
  const int64_t cells = int64_t(y.num_bins) * roi.x.num_bins;
  const int64_t begin = int64_t(low) * roi.x.num_bins / 8 * 8;  // whole tiles
  const int64_t tiles_end = (int64_t(high) * roi.x.num_bins + 7) / 8 * 8;
  const int64_t end = tiles_end < cells ? tiles_end : cells;
  constexpr int kBlock = block_size<T>();
  transpose(grad + begin, cells, width, end - begin, transposed + begin * kBlock, kBlock);
}

/// Add what RoIs give to a band's channels [channel, channel + width) to `sums`, a pixel every
/// `sums_stride`.
template <class Element, class T>
MRCNN_EXT_INLINE void add_rois(
    const RoiView<T>* const* rois, int64_t num_rois, const Band& band, int64_t channel, int width,
    int64_t channels, const Element* grad_output, bool output_channels_last, T* sums,
    int64_t sums_stride, T* merged) {
  constexpr int kBlock = block_size<T>();
  for (int64_t i = 0; i < num_rois; ++i) {
    const RoiView<T>& roi = *rois[i];
    int first = 0, last = roi.y.num_pixels;
    while (first < last && roi.y.pixels[first] < band.row_begin) ++first;
    while (first < last && roi.y.pixels[last - 1] >= band.row_end) --last;
    if (first == last) continue;
    const int64_t cells = int64_t(roi.y.num_bins) * roi.x.num_bins;
    const Element* grad = grad_output + roi.index * cells * channels;
    if (output_channels_last) {
      backward_rows(
          roi, band, width, first, last, grad + channel, channels, sums, sums_stride, merged);
    } else {
      T* transposed = merged + int64_t(roi.x.num_bins) * width;
      transpose_cells(roi, first, last, grad + channel * cells, width, transposed);
      backward_rows(
          roi, band, width, first, last, transposed, kBlock, sums, sums_stride, merged);
    }
  }
}

template <class Element>
void backward(
    const RoiView<accumulator_t<Element>>* const* rois, int64_t num_rois, const Band& band,
    int64_t channels, const Element* grad_output, bool output_channels_last, Element* grad_map,
    bool map_channels_last, accumulator_t<Element>* scratch) {
  using T = accumulator_t<Element>;
  constexpr int kBlock = block_size<T>();
  const int64_t begin = band.row_begin * band.map_width;
  const int64_t pixels = (band.row_end - band.row_begin) * band.map_width;
  const int64_t plane = band.map_height * band.map_width;
  const int64_t end_channel = band.channel + band.width;
  if constexpr (sums_in_place<Element>(true)) {
    if (map_channels_last) {
      Element* sums = grad_map + begin * channels;
      __builtin_memset(sums, 0, uint64_t(pixels * channels) * sizeof(T));
      // All channels of a pixel at once: the branches on its number of taps are mispredicted once then,
      // and not again for each block.
      const int64_t step = output_channels_last ? channels : int64_t(kBlock);
      for (int64_t c = 0; c < channels; c += step) {
        const int width = int(channels - c < step ? channels - c : step);
        add_rois(
            rois, num_rois, band, c, width, channels, grad_output, output_channels_last, sums + c,
            channels, scratch);
      }
      return;
    }
  }
  T* sums = scratch;
  T* merged = sums + pixels * kBlock;
  for (int64_t c = band.channel; c < end_channel; c += kBlock) {
    const int width = int(end_channel - c < kBlock ? end_channel - c : kBlock);
    __builtin_memset(sums, 0, uint64_t(pixels * kBlock) * sizeof(T));
    add_rois(
        rois, num_rois, band, c, width, channels, grad_output, output_channels_last, sums,
        int64_t(kBlock), merged);
    if (map_channels_last) {
      for (int64_t p = 0; p < pixels; ++p) {
        convert(sums + p * kBlock, grad_map + (begin + p) * channels + c, width);
      }
    } else {
      transpose(sums, kBlock, pixels, width, grad_map + c * plane + begin, plane);
    }
  }
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
  return {block_size<T>(), forward_scratch<T>, forward<Element>, backward_scratch<Element>,
          backward<Element>, to_channels_last<Element>};
}

}  // namespace

InstructionSet instruction_set() {
  return {MRCNN_EXT_SET_NAME, kernels<float>(), kernels<double>(), kernels<Half>(),
          kernels<BFloat16>()};
}
