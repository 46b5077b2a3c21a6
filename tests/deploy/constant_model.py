# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Files in the form of exported models, which find the same in every image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

INFO = {
    "package_version": "0",
    "model": {},
    "num_classes": 2,
    "classes": ["cat", "dog"],
    "category_ids": [7, 9],
    "pixel_format": "RGB",
    "pixel_mean": [0, 0, 0],
    "pixel_std": [1, 1, 1],
    "size_divisibility": 32,
    "resize": {"rule": "", "min_size": 50, "max_size": 80, "filter": "", "in_graph": False},
    "mask_threshold": 0.5,
    "keypoints": None,
    "skeletons": None,
}


def some_outputs(keypoints: int = 0) -> dict[str, np.ndarray]:
    """Two boxes in a resized image of 50 x 80, and one without an area."""
    generator = np.random.default_rng(0)
    outputs = {
        "boxes": np.array([[5, 5, 30, 40], [20.5, 10.25, 60.75, 49], [9, 9, 9, 20]], np.float32),
        "scores": np.array([0.9, 0.6, 0.4], np.float32),
        "classes": np.array([1, 0, 1], np.int64),
        "masks": generator.random((3, 1, 7, 7)).astype(np.float32),
    }
    if keypoints:
        outputs["keypoint_maps"] = generator.normal(0, 3, (3, keypoints, 8, 8)).astype(np.float32)
    return outputs


def write_model(path: Path, outputs: dict[str, np.ndarray], metadata=None, **info) -> Path:
    """A file with these outputs; ``metadata`` replaces all of its metadata."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    in_graph = {**INFO, **info}["resize"]["in_graph"]
    image = (
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["h", "w", 3])
        if in_graph
        else helper.make_tensor_value_info("image", TensorProto.FLOAT, [3, "h", "w"])
    )
    nodes, results = [], []
    for name, value in outputs.items():
        constant = numpy_helper.from_array(value)
        nodes.append(helper.make_node("Constant", [], [name], value=constant))
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        results.append(helper.make_tensor_value_info(name, kind, value.shape))
    graph = helper.make_graph(nodes, "constant", [image], results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata is None:
        metadata = {"mrcnn_ext_format": "1", "mrcnn_ext": json.dumps({**INFO, **info})}
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(path))
    return path
