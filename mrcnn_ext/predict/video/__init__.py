# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Videos: their frames with times, files that browsers play, ids that stay, steady keypoints."""
