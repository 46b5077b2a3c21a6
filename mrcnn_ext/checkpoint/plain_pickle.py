# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Check that a pickle holds numpy arrays and plain containers only, without running any of it.

A pickle is a program: it names functions, which loading it calls. Here each name is looked up in the
short list below, and what stands behind it is a check of its arguments, not the real function.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from typing import IO

__all__ = ["check_plain_pickle"]

_DTYPE = re.compile(r"[<>|=]?([?biufcSU]\d{0,4}|V\d{1,4})")


class _Checked:
    """Stands for an object of numpy; has no attributes that a pickle could set."""

    __slots__ = ()

    def __setstate__(self, state) -> None:
        raise pickle.UnpicklingError(f"it sets the state of {type(self).__name__[1:]}")


class _Dtype(_Checked):
    """numpy.dtype: simple types only, since numpy trusts the state of others."""

    __slots__ = ("size",)

    def __init__(self, code: str) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"its arrays have the dtype {code!r:.60}")
        digits = re.sub(r"\D", "", code)
        self.size = int(digits or 1) * (4 if "U" in code else 1)

    def __setstate__(self, state) -> None:
        # version, byte order, no sub-dtype, names or fields, item size and alignment, flags
        good = isinstance(state, tuple) and len(state) == 8 and state[1] in ("<", ">", "|", "=")
        # Only texts keep their size in the state.
        sizes = ((-1, -1), (self.size, 4), (self.size, 1)) if good else ()
        if (
            not good
            or state[2:5] != (None,) * 3
            or state[5:7] not in sizes
            or state[7] not in (0, 8)
        ):
            raise pickle.UnpicklingError("its arrays have a dtype with an odd state")


class _Array(_Checked):
    """numpy.ndarray: bytes that fill the shape."""

    __slots__ = ()

    def __setstate__(self, state) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise pickle.UnpicklingError("its arrays have an odd state")
        shape, data = state[1], state[4]
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError(f"an array has the shape {shape!r:.60}")
        if isinstance(data, str):  # of Python 2
            data = data.encode("latin1")
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * state[2].size:
            raise pickle.UnpicklingError(f"an array's bytes do not fill its shape {shape!r:.60}")


class _NdarrayType(_Checked):
    __slots__ = ()


class _MakeArray(_Checked):
    """numpy.core.multiarray._reconstruct"""

    __slots__ = ()

    def __call__(self, kind, shape, code) -> _Array:
        if not isinstance(kind, _NdarrayType) or shape != (0,) or code not in ("b", b"b"):
            raise pickle.UnpicklingError("it makes arrays of an unknown kind")
        return _Array()


class _MakeDtype(_Checked):
    """numpy.dtype as a function"""

    __slots__ = ()

    def __call__(self, code, align=False, copy=False) -> _Dtype:
        return _Dtype(code)


class _MakeScalar(_Checked):
    """numpy.core.multiarray.scalar"""

    __slots__ = ()

    def __call__(self, dtype, data) -> float:
        _Array().__setstate__((1, (), dtype, False, data))
        return 0.0


class _FromBuffer(_Checked):
    """numpy.core.numeric._frombuffer: how protocol 5 writes arrays"""

    __slots__ = ()

    def __call__(self, data, dtype, shape, order, axes=None) -> _Array:
        array = _Array()
        array.__setstate__((1, shape, dtype, order, bytes(memoryview(data))))
        return array


class _Encode(_Checked):
    """_codecs.encode: how protocol 2 writes bytes"""

    __slots__ = ()

    def __call__(self, text, encoding) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError("it encodes something else than latin1 text")
        return text.encode("latin1")


class _MakeDict(_Checked):
    """collections.OrderedDict"""

    __slots__ = ()

    def __call__(self, *items) -> OrderedDict:
        return OrderedDict(*items)


_KNOWN: dict[tuple[str, str], type[_Checked]] = {
    ("numpy", "dtype"): _MakeDtype,
    ("numpy", "ndarray"): _NdarrayType,
    ("_codecs", "encode"): _Encode,
    ("collections", "OrderedDict"): _MakeDict,
}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _KNOWN[_core, "_reconstruct"] = _MakeArray
    _KNOWN[_core, "scalar"] = _MakeScalar
    _KNOWN[_core.replace("multiarray", "numeric"), "_frombuffer"] = _FromBuffer


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        try:
            return _KNOWN[module, name]()
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def check_plain_pickle(file: IO[bytes]) -> None:
    """Read a pickle as Detectron2 reads it (``encoding="latin1"``), but call nothing that it names.

    Args:
        file: open for reading; is read to the end of its first pickle, which is all that loads.

    Raises:
        pickle.UnpicklingError: it holds something else than numpy arrays of numbers and texts, dicts,
            lists, tuples, sets, numbers and texts; says what. Damaged files raise other errors, too.
    """
    _PlainUnpickler(file, encoding="latin1").load()
