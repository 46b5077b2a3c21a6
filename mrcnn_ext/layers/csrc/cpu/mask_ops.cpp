// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// mrcnn_ext::_masks_to_rle and _paste_masks: masks are shared out among threads. Schemas are in Python
// (layers/mask_paste).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "../tensors.h"
#include "mask_paste.h"
#include "mask_rle.h"
#include "workers.h"

namespace mrcnn_ext {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMaxSide = 1 << 24;  // pixels are counted in float32

PasteSettings make_settings(
    const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, double threshold,
    bool fused) {
  check_cpu_tensor(masks, "masks", ScalarType::Float, {kAny, kAny, kAny});
  check_cpu_tensor(boxes, "boxes", ScalarType::Float, {masks.size(0), 4});
  STD_TORCH_CHECK(masks.size(1) > 0 && masks.size(2) > 0, "masks have no values");
  STD_TORCH_CHECK(
      masks.size(1) < kMaxSide && masks.size(2) < kMaxSide && height >= 0 && width >= 0 &&
          height < kMaxSide && width < kMaxSide,
      "sides must be below 2^24");
  return {static_cast<int>(masks.size(1)), static_cast<int>(masks.size(2)),
          {static_cast<int>(height), static_cast<int>(width)}, static_cast<float>(threshold),
          fused};
}

/// Call function(i, worker) for each mask, loaded into a paster; make() gives each thread its worker.
template <class Make, class Function>
void for_each_mask(
    const Tensor& masks, const Tensor& boxes, const PasteSettings& settings, Lines lines,
    const Make& make, const Function& function) {
  const float* all_masks = static_cast<const float*>(masks.const_data_ptr());
  const float* all_boxes = static_cast<const float*>(boxes.const_data_ptr());
  const int64_t mask_size = masks.size(1) * masks.size(2);
  share_out(masks.size(0), 1, [&] {
    return [&, paster = MaskPaster(settings, lines), worker = make()](int64_t i) mutable {
      paster.load(all_masks + i * mask_size, all_boxes + i * 4);
      function(i, paster, worker);
    };
  });
}

/// The strings of all masks in one (bytes,) uint8 tensor, and where each begins: (R + 1,) int64.
std::tuple<Tensor, Tensor> masks_to_rle(
    const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, double threshold,
    bool fused) {
  const PasteSettings settings = make_settings(masks, boxes, height, width, threshold, fused);
  std::vector<std::string> texts(static_cast<size_t>(masks.size(0)));
  for_each_mask(
      masks, boxes, settings, Lines::kColumns, [&] { return RunLengths(height, width); },
      [&](int64_t i, MaskPaster& paster, RunLengths& runs) {
        runs.clear();
        paster.paste(runs);
        texts[i] = runs.finish();
      });

  Tensor offsets = torch::stable::new_empty(masks, {masks.size(0) + 1}, ScalarType::Long);
  int64_t* begins = static_cast<int64_t*>(offsets.mutable_data_ptr());
  begins[0] = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    begins[i + 1] = begins[i] + static_cast<int64_t>(texts[i].size());
  }
  Tensor bytes = torch::stable::new_empty(masks, {begins[texts.size()]}, ScalarType::Byte);
  char* target = static_cast<char*>(bytes.mutable_data_ptr());
  for (size_t i = 0; i < texts.size(); ++i) {
    std::memcpy(target + begins[i], texts[i].data(), texts[i].size());
  }
  return {bytes, offsets};
}

/// A sink of MaskPaster: one (height, width) image of a bool tensor that is zero everywhere.
class ImageRows {
 public:
  explicit ImageRows(int64_t width) : width_(width) {}

  void set_image(uint8_t* image) { image_ = image; }
  void start(int row, int, int) { row_ = image_ + row * width_; }
  void fill(int begin, int end, uint8_t value) {
    if (value != 0) std::memset(row_ + begin, value, static_cast<size_t>(end - begin));
  }
  void pixels(int begin, int end, const uint8_t* values) {
    std::memcpy(row_ + begin, values, static_cast<size_t>(end - begin));
  }

 private:
  const int64_t width_;
  uint8_t* image_ = nullptr;
  uint8_t* row_ = nullptr;
};

void paste_masks(
    const Tensor& masks, const Tensor& boxes, double threshold, bool fused, Tensor images) {
  check_cpu_tensor(images, "images", ScalarType::Bool, {kAny, kAny, kAny});
  const int64_t height = images.size(1), width = images.size(2);
  const PasteSettings settings = make_settings(masks, boxes, height, width, threshold, fused);
  STD_TORCH_CHECK(images.size(0) == masks.size(0), "one image per mask, please");
  check_apart(images, "images", {&masks, &boxes});
  uint8_t* output = static_cast<uint8_t*>(images.mutable_data_ptr());
  for_each_mask(
      masks, boxes, settings, Lines::kRows, [&] { return ImageRows(width); },
      [&](int64_t i, MaskPaster& paster, ImageRows& rows) {
        rows.set_image(output + i * height * width);
        paster.paste(rows);
      });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_ext, CPU, m) {
  m.impl("_masks_to_rle", TORCH_BOX(&masks_to_rle));
  m.impl("_paste_masks", TORCH_BOX(&paste_masks));
}

}  // namespace mrcnn_ext
