"""Writes the header of a GGUF file."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import gguf
from etils import epath

_TYPES = gguf.GGUFValueType
# bool first: it is an int to Python.
_KINDS = {
    bool: _TYPES.BOOL,
    int: _TYPES.UINT32,
    float: _TYPES.FLOAT32,
    str: _TYPES.STRING,
}
_ELEMENTS = {**_KINDS, int: _TYPES.INT32}  # as llama.cpp expects arrays


class Writer(gguf.GGUFWriter):
    """The package's writer, with arrays that may be empty.

    A tokenizer of bytes has no merges, and llama.cpp wants the list nevertheless.
    """

    def begin(self, path: epath.Path, metadata: Mapping[str, Any]) -> None:
        """Creates the file and writes everything before the tensors' data.

        Args:
            path: The file.
            metadata: The keys without `general.architecture`. Values are Python's, and
                lists of them; an empty list counts as one of strings.
        """
        for key, value in metadata.items():
            if isinstance(value, list):
                element = _ELEMENTS[type(value[0])] if value else _TYPES.STRING
                self.add_key_value(key, value, _TYPES.ARRAY, element)
            else:
                self.add_key_value(key, value, _KINDS[type(value)])
        self.write_header_to_file(pathlib.Path(os.fspath(path)))
        self.write_kv_data_to_file()
        self.write_ti_data_to_file()

    def _pack_val(
        self, val: Any, vtype: Any, add_vtype: bool, sub_type: Any = None
    ) -> bytes:
        if vtype == _TYPES.ARRAY and sub_type is not None and len(val) == 0:
            head = self._pack("I", vtype) if add_vtype else b""
            return head + self._pack("I", sub_type) + self._pack("Q", 0)
        return super()._pack_val(val, vtype, add_vtype, sub_type)
