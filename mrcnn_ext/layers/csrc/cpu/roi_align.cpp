// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// The CPU side of mrcnn_ext::_roi_align_forward and _roi_align_backward: arguments in, work shared out
// among threads. Schemas are in Python (layers/roi_align/ops.py).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../roi_align_checks.h"
#include "../tensors.h"
#include "roi_align_kernels.h"
#include "roi_align_plan.h"
#include "workers.h"

namespace mrcnn_ext {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class Element>
const RoiAlignKernels<Element>& kernels_for();
template <>
const RoiAlignKernels<float>& kernels_for() {
  return active_instruction_set().f32;
}
template <>
const RoiAlignKernels<double>& kernels_for() {
  return active_instruction_set().f64;
}
template <>
const RoiAlignKernels<Half>& kernels_for() {
  return active_instruction_set().f16;
}
template <>
const RoiAlignKernels<BFloat16>& kernels_for() {
  return active_instruction_set().bf16;
}

/// A tensor that is dense in both layouts counts as NCHW, as in Python.
bool is_channels_last(const Tensor& tensor) { return !tensor.is_contiguous() && is_nhwc(tensor); }

void check_dense(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(
      tensor.is_contiguous() || is_nhwc(tensor), name, " must be dense, NCHW or channels-last");
}

Geometry make_geometry(
    const std::vector<Tensor>& maps, const Tensor& rois, const std::optional<Tensor>& levels,
    const std::vector<double>& scales, int64_t sampling_ratio, bool aligned,
    double canonical_box_size, int64_t canonical_level, const Tensor& pooled) {
  check_roi_align(maps, rois, levels, scales, sampling_ratio, canonical_level, pooled);
  STD_TORCH_CHECK(rois.is_contiguous(), "rois must be contiguous");
  STD_TORCH_CHECK(!levels || levels->is_contiguous(), "levels must be contiguous");
  check_dense(pooled, "the pooled tensor");
  Geometry geometry;
  for (size_t l = 0; l < maps.size(); ++l) {
    check_dense(maps[l], "a feature map");
    geometry.levels.push_back(
        {static_cast<int>(maps[l].size(2)), static_cast<int>(maps[l].size(3)), scales[l]});
  }
  geometry.num_images = maps[0].size(0);
  geometry.num_rois = rois.size(0);
  geometry.rois = rois.const_data_ptr();
  geometry.rois_are_double = rois.scalar_type() == ScalarType::Double;
  geometry.given_levels = levels ? static_cast<const int64_t*>(levels->const_data_ptr()) : nullptr;
  geometry.sampling_ratio = sampling_ratio;
  geometry.aligned = aligned;
  geometry.canonical_box_size = canonical_box_size;
  geometry.canonical_level = static_cast<int>(canonical_level);
  geometry.min_level = static_cast<int>(std::lround(-std::log2(scales[0])));
  geometry.bins_y = static_cast<int>(pooled.size(2));
  geometry.bins_x = static_cast<int>(pooled.size(3));
  return geometry;
}

std::vector<Placement> place_all(const Geometry& geometry) {
  std::vector<Placement> placements(static_cast<size_t>(geometry.num_rois));
  for (int64_t r = 0; r < geometry.num_rois; ++r) placements[r] = place_roi(geometry, r);
  return placements;
}

/// The axes of all RoIs, since every band and block of channels asks for them.
template <class T>
class Plans {
 public:
  Plans(
      const Geometry& geometry, const std::vector<Placement>& placements,
      const std::vector<int64_t>& order)
      : y_(order.size()), x_(order.size()), views_(order.size()) {
    share_out(static_cast<int64_t>(order.size()), 16, [&] {
      return [&](int64_t i) {
        const int64_t r = order[i];
        build_axes(geometry, r, placements[r].level, y_[i], x_[i]);
        views_[i] = {r, y_[i].view(), x_[i].view()};
      };
    });
  }

  const RoiView<T>& operator[](int64_t i) const { return views_[i]; }

