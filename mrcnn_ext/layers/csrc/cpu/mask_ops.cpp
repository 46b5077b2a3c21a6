// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// The CPU side of mrcnn_ext::_masks_to_rle and _paste_masks; schemas and checks are in mask_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "mask_paste.h"
#include "workers.h"

namespace mrcnn_ext {
namespace {

using torch::stable::Tensor;

/// Lengths of alternating runs, zeros first, of pixels in column-major order: COCO's RLE.
class RunLengths {
 public:
  void clear() {
    counts_.clear();
    run_begin_ = 0;
    value_ = 0;
  }

  /// From this pixel on, the value is another, or the same as before.
  void set(int64_t position, uint8_t value) {
    if (value == value_) return;
    value_ = value;
    if (position == run_begin_ && !counts_.empty()) {  // nothing had the value: back to the run before
      run_begin_ -= counts_.back();
      counts_.pop_back();
      return;
    }
    counts_.push_back(static_cast<uint32_t>(position - run_begin_));
    run_begin_ = position;
  }

  void finish(int64_t size) {
    if (run_begin_ < size || counts_.empty()) {
      counts_.push_back(static_cast<uint32_t>(size - run_begin_));
    }
  }

  /// COCO's text: from the fourth number on, differences to the last but one; 5 bits a character.
  void append_text(std::string& text) const {
    for (size_t i = 0; i < counts_.size(); ++i) {
      int64_t number = counts_[i];
      if (i > 2) number -= counts_[i - 2];
      bool more = true;
      while (more) {
        char bits = static_cast<char>(number & 0x1f);
        number >>= 5;  // keeps the sign
        more = (bits & 0x10) != 0 ? number != -1 : number != 0;
        if (more) bits = static_cast<char>(bits | 0x20);
        text.push_back(static_cast<char>(bits + 48));
      }
    }
  }

 private:
  std::vector<uint32_t> counts_;
  int64_t run_begin_ = 0;
  uint8_t value_ = 0;
};

struct Arguments {
  const float* masks;
  const float* boxes;
  int64_t count;
  int mask_height;
  int mask_width;
  int image_height;
  int image_width;
  float threshold;

  Arguments(const Tensor& mask_tensor, const Tensor& box_tensor, int64_t height, int64_t width,
            double limit)
      : masks(static_cast<const float*>(mask_tensor.const_data_ptr())),
        boxes(static_cast<const float*>(box_tensor.const_data_ptr())),
        count(mask_tensor.size(0)),
        mask_height(static_cast<int>(mask_tensor.size(1))),
        mask_width(static_cast<int>(mask_tensor.size(2))),
        image_height(static_cast<int>(height)),
        image_width(static_cast<int>(width)),
        threshold(static_cast<float>(limit)) {
    STD_TORCH_CHECK(mask_tensor.is_contiguous(), "masks must be contiguous");
    STD_TORCH_CHECK(box_tensor.is_contiguous(), "boxes must be contiguous");
  }

  void build(int64_t index, PastedMask& pasted) const {
    pasted.build(masks + index * mask_height * mask_width, mask_height, mask_width,
                 boxes + 4 * index, image_height, image_width);
  }
};

/// Encodes masks for a positive threshold, which nothing outside of the mask reaches.
class Encoder {
 public:
  void encode(const PastedMask& pasted, const Arguments& arguments, RunLengths& runs) {
    const std::vector<AxisSamples::Run>& rows = pasted.y().runs;
    if (rows.empty()) return;
    const int top = rows.front().begin, bottom = rows.back().end;
    for (const AxisSamples::Run& columns : pasted.x().runs) {
      find_segments(pasted, columns, arguments.threshold, top, bottom);
      for (int x = columns.begin; x < columns.end; ++x) {
        const int64_t origin = int64_t(x) * arguments.image_height;
        add_column(origin, inside_.data() + int64_t(x - columns.begin) * (bottom - top) - top, runs);
        runs.set(origin + bottom, 0);
      }
    }
  }

 private:
  struct Segment {
    int begin;
    int end;
    PastedMask::Class found;
  };

  /// Columns between the same two mask pixels share their classes; pixels that have to be computed are.
  void find_segments(const PastedMask& pasted, const AxisSamples::Run& columns, float threshold,
                     int top, int bottom) {
    segments_.clear();
    const int64_t column_size = bottom - top;
    inside_.resize(static_cast<size_t>((columns.end - columns.begin) * column_size));
    for (const AxisSamples::Run& rows : pasted.y().runs) {
      const PastedMask::Class found = pasted.cell_class(rows.cell, columns.cell);
      if (found == PastedMask::kMixed) {
        pasted.threshold_cell(
            rows, columns, threshold, inside_.data() + (rows.begin - top), 1, column_size);
      }
      if (!segments_.empty() && segments_.back().found == found) {
        segments_.back().end = rows.end;
      } else {
        segments_.push_back({rows.begin, rows.end, found});
      }
    }
  }

