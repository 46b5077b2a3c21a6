// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// The inner loops of RoIAlign, which exist once per instruction set, and the choice between them.
#pragma once

#include <cstdint>

#include "../roi_align_geometry.h"

namespace mrcnn_ext {

/// Element types; float16 and bfloat16 travel as their bits.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct Tap {
  int32_t index;
  T weight;
};

/// The sparse matrix (bins x pixels) of one axis, by its rows and by its columns.
template <class T>
struct AxisView {
  int num_bins;
  int num_pixels;
  const int32_t* pixels;       // place in this list -> pixel, ascending
  const int32_t* bin_begin;    // num_bins + 1, into bin_taps
  const Tap<T>* bin_taps;      // index: place in `pixels`
  const int32_t* pixel_begin;  // num_pixels + 1, into pixel_taps
  const Tap<T>* pixel_taps;    // index: bin
};

template <class T>
struct RoiView {
  int64_t index;
  AxisView<T> y;
  AxisView<T> x;
};

/// Rows [row_begin, row_end) of one gradient map, and the channels [channel, channel + width).
struct Band {
  int row_begin;
  int row_end;
  int64_t map_height;
  int64_t map_width;
  int64_t channel;
  int width;
};

/// Whether `backward` adds up in the gradient map itself: then a band has all channels.
template <class Element>
constexpr bool sums_in_place(bool map_channels_last) {
  return map_channels_last && sizeof(Element) == sizeof(accumulator_t<Element>);
}

/// Functions for one element type. Maps are (H, W, C), or (C, H, W) where `channels_last` is false.
template <class Element>
struct RoiAlignKernels {
  using T = accumulator_t<Element>;

  /// Channels that are handled at once: the largest `width`.
  int block;
  /// Elements of `scratch` that `forward` needs.
  int64_t (*forward_scratch)(const RoiView<T>& roi);
  /// One RoI, all channels. `map` is (H, W, C); `output` is one RoI's (h, w, C) or (C, h, w).
  void (*forward)(
      const RoiView<T>& roi, const Element* map, int64_t map_width, int64_t channels,
      Element* output, bool output_channels_last, T* scratch);
  /// Elements of `scratch` that `backward` needs for a band.
  int64_t (*backward_scratch)(const Band& band, int bins_y, int bins_x, bool map_channels_last);
  /// The gradient of one band, from the RoIs that may touch it, added up in their order.
  void (*backward)(
      const RoiView<T>* const* rois, int64_t num_rois, const Band& band, int64_t channels,
      const Element* grad_output, bool output_channels_last, Element* grad_map,
      bool map_channels_last, T* scratch);

  /// Pixels [begin, end) of a (C, pixels) map into a (pixels, C) map.
  void (*to_channels_last)(
      const Element* source, Element* target, int64_t channels, int64_t pixels, int64_t begin,
      int64_t end);
};

struct InstructionSet {
  const char* name;
  RoiAlignKernels<float> f32;
  RoiAlignKernels<double> f64;
  RoiAlignKernels<Half> f16;
  RoiAlignKernels<BFloat16> bf16;
};

namespace generic {
InstructionSet instruction_set();
}
#if defined(__x86_64__)
namespace avx2 {
InstructionSet instruction_set();
}
namespace avx512 {
InstructionSet instruction_set();
}
#endif

/// The best set this processor has, or the one that MRCNN_EXT_CPU_CAPABILITY names.
const InstructionSet& active_instruction_set();

}  // namespace mrcnn_ext
