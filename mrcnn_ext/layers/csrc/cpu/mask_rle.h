// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// COCO's run lengths of a mask that arrives column by column, and their compressed string.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace mrcnn_ext {

/// A sink of MaskPaster. Runs of zeros and ones alternate, down the columns, zeros first.
class RunLengths {
 public:
  explicit RunLengths(int64_t height, int64_t width) : height_(height), total_(height * width) {}

  void clear() {
    lengths_.clear();
    run_begin_ = known_ = column_ = 0;
    value_ = 0;
  }

  void start(int column, int begin, int end) {
    column_ = column * height_;
    if (column_ + begin > known_) set(known_, 0);
    known_ = column_ + end;
  }

  void fill(int begin, int, uint8_t value) { set(column_ + begin, value); }

  void pixels(int begin, int end, const uint8_t* values) {
    const int64_t offset = column_ + begin;
    const int count = end - begin;
    for (int i = 0; i < count; i += 8) {
      const uint32_t bits = eight_bits(values + i);
      // A bit for each pixel that differs from the one before.
      uint32_t changes = bits ^ (bits << 1 | value_);
      changes &= count - i < 8 ? (1u << (count - i)) - 1 : 0xffu;
      for (; changes != 0; changes &= changes - 1) {
        change(offset + i + __builtin_ctz(changes));
      }
    }
  }

  /// The string that pycocotools writes; the mask ends here.
  std::string finish() {
    if (known_ < total_) set(known_, 0);
    lengths_.push_back(total_ - run_begin_);
    std::string text(lengths_.size() * kMaxCharacters, '\0');
    char* end = text.data();
    for (size_t i = 0; i < lengths_.size(); ++i) {
      // From the third on, the difference from the run of the same value before.
      end = write(end, i > 2 ? lengths_[i] - lengths_[i - 2] : lengths_[i]);
    }
    text.resize(static_cast<size_t>(end - text.data()));
    return text;
  }

 private:
  /// From `position` on, the mask is `value`.
  void set(int64_t position, uint8_t value) {
    if (value != value_) change(position);
  }

  void change(int64_t position) {
    lengths_.push_back(position - run_begin_);
    run_begin_ = position;
    value_ ^= 1;
  }

  /// Eight bytes, 0 or 1 each, as bits; the first is the lowest.
  static uint32_t eight_bits(const uint8_t* values) {
    uint64_t eight;
    std::memcpy(&eight, values, sizeof(eight));
    if constexpr (std::endian::native == std::endian::big) eight = __builtin_bswap64(eight);
    // Byte i is moved to bit 56 + i; no two products meet in one bit.
    return static_cast<uint32_t>((eight * 0x0102040810204080) >> 56);
  }

  /// Five bits a character, the lowest first; the sixth bit says that more follow.
  static char* write(char* text, int64_t number) {
    bool more = true;
    while (more) {
      int64_t bits = number & 0x1f;
      number >>= 5;
      more = number != ((bits & 0x10) != 0 ? -1 : 0);
      if (more) bits |= 0x20;
      *text++ = static_cast<char>(bits + 48);
    }
    return text;
  }

  // Lengths are below 2^48, the square of the largest side.
  static constexpr size_t kMaxCharacters = 10;

  const int64_t height_;
  const int64_t total_;
  int64_t run_begin_ = 0;  // of the current run
  int64_t known_ = 0;      // the mask is known up to here
  int64_t column_ = 0;     // where the current column begins
  uint8_t value_ = 0;      // of the current run
  std::vector<int64_t> lengths_;
};

}  // namespace mrcnn_ext