 private:
  std::vector<AxisTable<T>> y_, x_;
  std::vector<RoiView<T>> views_;
};

// ---- NCHW feature maps ---------------------------------------------------------------------------

/// A copy of one feature map of one image as (H, W, block of channels), made where RoIs read and nowhere
/// else, for one block after the other: so one kernel serves both layouts. Kernels that read (C, H, W)
/// in place were not tried.
template <class Element>
class ChannelsLastCopy {
 public:
  ChannelsLastCopy(const Geometry& geometry, int block) {
    int64_t pixels = 0;
    for (const LevelShape& shape : geometry.levels) {
      pixels = std::max(pixels, int64_t(shape.height) * shape.width);
    }
    buffer_.reset(new Element[static_cast<size_t>(pixels * block)]);
    prefer_huge_pages(buffer_.get(), pixels * block * static_cast<int64_t>(sizeof(Element)));
  }

  const Element* data() const { return buffer_.get(); }

  /// Turn to another map, (C, H, W); nothing of it is marked.
  void start(const Element* map, const LevelShape& shape) {
    map_ = map;
    shape_ = shape;
    num_strips_ = (shape.width + kStrip - 1) / kStrip;
    marks_.assign(static_cast<size_t>(shape.height * num_strips_), 0);
  }

  void mark(const RoiView<accumulator_t<Element>>& roi) {
    if (roi.x.num_pixels == 0) return;
    for (int i = 0; i < roi.y.num_pixels; ++i) {
      uint8_t* row = marks_.data() + roi.y.pixels[i] * num_strips_;
      for (int j = 0; j < roi.x.num_pixels; ++j) row[roi.x.pixels[j] / kStrip] = 1;
    }
  }

  /// Fill what is marked with channels [channel, channel + width).
  void fill(int64_t channel, int width) {
    share_out(shape_.height, 4, [&] {
      return [&](int64_t y) { fill_row(y, channel, width); };
    });
  }

 private:
  static constexpr int64_t kStrip = 16;

  void fill_row(int64_t y, int64_t channel, int width) {
    const uint8_t* marks = marks_.data() + y * num_strips_;
    const int64_t pixels = int64_t(shape_.height) * shape_.width;
    for (int64_t s = 0; s < num_strips_; ++s) {
      if (!marks[s]) continue;
      const int64_t first = s;
      while (s + 1 < num_strips_ && marks[s + 1]) ++s;
      const int64_t begin = y * shape_.width + first * kStrip;
      const int64_t end = y * shape_.width + std::min<int64_t>((s + 1) * kStrip, shape_.width);
      kernels_for<Element>().to_channels_last(
          map_ + channel * pixels, buffer_.get(), width, pixels, begin, end);
    }
  }

