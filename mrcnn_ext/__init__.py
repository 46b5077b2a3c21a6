# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""mrcnn_ext: backbones, RoI kernels, mask heads and keypoint heads for Mask R-CNN in Detectron2.

``import mrcnn_ext`` adds everything the package has to Detectron2's registries and catalogs. Nothing
of Detectron2 is patched.
"""

from __future__ import annotations

import importlib.util
import warnings

from ._moved import install_moved_modules
from ._version import __version__

__all__ = ["__version__", "add_mrcnn_ext_config"]

install_moved_modules()

_HOW_TO_GET = {
    "torch": "install PyTorch first: pip install torch torchvision",
    "detectron2": "install Detectron2 first: pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git', or run tools/build_detectron2.py "
    "of the mrcnn_ext repository",
    **{
        module: f"pip install {package}"
        for module, package in (
            ("fvcore", "fvcore"),
            ("iopath", "iopath"),
            ("omegaconf", "omegaconf"),
            ("pycocotools", "pycocotools"),
            ("cv2", "opencv-python"),
        )
    },
}
_missing = [name for name in _HOW_TO_GET if importlib.util.find_spec(name) is None]

if _missing:
    # A warning, not an error: ``python -m mrcnn_ext.doctor`` imports this package too, and it is
    # the tool that is to help here. Using anything of the package raises (see __getattr__).
    _message = f"mrcnn_ext registered nothing: {_missing[0]} is missing; {_HOW_TO_GET[_missing[0]]}"
    warnings.warn(_message, stacklevel=2)

    def __getattr__(name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(_message)

else:
    with warnings.catch_warnings():
        # Detectron2 and timm use torch.jit.script when they are imported, which new versions of
        # PyTorch deprecate. Users of this package can do nothing about it.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        # Imported for what they register.
        from . import checkpoint, data, modeling  # noqa: F401
        from .config.defaults import add_mrcnn_ext_config
