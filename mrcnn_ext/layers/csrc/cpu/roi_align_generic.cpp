// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// RoIAlign for any processor: the compiler maps the vectors to what the baseline has.
#include "roi_align_kernels.h"

#define MRCNN_EXT_SET_NAME "generic"
#define MRCNN_EXT_VECTOR_BYTES 16
#define MRCNN_EXT_VECTORS 8

namespace mrcnn_ext::generic {
#include "roi_align_kernels_impl.h"
}  // namespace mrcnn_ext::generic

