// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// RoIAlign for processors with AVX2, FMA and F16C.
#include "roi_align_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

// Only what follows is compiled for this set; a flag for the whole file would also compile inline
// functions of headers for it, and the linker might keep that copy for everybody.
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define MRCNN_EXT_SET_NAME "avx2"
#define MRCNN_EXT_VECTOR_BYTES 32
#define MRCNN_EXT_VECTORS 8

namespace mrcnn_ext::avx2 {
#include "roi_align_kernels_impl.h"
}  // namespace mrcnn_ext::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