  std::unique_ptr<Element[]> buffer_;
  const Element* map_ = nullptr;
  LevelShape shape_{};
  int64_t num_strips_ = 0;
  std::vector<uint8_t> marks_;
};

// ---- Forward -------------------------------------------------------------------------------------

/// Output of a RoI that reads nothing: zeros, or NaN if there is no image with its number.
template <class Element>
void fill_unplaced(const Placement& placement, Element* output, int64_t size) {
  // All bits set is a NaN in each of the four formats.
  const int byte = placement.bad_image ? 0xff : 0;
  std::memset(static_cast<void*>(output), byte, static_cast<size_t>(size) * sizeof(Element));
}

template <class Element>
void forward_all(
    const std::vector<Tensor>& maps, const Geometry& geometry, Tensor& pooled) {
  using T = accumulator_t<Element>;
  const RoiAlignKernels<Element>& kernels = kernels_for<Element>();
  const int64_t channels = pooled.size(1);
  const int64_t roi_size = channels * geometry.bins_y * geometry.bins_x;
  Element* output = static_cast<Element*>(pooled.mutable_data_ptr());

  prefer_huge_pages(pooled);

  const std::vector<Placement> placements = place_all(geometry);
  for (int64_t r = 0; r < geometry.num_rois; ++r) {
    if (placements[r].level < 0) fill_unplaced(placements[r], output + r * roi_size, roi_size);
  }
  const std::vector<int64_t> order = locality_order(placements);

  const Plans<T> plans(geometry, placements, order);
  // RoIs [begin, end) of the order; `map` gives the place of a RoI's (H, W, C) map.
  const auto pool = [&](int64_t begin, int64_t end, int64_t map_channels, int64_t channel,
                        bool channels_last, const auto& map) {
    share_out(end - begin, 8, [&] {
      return [&, scratch = Buffer<T>()](int64_t i) mutable {
        const RoiView<T>& roi = plans[begin + i];
        const Placement& placement = placements[roi.index];
        kernels.forward(
            roi, map(placement), geometry.levels[placement.level].width, map_channels,
            output + roi.index * roi_size + channel * geometry.bins_y * geometry.bins_x,
            channels_last, scratch.reserve(kernels.forward_scratch(roi)));
      };
    });
  };

  const auto image_of = [&](const Placement& placement) {
    const LevelShape& shape = geometry.levels[placement.level];
    return static_cast<const Element*>(maps[placement.level].const_data_ptr()) +
           placement.image * shape.height * shape.width * channels;
  };
  const int64_t num_rois = static_cast<int64_t>(order.size());
  if (is_channels_last(maps[0]) || channels == 1) {
    pool(0, num_rois, channels, 0, is_channels_last(pooled), image_of);
    return;
  }
  ChannelsLastCopy<Element> copy(geometry, kernels.block);
  for (int64_t begin = 0, end; begin < num_rois; begin = end) {
    const Placement& first = placements[order[begin]];
    copy.start(image_of(first), geometry.levels[first.level]);
    for (end = begin; end < num_rois; ++end) {
      const Placement& placement = placements[order[end]];
      if (placement.image != first.image || placement.level != first.level) break;
      copy.mark(plans[end]);
    }
    for (int64_t channel = 0; channel < channels; channel += kernels.block) {
      const int width = static_cast<int>(std::min<int64_t>(kernels.block, channels - channel));
      copy.fill(channel, width);
      pool(begin, end, width, channel, false, [&](const Placement&) { return copy.data(); });
    }
  }
}

void roi_align_forward(
    std::vector<Tensor> features, const Tensor& rois, std::optional<Tensor> levels,
    std::vector<double> scales, int64_t sampling_ratio, bool aligned, double canonical_box_size,
    int64_t canonical_level, Tensor output) {
  const Geometry geometry = make_geometry(
      features, rois, levels, scales, sampling_ratio, aligned, canonical_box_size,
      canonical_level, output);
  for (const Tensor& feature : features) {
    STD_TORCH_CHECK(
        is_channels_last(features[0]) ? is_nhwc(feature) : feature.is_contiguous(),
        "feature maps must all have the memory format of the first");
    check_apart(output, "output", {&feature, &rois});
  }
  if (levels) check_apart(output, "output", {&*levels});
  dispatch<Half, BFloat16>(output.scalar_type(), [&](auto element) {
    forward_all<decltype(element)>(features, geometry, output);
  });
}

// ---- Backward ------------------------------------------------------------------------------------

/// A band of rows of one gradient map, for one block of channels; it belongs to one thread.
struct Unit {
  int level;
  int64_t image;
  Band band;
  int64_t roi_begin;  // the RoIs of its image and level
  int64_t roi_end;
};

// The sums of a band should stay in a core's cache. The result does not depend on it.
constexpr int64_t kBandBytes = 1 << 20;
constexpr int64_t kBandBytesInPlace = 1 << 19;

template <class Element>
std::vector<Unit> make_units(
    const Geometry& geometry, const std::vector<Placement>& placements,
    const std::vector<int64_t>& order, const std::vector<Tensor>& maps, int64_t block) {
  const int64_t channels = maps[0].size(1);
  std::vector<Unit> units;
  int64_t begin = 0;
  for (int64_t n = 0; n < geometry.num_images; ++n) {
    for (int l = 0; l < static_cast<int>(geometry.levels.size()); ++l) {
      const LevelShape& shape = geometry.levels[l];
      int64_t end = begin;
      while (end < static_cast<int64_t>(order.size()) && placements[order[end]].image == n &&
             placements[order[end]].level == l) {
        ++end;
      }
      if (shape.height > 0 && shape.width > 0) {
        const bool in_place = sums_in_place<Element>(is_channels_last(maps[l]));
        const int64_t width = in_place ? channels : block;
        const int64_t band_bytes = in_place ? kBandBytesInPlace : kBandBytes;
        const int64_t row_bytes =
            int64_t(shape.width) * width * int64_t(sizeof(accumulator_t<Element>));
        const int rows = static_cast<int>(std::max<int64_t>(1, band_bytes / row_bytes));
        for (int row = 0; row < shape.height; row += rows) {
          for (int64_t c = 0; c < channels; c += width) {
            const Band band{row, std::min(row + rows, shape.height), shape.height, shape.width, c,
                            static_cast<int>(std::min<int64_t>(width, channels - c))};
            units.push_back({l, n, band, begin, end});
          }
        }
      }
      begin = end;
    }
  }
  return units;
}

template <class T>
bool touches(const RoiView<T>& roi, const Band& band) {
  const AxisView<T>& y = roi.y;
  return roi.x.num_pixels > 0 && y.num_pixels > 0 && y.pixels[0] < band.row_end &&
         y.pixels[y.num_pixels - 1] >= band.row_begin;
}

template <class Element>
void backward_all(
    const Tensor& grad_output, const Geometry& geometry, std::vector<Tensor>& grad_features) {
  using T = accumulator_t<Element>;
  const RoiAlignKernels<Element>& kernels = kernels_for<Element>();
  const int64_t channels = grad_output.size(1);
  const std::vector<Placement> placements = place_all(geometry);
  const std::vector<int64_t> order = locality_order(placements);
  const Plans<T> plans(geometry, placements, order);
  const std::vector<Unit> units =
      make_units<Element>(geometry, placements, order, grad_features, kernels.block);
  const Element* grad = static_cast<const Element*>(grad_output.const_data_ptr());
  const bool output_channels_last = is_channels_last(grad_output);
  for (const Tensor& map : grad_features) prefer_huge_pages(map);

  share_out(static_cast<int64_t>(units.size()), 1, [&] {
    return [&, rois = std::vector<const RoiView<T>*>(),
            scratch = Buffer<T>()](int64_t i) mutable {
      const Unit& unit = units[i];
      rois.clear();
      for (int64_t k = unit.roi_begin; k < unit.roi_end; ++k) {
        if (touches(plans[k], unit.band)) rois.push_back(&plans[k]);
      }
      Tensor& map = grad_features[unit.level];
      const int64_t image_size = channels * unit.band.map_height * unit.band.map_width;
      kernels.backward(
          rois.data(), static_cast<int64_t>(rois.size()), unit.band, channels, grad,
          output_channels_last,
          static_cast<Element*>(map.mutable_data_ptr()) + unit.image * image_size,
          is_channels_last(map),
          scratch.reserve(kernels.backward_scratch(
              unit.band, geometry.bins_y, geometry.bins_x, is_channels_last(map))));
    };
  });
}

void roi_align_backward(
    const Tensor& grad_output, const Tensor& rois, std::optional<Tensor> levels,
    std::vector<double> scales, int64_t sampling_ratio, bool aligned, double canonical_box_size,
    int64_t canonical_level, std::vector<Tensor> grad_features) {
  const Geometry geometry = make_geometry(
      grad_features, rois, levels, scales, sampling_ratio, aligned, canonical_box_size,
      canonical_level, grad_output);
  for (const Tensor& grad : grad_features) {
    check_apart(grad, "a gradient", {&grad_output, &rois});
    if (levels) check_apart(grad, "a gradient", {&*levels});
  }
  dispatch<Half, BFloat16>(grad_output.scalar_type(), [&](auto element) {
    backward_all<decltype(element)>(grad_output, geometry, grad_features);
  });
}

std::string cpu_capability() { return active_instruction_set().name; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_ext, CPU, m) {
  m.impl("_roi_align_forward", TORCH_BOX(&roi_align_forward));
  m.impl("_roi_align_backward", TORCH_BOX(&roi_align_backward));
}

STABLE_TORCH_LIBRARY_FRAGMENT(mrcnn_ext, m) { m.def("_cpu_capability() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(mrcnn_ext, CompositeExplicitAutograd, m) {
  m.impl("_cpu_capability", TORCH_BOX(&cpu_capability));
}

}  // namespace mrcnn_ext