  void add_column(int64_t origin, const uint8_t* inside, RunLengths& runs) const {
    for (const Segment& segment : segments_) {
      if (segment.found != PastedMask::kMixed) {
        runs.set(origin + segment.begin, segment.found == PastedMask::kAbove);
        continue;
      }
      for (int y = segment.begin; y < segment.end; ++y) runs.set(origin + y, inside[y]);
    }
  }

  std::vector<Segment> segments_;
  std::vector<uint8_t> inside_;
};

/// The same where zeros count as inside too: every pixel of the region has to be looked at.
void encode_all_pixels(const PastedMask& pasted, const Arguments& arguments, RunLengths& runs) {
  for (int x = pasted.x().begin; x < pasted.x().end; ++x) {
    const int64_t origin = int64_t(x) * arguments.image_height;
    for (int y = pasted.y().begin; y < pasted.y().end; ++y) {
      runs.set(origin + y, pasted.value(y, x) >= arguments.threshold);
    }
    runs.set(origin + pasted.y().end, 0);
  }
}

/// Texts of all masks one after the other, and where each ends.
Tensor masks_to_rle(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                    double threshold, Tensor ends) {
  const Arguments arguments(masks, boxes, height, width, threshold);
  std::vector<std::string> texts(static_cast<size_t>(arguments.count));
  share_out(arguments.count, 1, [&] {
    return [&, pasted = PastedMask(), encoder = Encoder(), runs = RunLengths()](int64_t i) mutable {
      arguments.build(i, pasted);
      runs.clear();
      if (arguments.threshold > 0) {
        pasted.classify(arguments.threshold);
        encoder.encode(pasted, arguments, runs);
      } else {
        encode_all_pixels(pasted, arguments, runs);
      }
      runs.finish(int64_t(arguments.image_height) * arguments.image_width);
      runs.append_text(texts[static_cast<size_t>(i)]);
    };
  });
  int64_t* end = static_cast<int64_t*>(ends.mutable_data_ptr());
  int64_t size = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    size += static_cast<int64_t>(texts[i].size());
    end[i] = size;
  }
  Tensor result = torch::stable::new_empty(ends, {size}, torch::headeronly::ScalarType::Byte);
  char* target = static_cast<char*>(result.mutable_data_ptr());
  for (const std::string& text : texts) {
    std::memcpy(target, text.data(), text.size());
    target += text.size();
  }
  return result;
}

void paste_thresholded(const PastedMask& pasted, float threshold, int64_t width, uint8_t* image) {
  for (const AxisSamples::Run& rows : pasted.y().runs) {
    for (const AxisSamples::Run& columns : pasted.x().runs) {
      uint8_t* corner = image + rows.begin * width + columns.begin;
      const PastedMask::Class found = pasted.cell_class(rows.cell, columns.cell);
      if (found == PastedMask::kMixed) {
        pasted.threshold_cell(rows, columns, threshold, corner, width, 1);
      } else if (found == PastedMask::kAbove) {
        for (int y = rows.begin; y < rows.end; ++y) {
          std::memset(corner + (y - rows.begin) * width, 1, columns.end - columns.begin);
        }
      }
    }
  }
}

void paste_all_pixels(const PastedMask& pasted, float threshold, int64_t width, uint8_t* image) {
  for (int y = pasted.y().begin; y < pasted.y().end; ++y) {
    for (int x = pasted.x().begin; x < pasted.x().end; ++x) {
      const float value = pasted.value(y, x);
      image[y * width + x] = threshold == 0
                                 ? value >= 0
                                 : static_cast<uint8_t>(static_cast<int64_t>(value * 255.0f));
    }
  }
}

/// Of what is not in a box, zeros; bool where threshold >= 0, otherwise the values times 255 as uint8.
void paste_masks(const Tensor& masks, const Tensor& boxes, double threshold, Tensor output) {
  const Arguments arguments(masks, boxes, output.size(1), output.size(2), threshold);
  prefer_huge_pages(output);
  uint8_t* images = static_cast<uint8_t*>(output.mutable_data_ptr());
  const int64_t image_size = int64_t(arguments.image_height) * arguments.image_width;
  share_out(arguments.count, 1, [&] {
    return [&, pasted = PastedMask()](int64_t i) mutable {
      arguments.build(i, pasted);
      uint8_t* image = images + i * image_size;
      std::memset(image, 0, static_cast<size_t>(image_size));
      if (arguments.threshold > 0) {
        pasted.classify(arguments.threshold);
        paste_thresholded(pasted, arguments.threshold, arguments.image_width, image);
      } else {
        paste_all_pixels(pasted, arguments.threshold, arguments.image_width, image);
      }
    };
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_ext, CPU, m) {
  m.impl("_masks_to_rle", TORCH_BOX(&masks_to_rle));
  m.impl("_paste_masks", TORCH_BOX(&paste_masks));
}

}  // namespace mrcnn_ext
