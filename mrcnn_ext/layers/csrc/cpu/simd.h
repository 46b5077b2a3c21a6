// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// Vectors of one instruction set. Included inside the namespace of that set, which defines
// MRCNN_EXT_VECTOR_BYTES and MRCNN_EXT_VECTORS (vectors in a block of channels), and compiled for it;
// hence no include guard, and nothing from the standard library.

#define MRCNN_EXT_INLINE inline __attribute__((always_inline))

template <class T>
struct Vector {
  static constexpr int kLanes = MRCNN_EXT_VECTOR_BYTES / int(sizeof(T));
  typedef T type __attribute__((vector_size(MRCNN_EXT_VECTOR_BYTES)));
  typedef T unaligned
      __attribute__((vector_size(MRCNN_EXT_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};

typedef uint32_t Words __attribute__((vector_size(MRCNN_EXT_VECTOR_BYTES)));
typedef uint16_t HalfWords
    __attribute__((vector_size(MRCNN_EXT_VECTOR_BYTES / 2), aligned(2), may_alias));

template <class T>
constexpr int block_size() {
  return MRCNN_EXT_VECTORS * Vector<T>::kLanes;
}

// ---- One element -------------------------------------------------------------------------------

MRCNN_EXT_INLINE float as_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
MRCNN_EXT_INLINE uint32_t as_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

MRCNN_EXT_INLINE float widen(float value) { return value; }
MRCNN_EXT_INLINE double widen(double value) { return value; }
MRCNN_EXT_INLINE float widen(BFloat16 value) { return as_float(uint32_t(value.bits) << 16); }
MRCNN_EXT_INLINE float widen(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
  const uint32_t rest = uint32_t(value.bits & 0x7fffu);
  if (rest >= 0x7c00u) return as_float(sign | 0x7f800000u | (rest << 13));
  // Multiplying by 2^112 moves the exponent and normalises subnormals at once.
  return as_float(sign | as_bits(as_float(rest << 13) * as_float(0x77800000u)));
}

MRCNN_EXT_INLINE void narrow(float value, float* target) { *target = value; }
MRCNN_EXT_INLINE void narrow(double value, double* target) { *target = value; }
MRCNN_EXT_INLINE void narrow(float value, BFloat16* target) {
  const uint32_t bits = as_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  target->bits = uint16_t(value == value ? rounded : 0x7fc0u);
}
MRCNN_EXT_INLINE void narrow(float value, Half* target) {
  const uint32_t bits = as_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    target->bits = uint16_t(sign | 0x7e00u);
  } else if (magnitude >= 0x477ff000u) {  // rounds to infinity
    target->bits = uint16_t(sign | 0x7c00u);
  } else if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 puts the bits in their place
    target->bits = uint16_t(sign | (as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u));
  } else {
    const uint32_t odd = (magnitude >> 13) & 1u;
    target->bits = uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
  }
}

// ---- One vector of elements --------------------------------------------------------------------

MRCNN_EXT_INLINE Vector<float>::type load(const float* p) {
  return *reinterpret_cast<const Vector<float>::unaligned*>(p);
}
MRCNN_EXT_INLINE Vector<double>::type load(const double* p) {
  return *reinterpret_cast<const Vector<double>::unaligned*>(p);
}
MRCNN_EXT_INLINE Vector<float>::type load(const BFloat16* p) {
  const HalfWords bits = *reinterpret_cast<const HalfWords*>(p);
  return (Vector<float>::type)(__builtin_convertvector(bits, Words) << 16);
}

MRCNN_EXT_INLINE void store(Vector<float>::type value, float* p) {
  *reinterpret_cast<Vector<float>::unaligned*>(p) = value;
}
MRCNN_EXT_INLINE void store(Vector<double>::type value, double* p) {
  *reinterpret_cast<Vector<double>::unaligned*>(p) = value;
}
MRCNN_EXT_INLINE void store(Vector<float>::type value, BFloat16* p) {
  const Words bits = (Words)value;
  const Words ordered = (Words)(value == value);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Words result = (rounded & ordered) | (0x7fc0u & ~ordered);
  *reinterpret_cast<HalfWords*>(p) = __builtin_convertvector(result, HalfWords);
}

#if MRCNN_EXT_VECTOR_BYTES == 64 && defined(__x86_64__)
MRCNN_EXT_INLINE Vector<float>::type load(const Half* p) {
  return (Vector<float>::type)_mm512_cvtph_ps(
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
MRCNN_EXT_INLINE void store(Vector<float>::type value, Half* p) {
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
}
#elif MRCNN_EXT_VECTOR_BYTES == 32 && defined(__x86_64__)
MRCNN_EXT_INLINE Vector<float>::type load(const Half* p) {
  return (Vector<float>::type)_mm256_cvtph_ps(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
MRCNN_EXT_INLINE void store(Vector<float>::type value, Half* p) {
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
}
#else
MRCNN_EXT_INLINE Vector<float>::type load(const Half* p) {
  Vector<float>::type value;
  for (int lane = 0; lane < Vector<float>::kLanes; ++lane) value[lane] = widen(p[lane]);
  return value;
}
MRCNN_EXT_INLINE void store(Vector<float>::type value, Half* p) {
  for (int lane = 0; lane < Vector<float>::kLanes; ++lane) narrow(value[lane], p + lane);
}
#endif

// Past the caches, where that exists; `p` is aligned to a vector.
template <class V, class Target>
MRCNN_EXT_INLINE void store_uncached(V value, Target* p) {
  store(value, p);
}
#if MRCNN_EXT_VECTOR_BYTES == 64 && defined(__x86_64__)
MRCNN_EXT_INLINE void store_uncached(Vector<float>::type value, float* p) {
  _mm512_stream_ps(p, (__m512)value);
}
#elif MRCNN_EXT_VECTOR_BYTES == 32 && defined(__x86_64__)
MRCNN_EXT_INLINE void store_uncached(Vector<float>::type value, float* p) {
  _mm256_stream_ps(p, (__m256)value);
}
#endif

// Uncached stores become visible to other threads only after this.
MRCNN_EXT_INLINE void finish_uncached_stores() {
#if MRCNN_EXT_VECTOR_BYTES > 16 && defined(__x86_64__)
  _mm_sfence();
#endif
}

// ---- One block of channels ---------------------------------------------------------------------

enum class Store { kSet, kAdd, kUncached };

/// `combine` for exactly kVectors vectors of channels.
template <Store kStore, int kVectors, class T, class Target, class Source>
MRCNN_EXT_INLINE void combine_vectors(
    const Tap<T>* taps, int num_taps, const Source& source, int offset, Target* target) {
  constexpr int kLanes = Vector<T>::kLanes;
  typename Vector<T>::type sum[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    if constexpr (kStore == Store::kAdd) {
      sum[v] = load(target + v * kLanes);
    } else {
      sum[v] = typename Vector<T>::type{};
    }
  }
  for (int k = 0; k < num_taps; ++k) {
    const T weight = taps[k].weight;
    const auto* from = source(taps[k].index) + offset;
    for (int v = 0; v < kVectors; ++v) sum[v] += weight * load(from + v * kLanes);
  }
  for (int v = 0; v < kVectors; ++v) {
    if constexpr (kStore == Store::kUncached) {
      store_uncached(sum[v], target + v * kLanes);
    } else {
      store(sum[v], target + v * kLanes);
    }
  }
}

/// target[c] = sum over taps of weight * source(index)[c], for c < width; kAdd adds it to what is there.
/// This one loop, on rows or columns, is all the arithmetic of RoIAlign in both directions.
template <Store kStore, class T, class Target, class Source>
MRCNN_EXT_INLINE void combine(
    const Tap<T>* taps, int num_taps, const Source& source, Target* target, int width) {
  constexpr int kLanes = Vector<T>::kLanes;
  constexpr int kBlock = block_size<T>();
  int c = 0;
  for (; c + kBlock <= width; c += kBlock) {
    combine_vectors<kStore, MRCNN_EXT_VECTORS>(taps, num_taps, source, c, target + c);
  }
  for (; c + kLanes <= width; c += kLanes) {
    combine_vectors<kStore, 1>(taps, num_taps, source, c, target + c);
  }
  if (c == width) return;
  const int rest = width - c;
  T sum[kLanes];
  for (int i = 0; i < rest; ++i) sum[i] = kStore == Store::kAdd ? T(widen(target[c + i])) : T(0);
  for (int k = 0; k < num_taps; ++k) {
    const T weight = taps[k].weight;
    const auto* from = source(taps[k].index) + c;
    for (int i = 0; i < rest; ++i) sum[i] += weight * widen(from[i]);
  }
  for (int i = 0; i < rest; ++i) narrow(sum[i], target + c + i);
}

/// Ask for a block of channels ahead of its use.
template <class Element>
MRCNN_EXT_INLINE void prefetch(const Element* source, int width) {
  for (int c = 0; c < width; c += 64 / int(sizeof(Element))) __builtin_prefetch(source + c);
}

template <class T, class Target>
MRCNN_EXT_INLINE void convert(const T* source, Target* target, int64_t width) {
  constexpr int kLanes = Vector<T>::kLanes;
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) store(load(source + c), target + c);
  for (; c < width; ++c) narrow(source[c], target + c);
}

/// `convert` for a large result that is not read again here; finish_uncached_stores() is to follow.
template <class T, class Target>
MRCNN_EXT_INLINE void convert_uncached(const T* source, Target* target, int64_t size) {
  constexpr int kLanes = Vector<T>::kLanes;
  if (uintptr_t(target) % MRCNN_EXT_VECTOR_BYTES != 0) {
    convert(source, target, size);
    return;
  }
  const int64_t whole = size - size % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) store_uncached(load(source + i), target + i);
  convert(source + whole, target + whole, size - whole);
}

// ---- Transposition -----------------------------------------------------------------------------

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define MRCNN_EXT_SHUFFLES
#endif
#endif

#ifdef MRCNN_EXT_SHUFFLES
typedef float Eight __attribute__((vector_size(32)));
typedef float EightUnaligned __attribute__((vector_size(32), aligned(4), may_alias));

MRCNN_EXT_INLINE void transpose_tile(
    const float* source, int64_t source_stride, float* target, int64_t target_stride) {
  Eight a[8], b[8];
  for (int i = 0; i < 8; ++i) {
    a[i] = *reinterpret_cast<const EightUnaligned*>(source + i * source_stride);
  }
  for (int i = 0; i < 8; i += 2) {  // pairs
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {  // fours
    for (int j = i; j < i + 2; ++j) {
      a[j] = __builtin_shufflevector(b[j], b[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      a[j + 2] = __builtin_shufflevector(b[j], b[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {  // halves
    b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    b[i + 4] = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int i = 0; i < 8; ++i) {
    *reinterpret_cast<EightUnaligned*>(target + i * target_stride) = b[i];
  }
}
#undef MRCNN_EXT_SHUFFLES
#endif

template <class Source, class Target>
MRCNN_EXT_INLINE void copy_element(Source source, Target* target) {
  narrow(widen(source), target);
}
MRCNN_EXT_INLINE void copy_element(Half source, Half* target) { *target = source; }
MRCNN_EXT_INLINE void copy_element(BFloat16 source, BFloat16* target) { *target = source; }

template <class Source, class Target>
MRCNN_EXT_INLINE void transpose_tile(
    const Source* source, int64_t source_stride, Target* target, int64_t target_stride) {
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) {
      copy_element(source[i * source_stride + j], target + j * target_stride + i);
    }
  }
}

/// target[j][i] = source[i][j] for i < rows, j < columns.
template <class Source, class Target>
MRCNN_EXT_INLINE void transpose(
    const Source* source, int64_t source_stride, int64_t rows, int64_t columns, Target* target,
    int64_t target_stride) {
  for (int64_t i = 0; i < rows; i += 8) {
    for (int64_t j = 0; j < columns; j += 8) {
      const Source* from = source + i * source_stride + j;
      Target* to = target + j * target_stride + i;
      if (i + 8 <= rows && j + 8 <= columns) {
        transpose_tile(from, source_stride, to, target_stride);
        continue;
      }
      const int64_t height = rows - i < 8 ? rows - i : 8;
      const int64_t width = columns - j < 8 ? columns - j : 8;
      for (int64_t r = 0; r < height; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          copy_element(from[r * source_stride + c], to + c * target_stride + r);
        }
      }
    }
  }
}
